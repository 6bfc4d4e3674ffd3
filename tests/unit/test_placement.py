"""Who has a GPU, in which arithmetic the two sides compute, and which shares of GPUs can work."""

from __future__ import annotations

import pytest

from stepopsd_rllib.models.memory import engine_share
from stepopsd_rllib.training import placement
from stepopsd_rllib.training.placement import (
    check_placement,
    learner_growth,
    runner_has_gpu,
    sampler_dtype,
    sampler_kind,
    shares_gpu,
)
from stepopsd_rllib.training.resource_plan import plan_of
from tests.helpers.agents import build_learner, small_config


def placed(**keys):
    config = small_config(sampler=keys.pop("sampler", "auto"))
    for key, value in keys.items():
        setattr(config, key, value)
    return config


def test_the_sampler_computes_as_the_learner_does_wherever_it_runs():
    on_cpu = placed()  # the first page's command on a machine with a GPU
    assert (sampler_dtype(on_cpu), on_cpu.sampler_difference_limit()) == ("float32", 1e-3)
    on_gpu = placed(num_gpus_per_learner=1)
    assert (sampler_dtype(on_gpu), on_gpu.sampler_difference_limit()) == ("bfloat16", 0.1)


def test_the_coarser_side_sets_the_limit_of_the_difference():
    mixed = placed(sampler_config={"dtype": "bfloat16"})
    assert mixed.learner_dtype() == "float32"
    assert mixed.sampler_difference_limit() == 0.1


def test_the_sampler_that_is_made_has_the_learners_arithmetic():
    config = placed(sampler="transformers")
    config.agent(autocast_dtype="bfloat16")
    sampler = config.make_sampler()
    assert str(sampler._model.dtype) == "torch.bfloat16"  # type: ignore[attr-defined]
    sampler.close()


@pytest.mark.parametrize(
    ("keys", "has_gpu", "shares"),
    [
        ({}, False, False),
        ({"num_gpus_per_learner": 1}, True, True),
        ({"num_gpus_per_learner": 1, "num_learners": 1}, False, False),
        ({"num_env_runners": 1, "num_gpus_per_learner": 1}, False, False),
        ({"num_env_runners": 1, "num_gpus_per_env_runner": 1}, True, False),
        (
            {
                "num_env_runners": 1,
                "num_learners": 1,
                "num_gpus_per_env_runner": 0.6,
                "num_gpus_per_learner": 0.4,
            },
            True,
            True,
        ),
    ],
)
def test_a_runner_has_the_gpu_that_it_or_its_process_asked_for(keys, has_gpu, shares):
    config = placed(**keys)
    assert runner_has_gpu(config) == has_gpu
    assert shares_gpu(config) == shares


@pytest.mark.parametrize(
    ("build", "has_gpu", "auto", "is_refused"),
    [
        ("cpu", False, "vllm", False),
        ("gpu", True, "vllm", False),
        ("gpu", False, "transformers", True),
        ("cpu", True, "transformers", False),  # a config for another machine may be checked here
        (None, False, "transformers", True),
    ],
)
def test_auto_takes_vllm_where_a_build_for_the_device_is(
    monkeypatch, build, has_gpu, auto, is_refused
):
    monkeypatch.setattr(placement, "vllm_build", lambda: build)
    config = placed(num_gpus_per_learner=int(has_gpu))
    assert sampler_kind(config) == auto
    config.sampler = "vllm"
    if not is_refused:
        assert sampler_kind(config) == "vllm"
        return
    with pytest.raises(ValueError, match=r"config\.sampler='vllm': "):
        sampler_kind(config)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_gpus_per_learner": 2}, "num_gpus_per_learner=2: a model and its engine"),
        ({"num_learners": 2, "num_gpus_per_learner": 0.5}, "each learner needs a GPU of its own"),
        (
            {
                "num_learners": 2,
                "num_env_runners": 2,
                "num_gpus_per_learner": 0.5,
                "num_gpus_per_env_runner": 0.5,
            },
            r"num_gpus_per_env_runner=0\.6 and num_gpus_per_learner=0\.4",
        ),
        (
            {
                "num_learners": 1,
                "num_env_runners": 1,
                "num_gpus_per_learner": 0.6,
                "num_gpus_per_env_runner": 0.6,
            },
            "do not fit one GPU together",
        ),
    ],
)
def test_shares_that_ray_would_place_wrongly_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        check_placement(placed(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"num_learners": 2, "num_gpus_per_learner": 1},
        {"num_env_runners": 2, "num_gpus_per_env_runner": 0.5},
        {
            "num_learners": 2,
            "num_env_runners": 2,
            "num_gpus_per_learner": 0.4,
            "num_gpus_per_env_runner": 0.6,
        },
    ],
)
def test_shares_that_work_pass(keys):
    check_placement(placed(**keys))


