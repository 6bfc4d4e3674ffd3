"""StepOPSD through RLlib with the embedded model: what the update is, and whose weights teach."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import GRPOConfig, StepOPSDConfig
from tests.helpers.dense import dense
from tests.helpers.houses import BARE

NUM_UPDATES = 3

pytestmark = pytest.mark.e2e

# Learners in processes of their own cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Spy(ConnectorV2):
    """Writes, before each update, digests of the module's models, and keeps the columns."""

    columns: dict[str, Any]

    def __init__(self, folder: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.folder = folder

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        Spy.columns = batch[DEFAULT_MODULE_ID]
        digests = {
            name: digest(model.state_dict()) if model is not None else ""
            for name, model in (
                ("policy", module.language_model),
                ("teacher", module.teacher),
                ("reference", module.reference),
            )
        }
        with (Path(self.folder) / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(digests) + "\n")
        return batch


def digest(weights: dict[str, torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(weights[name].detach().cpu().numpy().tobytes())
    return whole.hexdigest()


def seen(folder: Path) -> list[list[dict[str, str]]]:
    """What each learner's spy wrote."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    ]


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def config_of(algorithm: type[GRPOConfig], spy: Path | None = None, **keys: Any) -> GRPOConfig:
    config = algorithm().environment("stepopsd/ALFWorld-v0", env_config={**BARE, "max_turns": 12})
    config.agent(
        model="tiny",
        sampler="transformers",
        group_size=4,
        groups_per_step=4,
        max_response_tokens=12,
        max_context_tokens=640,
    )
    config.training(lr=3e-4, kl_coeff=0.0, entropy_coeff=0.0, weight_decay=0.0)
    config.update_from_dict(keys)
    if spy is not None:
        config.learners(learner_connector=lambda *_: Spy(str(spy)))
    return config


def trained(config: GRPOConfig, num_updates: int = NUM_UPDATES) -> tuple[str, list[dict], Path]:
    """Digest of the weights after some updates, the learner's results, the run folder."""
    algorithm = config.build_algo()
    try:
        results = [algorithm.train()["learners"][DEFAULT_MODULE_ID] for _ in range(num_updates)]
        weights = algorithm.learner_group.foreach_learner(
            lambda learner: digest(learner.sampler_weights())
        )
        return next(iter(weights)).get(), results, algorithm.run_folder()
    finally:
        algorithm.stop()


@pytest.fixture(scope="module")
def grpo_weights() -> str:
    return trained(config_of(GRPOConfig))[0]


@pytest.mark.parametrize(
    "keys",
    [
        {"lambda_mix": 0.0, "score_all": True},
        {"alpha_clip": 0.0, "score_all": True},
        {"hindsight": "none", "teacher": "live"},
        {"hindsight": "none", "teacher_refresh_interval": 1, "hindsight_position": "prefix"},
    ],
    ids=["lambda", "alpha", "gap_live", "gap_fresh"],
)
def test_without_shaping_the_update_is_grpos_bit_for_bit(grpo_weights, keys):
    weights, results, _ = trained(config_of(StepOPSDConfig, **keys))
    assert weights == grpo_weights
    assert all(result["effect_size"] == 0 for result in results)
    if "score_all" in keys:
        assert results[-1]["gap_std"] > 0


def test_with_shaping_the_update_is_another_and_the_same_for_the_same_seed(grpo_weights, tmp_path):
    first, results, folder = trained(config_of(StepOPSDConfig, credit_trace_interval=1))
    again, same_results, _ = trained(config_of(StepOPSDConfig, credit_trace_interval=1))
    assert first != grpo_weights
    assert first == again
    names = ("gap_std", "effect_size", "gap_p95", "policy_loss", "hindsight_tokens_mean")
    assert [[r[name] for name in names] for r in results] == [
        [r[name] for name in names] for r in same_results
    ]
    assert 0 < results[0]["effect_size"] <= 0.196 * 0.2 * 1.05
    assert [r["lambda"] for r in results] == pytest.approx([0.196, 0.192, 0.188])
    records = [json.loads(line) for line in (folder / "credit.jsonl").read_text().splitlines()]
    assert {record["update"] for record in records} == {1, 2, 3}
    assert any(d != 0 for r in records for turn in r["turns"] for d in turn["log_prob_gap"])
    for r in records:
        for turn in r["turns"]:
            pairs = zip(turn["group_advantage"], turn["advantage"], strict=True)
            assert all(before * after > 0 or before == after == 0 for before, after in pairs)


def test_the_update_in_minibatches_of_turn_rows_is_grpos_too():
    keys = {"context": "window", "minibatch_size": 16, "entropy_coeff": 0.01}
    weights, _, _ = trained(config_of(GRPOConfig, **keys), 2)
    shaped, _, _ = trained(config_of(StepOPSDConfig, **keys, lambda_mix=0.0, score_all=True), 2)
    other, results, _ = trained(config_of(StepOPSDConfig, **keys), 2)
    assert shaped == weights != other
    # The old policy's log-probs are there already.
    assert [r["student_tokens_forwarded"] for r in results] == [0, 0]
    assert sum(r["teacher_tokens_forwarded"] for r in results) > 0


@pytest.mark.parametrize("interval", [2])
def test_the_teacher_is_the_policy_of_the_last_refresh(tmp_path, interval):
    _, results, _ = trained(
        config_of(StepOPSDConfig, tmp_path, teacher_refresh_interval=interval, kl_coeff=0.01),
        num_updates=4,
    )
    (updates,) = seen(tmp_path)
    for t in range(4):
        assert updates[t]["teacher"] == updates[t // interval * interval]["policy"]
        assert updates[t]["reference"] == updates[0]["policy"]
    assert len({update["policy"] for update in updates}) == 4
    assert results[1]["kl_to_reference"] > 0
    assert [r["teacher_version"] for r in results] == [
        (t + 1) // interval * interval for t in range(4)
    ]


def test_the_teacher_survives_a_restore(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    algorithm = config_of(StepOPSDConfig, before, teacher_refresh_interval=2).build_algo()
    for _ in range(3):
        algorithm.train()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    algorithm.stop()
    restored = config_of(StepOPSDConfig, after, teacher_refresh_interval=2).build_algo()
    restored.restore_from_path(checkpoint)
    actual = restored.train()["learners"][DEFAULT_MODULE_ID]
    restored.stop()
    (original,), (resumed,) = seen(before), seen(after)
    assert resumed == original[3:]
    assert resumed[0]["teacher"] == original[2]["policy"] != resumed[0]["policy"]
    for name in ("gap_std", "policy_loss", "effect_size", "teacher_version", "lambda"):
        assert actual[name] == pytest.approx(expected[name], rel=0, abs=0, nan_ok=True), name


@pytest.mark.parametrize("anchor", ["initial", "teacher"])
def test_the_kl_anchor_moves_only_where_that_is_asked_for(tmp_path, anchor):
    keys = {"kl_reference": anchor, "kl_coeff": 0.01, "teacher_refresh_interval": 2}
    _, results, _ = trained(config_of(StepOPSDConfig, tmp_path, **keys))
    kl = [r["kl_to_reference"] for r in results]
    assert kl[0] == pytest.approx(0, abs=1e-9) and kl[1] > 1e-9
    assert (kl[2] < 1e-9) == (anchor == "teacher")
    (updates,) = seen(tmp_path)
    assert {u["reference"] for u in updates} == (
        {updates[0]["policy"]} if anchor == "initial" else {""}
    )


def test_two_learners_have_one_teacher_and_one_policy(tmp_path):
    keys = {"teacher_refresh_interval": 2, "num_learners": 2}
    _, results, _ = trained(config_of(StepOPSDConfig, tmp_path, **keys))
    learners = seen(tmp_path)
    assert len(learners) == 2
    assert learners[0] == learners[1]
    policies = [update["policy"] for update in learners[0]]
    assert [update["teacher"] for update in learners[0]] == [policies[0], policies[0], policies[2]]
    assert len(set(policies)) == 3
    assert results[0]["effect_size"] > 0


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("mode", ["action_only", "clean_step_no_observation"])
def test_spans_are_exact_on_sampled_tokens(tmp_path, context, mode):
    config = config_of(StepOPSDConfig, tmp_path, context=context, span_mode=mode)
    trained(config, 1)
    columns, decode = dense(Spy.columns), config.chat_format().text
    spans = responses = 0
    for b in range(len(columns["lengths"])):
        for k in columns["turn_index"][b].unique().tolist():
            if k < 0:
                continue
            response_ids = columns["input_ids"][b][columns["turn_index"][b] == k].tolist()
            span_ids = columns["input_ids"][b][columns["step_index"][b] == k].tolist()
            responses += 1
            if mode == "clean_step_no_observation":
                assert span_ids == response_ids
            elif "</action>" in decode(response_ids):
                text = decode(span_ids)
                assert text.startswith("<action>") and text.endswith("</action>")
                assert text in decode(response_ids)
                spans += 1
            else:
                assert span_ids == []
    assert responses > 16
    assert mode != "action_only" or spans > 16


def test_golden_hindsight_reaches_every_episode_and_only_where_there_is_some():
    _, results, _ = trained(config_of(StepOPSDConfig, hindsight="golden", score_all=True), 1)
    assert results[0]["hindsight_share"] == results[0]["hindsight_arrived_share"] == 1.0
    assert results[0]["gap_std"] > 0
    config = config_of(StepOPSDConfig, hindsight="golden").environment(
        "tests.helpers.houses:houses/NoGoldenALFWorld-v0"
    )
    with pytest.raises(ValueError, match=r"config\.hindsight='golden'.*no golden rollout.*peer"):
        config.build_algo()


def test_diagnostics_name_every_task_type_and_come_with_histograms():
    _, results, _ = trained(config_of(StepOPSDConfig, lambda_decay_steps=3), 3)
    first, last = next(r for r in results if r["num_scored_tokens"] > 0), results[-1]
    assert len(first["gap_histogram"]) == len(first["weight_histogram"]) == 101
    assert first["gap_histogram"] == sorted(first["gap_histogram"])
    assert first["gap_min"] == pytest.approx(first["gap_histogram"][0])
    assert first["task_type"]
    told = [t for t in first["task_type"].values() if "gap_std" in t]
    assert told and all(t.keys() >= {"gap_mean", "clipped_share", "effect_size"} for t in told)
    # Plain GRPO from update D on: nothing is scored, and nothing old is reported as new.
    assert last["lambda"] == last["effect_size"] == last["num_scored_tokens"] == 0
    assert last["teacher_tokens_forwarded"] == 0
    assert not last["gap_histogram"]
    assert last["gap_std"] != last["gap_std"]
