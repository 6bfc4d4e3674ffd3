"""Every method trains on both tiny environments and says what it did; two of them are compared."""

import math
from pathlib import Path

import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID

import stepopsd_cli
from stepopsd_rllib.commands import tuned

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
ITERATIONS = 3
SMALL = ["groups_per_step=3", "group_size=4", "evaluation_interval="]
DIAGNOSTICS = {
    "sdar/{env}_tiny": ("distillation_loss", "gate_mean", "gate_active_share", "skill_share"),
    "opsd/{env}_tiny": ("distillation_loss", "teacher_gap_mean", "teacher_top_share"),
    "opsd/{env}_tiny_grpo": ("distillation_loss", "teacher_top_share"),
    "sdar/{env}_tiny_opsd_as_coded": ("distillation_loss", "gate_mean"),
    "sdar/{env}_tiny_grpo_opsd_as_coded": ("distillation_loss", "gate_mean"),
    "skill_sd/{env}_tiny": ("distillation_loss", "teacher_gap_square_mean"),
    "skill_grpo/{env}_tiny": ("policy_loss",),
    "rlsd/{env}_tiny": ("lambda", "effect_size", "teacher_version"),
    "agentopsd/{env}_tiny": ("lambda", "effect_size", "teacher_tokens_forwarded"),
    "gigpo/{env}_tiny": ("anchor_shared_turn_share", "step_advantage_magnitude"),
    "hgpo/{env}_tiny": ("history_shared_turn_share", "step_advantage_magnitude"),
    "graphgpo/{env}_tiny": ("goal_distance_mean", "nearing_turn_share"),
    "g2po/{env}_tiny": ("state_value_mean", "step_advantage_magnitude"),
    "opid/{env}_tiny": ("skill_available_share", "skill_share", "step_skill_turn_share"),
    "grsd/{env}_tiny": ("guided_group_share", "lambda"),
    "adrs/{env}_tiny": ("teacher_reward_weight",),
    "ucob/{env}_tiny": ("distillation_loss", "taught_turn_share", "taught_by_informed_share"),
    "serl/{env}_tiny": ("told_turn_share", "action_turn_share", "selected_fraction", "lambda"),
    "icsd/{env}_tiny": ("distillation_loss", "gate_mean", "skill_share"),
    "seed/{env}_tiny": ("distillation_loss", "gate_mean", "skill_available_share"),
    "stepopsd/{env}_tiny": ("lambda", "effect_size", "hindsight_share"),
}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("env", ["alfworld", "search_qa"])
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_a_method_trains_and_logs_its_diagnostics(name, env, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = f"tuned_examples/{name.format(env=env)}.yaml"
    overrides = [*SMALL, *(["env_config.max_turns=10"] if env == "alfworld" else [])]
    (config,) = tuned.configs(tuned.read(path, overrides))
    algorithm = config.build_algo()
    try:
        for _ in range(ITERATIONS):
            results = algorithm.train()
            learner = results["learners"][DEFAULT_MODULE_ID]
            assert all(math.isfinite(learner[key]) for key in DIAGNOSTICS[name])
            assert math.isfinite(learner["total_loss"])
    finally:
        algorithm.stop()


def test_a_comparison_runs_and_is_shown_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    ray.shutdown()
    path = tmp_path / "tiny.yaml"
    small = "groups_per_step: 2, group_size: 3"
    path.write_text(
        "tiny:\n  base: tuned_examples/grpo/alfworld_tiny.yaml\n  seeds: [0, 1]\n"
        "  stop: {training_iteration: 1}\n"
        "  config: {evaluation_interval: 1, eval_num_tasks: 6}\n  methods:\n"
        f"    GRPO: {{{small}}}\n    GiGPO: {{{small}}}\n"
        # Sampler and learner never agree to the last bit, so that this one dies.
        f"    broken: {{run: GRPO, max_sampler_difference: 0.0, {small}}}\n"
    )
    assert stepopsd_cli.main(["compare", str(path), "--storage", str(tmp_path)]) == 1
    first = capsys.readouterr().out
    assert f"failed: broken_seed0: {tmp_path}/tiny/broken_seed0/error.txt" in first
    assert (tmp_path / "tiny/broken_seed0/error.txt").is_file()
    assert "minus GRPO, paired" in first
    assert (tmp_path / "tiny" / "comparison.png").is_file()
    assert len(list((tmp_path / "tiny").glob("G*_seed*/evaluation.jsonl"))) == 4
    assert stepopsd_cli.main(["compare", str(tmp_path / "tiny")]) == 0
    assert capsys.readouterr().out.strip() in first