def test_an_engine_beside_a_learner_leaves_room_for_what_the_learner_will_take():
    gb = 10**9
    share = engine_share(free=60 * gb, total=80 * gb, reserved=30 * gb)
    assert share == pytest.approx(30 / 80)
    assert engine_share(free=80 * gb, total=80 * gb, reserved=0) == 0.92
    with pytest.raises(ValueError, match="gpu_memory_utilization: engine and learner share a GPU"):
        engine_share(free=30 * gb, total=80 * gb, reserved=29 * gb)


def test_layers_are_recomputed_by_default_where_the_learner_has_a_gpu():
    assert not placed().uses_checkpointing()
    assert placed(num_gpus_per_learner=1).uses_checkpointing()
    assert not placed(num_gpus_per_learner=1, gradient_checkpointing=False).uses_checkpointing()


def test_both_heads_compute_in_float32_or_neither():
    config = placed(sampler_config={"dtype": "bfloat16"})
    assert config.head_options() == {"hf_overrides": {"head_dtype": "float32"}}
    config.agent(head_dtype="model")
    assert config.head_options() == {}
    assert placed().head_options() == {}


def test_gradients_of_several_learners_live_in_the_buffers_they_are_exchanged_in():
    assert placed().torch_ddp_kwargs == {"gradient_as_bucket_view": True}


def test_the_optimizer_of_a_cpu_is_the_one_it_always_was():
    optimizer = build_learner(small_config()).get_optimizer("default_policy")
    assert optimizer.param_groups[0]["fused"] is None


def test_an_engine_sleeps_only_beside_a_learner_on_its_gpu(monkeypatch):
    monkeypatch.setattr(placement, "vllm_build", lambda: "gpu")
    asleep = {"enable_sleep_mode": True}
    together = placed(num_gpus_per_learner=1, sampler_config=asleep)
    check_placement(together)
    assert together.engine_sleeps()
    apart = placed(
        num_env_runners=1, num_gpus_per_env_runner=1, num_learners=1, num_gpus_per_learner=1
    )
    apart.sampler_config = asleep
    with pytest.raises(ValueError, match="enable_sleep_mode=True: the engine sleeps so that"):
        check_placement(apart)


def test_an_engine_that_sleeps_may_take_what_an_update_needs(monkeypatch):
    monkeypatch.setattr(placement, "vllm_build", lambda: "gpu")
    awake = placed(num_gpus_per_learner=1)
    asleep = placed(num_gpus_per_learner=1, sampler_config={"enable_sleep_mode": True})
    assert learner_growth(asleep) < learner_growth(awake) - asleep.micro_batch_tokens * 1000


