"""One batch ahead: handed over once, with what was raised, never two and never lost in silence."""

import threading

import pytest

from stepopsd_rllib import GRPOConfig, StepOPSDConfig
from stepopsd_rllib.training.sampling_ahead import SamplingAhead

BESIDE = {"off_policy_steps": 1}
REMOTE = {"num_env_runners": 1}


def test_a_batch_is_sampled_beside_what_runs_meanwhile_and_handed_over_once():
    ahead, go_on = SamplingAhead[str](), threading.Event()
    ahead.start(lambda: "batch" if go_on.wait(10) else "never")
    assert ahead.is_running
    go_on.set()
    assert ahead.wait() == "batch" and not ahead.is_running
    assert ahead.take() == "batch"
    assert ahead.take() is None and ahead.wait() is None


def test_a_second_batch_would_lose_the_first():
    ahead = SamplingAhead[int]()
    ahead.start(lambda: 1)
    with pytest.raises(RuntimeError, match="has not been taken"):
        ahead.start(lambda: 2)
    assert ahead.take() == 1


def test_what_sampling_raised_reaches_the_one_who_takes():
    ahead = SamplingAhead[int]()
    ahead.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ahead.take()
    assert ahead.take() is None


def test_a_batch_of_a_checkpoint_takes_the_place_of_another():
    ahead = SamplingAhead[int]()
    ahead.start(lambda: 1)
    ahead.drop()
    ahead.hold(2)
    assert ahead.take() == 2


@pytest.mark.parametrize(
    ("config", "agent", "training", "runners", "said"),
    [
        (GRPOConfig, BESIDE, {"old_log_probs": "sampler"}, {}, "off_policy_steps=1 with num_env_r"),
        (GRPOConfig, BESIDE, {}, REMOTE, "off_policy_steps=1 with old_log_probs='learner'"),
        (
            GRPOConfig,
            BESIDE | {"sampler": "vllm", "sampler_config": {"enable_sleep_mode": True}},
            {"old_log_probs": "sampler"},
            REMOTE,
            "off_policy_steps=1 with a sleeping engine",
        ),
        (
            StepOPSDConfig,
            BESIDE,
            {"old_log_probs": "sampler", "student_log_probs": "rollout", "teacher": "live"},
            REMOTE,
            "teacher's weights would be an update ahead",
        ),
        (GRPOConfig, {"off_policy_steps": 2}, {}, REMOTE, "off_policy_steps=2: .*0 or 1"),
        (GRPOConfig, {"off_policy_steps": True}, {}, REMOTE, "off_policy_steps=True"),
    ],
)
def test_what_cannot_run_beside_an_update_is_refused(config, agent, training, runners, said):
    ours = config().environment("stepopsd/ALFWorld-v0", env_config={"size": "tiny"})
    with pytest.raises(ValueError, match=said):
        ours.agent(**agent).training(**training).env_runners(**runners).validate()