def on(monkeypatch, gpus, build="gpu"):
    monkeypatch.setattr(placement, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(placement, "vllm_build", lambda: build)


@pytest.mark.parametrize(
    ("chosen", "gpus", "processes", "shares", "sleeps"),
    [
        ("auto", 0, (0, 0), (0, 0), False),
        ("auto", 1, (0, 0), (0, 1), True),
        ("colocated", 4, (4, 4), (0.6, 0.4), True),
        ("split", 2, (1, 1), (1, 1), False),
        ("split", 5, (3, 2), (1, 1), False),
        ("split", 14, (8, 6), (1, 1), False),  # 60 groups do not divide over 7 learners
    ],
)
def test_one_config_serves_a_laptop_one_gpu_and_eight(
    chosen, gpus, processes, shares, sleeps, monkeypatch
):
    on(monkeypatch, gpus, build="gpu" if gpus else "cpu")
    config = placed()
    config.agent(placement=chosen, groups_per_step=60)
    config.validate()
    config.validate()  # RLlib validates several times, and copies
    config.copy(copy_frozen=False).validate()
    assert (config.num_env_runners, config.num_learners) == processes
    assert (config.num_gpus_per_env_runner, config.num_gpus_per_learner) == shares
    assert config.engine_sleeps() == sleeps


@pytest.mark.parametrize(
    ("wide", "gpus", "processes"),
    [(2, 3, (1, 1)), (2, 4, (1, 2)), (2, 8, (2, 4)), (4, 5, (1, 1)), (4, 16, (2, 6))],
)
def test_an_engine_over_several_gpus_has_them_alone(wide, gpus, processes, monkeypatch):
    on(monkeypatch, gpus)
    config = placed(sampler_config={"tensor_parallel_size": wide})
    config.agent(placement="auto", groups_per_step=60)
    config.validate()
    assert (config.num_env_runners, config.num_learners) == processes
    assert (config.num_gpus_per_env_runner, config.num_gpus_per_learner) == (wide, 1)
    assert not config.engine_sleeps()
    one = placed(num_env_runners=1, num_gpus_per_env_runner=1, num_gpus_per_learner=1)
    assert engine_weights(config) == pytest.approx(engine_weights(one) / wide)


def engine_weights(config):
    return next(p for p in plan_of(config).processes if p.name == "runner").memory["weights"]


@pytest.mark.parametrize(
    ("keys", "wide", "message"),
    [
        ({"num_gpus_per_learner": 1}, 2, "num_env_runners=0 and num_gpus_per_env_runner=0: the"),
        (
            {"num_env_runners": 1, "num_gpus_per_env_runner": 1},
            2,
            r"tensor_parallel_size=2 .* Set num_gpus_per_env_runner=2 and num_env_runners=1 or",
        ),
        ({}, 3, "tensor_parallel_size=3: the model's 4 attention heads cannot be shared out"),
        ({}, "two", "tensor_parallel_size='two': must be a whole number of GPUs, at least 1"),
        ({"placement": "colocated"}, 2, "placement='colocated' on 4 GPUs: an engine over several"),
        ({"placement": "auto"}, 4, r"on 4 GPUs: .* Use placement='split' on 5 GPUs or more"),
    ],
)
def test_an_engine_that_cannot_spread_is_refused(keys, wide, message, monkeypatch):
    on(monkeypatch, 4)
    keys = dict(keys)
    chosen = keys.pop("placement", "keys")
    config = placed(**keys, sampler_config={"tensor_parallel_size": wide})
    config.agent(placement=chosen, groups_per_step=60)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_a_config_placed_on_this_machine_can_be_planned_for_another(monkeypatch):
    on(monkeypatch, 1)
    config = placed()
    config.agent(placement="auto")
    config.validate()
    placement.place_on(config, 4)
    assert (config.num_learners, config.num_gpus_per_learner) == (4, 0.4)


@pytest.mark.parametrize(
    ("chosen", "gpus", "keys", "message"),
    [
        ("auto", 4, {"num_learners": 2}, r"chooses num_learners=4, and the config says 2\. Leave"),
        ("split", 1, {}, r"placement='split' needs a GPU for the learner"),
        ("evenly", 1, {}, r"placement='evenly' is none of|must be one of|placement='evenly'"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(chosen, gpus, keys, message, monkeypatch):
    on(monkeypatch, gpus)
    config = placed(**keys)
    with pytest.raises(ValueError, match=message):
        config.agent(placement=chosen)
        config.validate()
