"""The contents page of the learner's pipeline, against what every method's pipeline produces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.connectors.columns import PAGE
from stepopsd_rllib.connectors.learner_connector import LearnerConnector
from stepopsd_rllib.episodes import to_rllib
from tests.helpers.agents import build_learner
from tests.helpers.methods import ACTIVE, method_config, method_groups

METHODS = {
    "GRPO": {"num_epochs": 2, "kl_coeff": 0.01},
    "SkillGRPO": {},
    **ACTIVE,
    "UCOB": {**ACTIVE["UCOB"], "step_weight": 1.0},
}


@pytest.fixture(scope="module")
def run() -> Any:
    """Columns of a method's pipeline, and the records of its trace, made once."""
    made: dict[tuple[str, str], tuple[dict, list]] = {}

    def columns_of(name: str, context: str) -> tuple[dict, list]:
        if (name, context) not in made:
            config = method_config(name, METHODS[name], context)
            learner = build_learner(config)
            episodes = [to_rllib(e) for group in method_groups(context) for e in group]
            pipeline: Any = learner._learner_connector
            batch: dict[str, Any] = {}
            shared: dict[str, Any] = {}
            for piece in pipeline.connectors:
                if isinstance(piece, LearnerConnector):
                    batch = piece(
                        rl_module=learner.module, batch=batch, episodes=episodes, shared_data=shared
                    )
            made[name, context] = (batch[DEFAULT_MODULE_ID], learner.take_credit_records())
        return made[name, context]

    return columns_of


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("name", METHODS)
def test_every_column_is_on_the_page_with_its_dtype_and_axes(name, context, run):
    columns, _ = run(name, context)
    taught = columns.get("taught_top_ids")
    sizes = {
        "B": len(columns["lengths"]),
        "L": int(columns["lengths"].sum()),
        "R": int(columns["response_mask"].sum()),
    }
    if taught is not None:
        sizes |= {"P": taught.shape[0], "K": taught.shape[1]}
    for column, values in columns.items():
        assert column in PAGE, f"{column} is missing on the page"
        assert values.dtype == PAGE[column].dtype, column
        assert tuple(values.shape) == tuple(sizes[axis] for axis in PAGE[column].axes), column


def test_nothing_on_the_page_is_written_by_no_method(run):
    written = {column for name in METHODS for column in run(name, "append")[0]}
    assert written == set(PAGE)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_a_trace(name, run):
    columns, records = run(name, "append")
    assert json.loads(json.dumps(records))[0]["schema"] == 4
    for record in records:
        assert record["won"] in (True, False) and record["final_observation"]
        for turn in record["turns"]:
            size = len(turn["tokens"])
            assert len(turn["advantage"]) == len(turn["group_advantage"]) == size
            assert turn["prompt"] and turn["prompt_kept"] == 0
            assert ("log_prob_gap" in turn) == ("log_prob_gap" in columns)
            assert ("teacher_log_prob" in turn) == ("teacher_log_probs" in columns)
            assert turn["response"] and turn["observation"]
    shapes = "group_advantages" in columns
    changed = any(t["advantage"] != t["group_advantage"] for r in records for t in r["turns"])
    untouched = ("GRPO", "SkillGRPO", "SDAR", "OPSD", "SkillSD", "ICSD", "SEED")
    assert shapes == (name not in untouched)
    # RLSD, AgentOPSD and ADRS among them: what was shaped is to be seen in the trace.
    assert changed <= shapes
    assert changed or name not in ("RLSD", "AgentOPSD", "ADRS", "GiGPO", "OPID", "StepOPSD")


class Named(LearnerConnector):
    """A piece with a name."""

    def __init__(self, name: str, *, size: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.name, self.size = name, size

    def fill(self, batch: Any) -> None:
        del batch


class Inherited(Named):
    """A piece that takes what its base takes."""


class Deeper(Named):
    """A piece with arguments of its own."""

    def __init__(self, *, depth: int, **kwargs: Any):
        super().__init__("deep", **kwargs)
        self.depth = depth


@pytest.mark.parametrize(
    "piece",
    [Named("a", size=2), Inherited("b", size=3), Deeper(depth=4, size=5)],
    ids=lambda p: type(p).__name__,
)
def test_a_connector_is_restored_with_the_arguments_that_it_was_made_with(piece, tmp_path):
    piece.save_to_path(tmp_path)
    restored = type(piece).from_checkpoint(tmp_path)
    assert type(restored) is type(piece)
    own = {"name", "size", "depth"}
    assert {k: v for k, v in vars(restored).items() if k in own} == {
        k: v for k, v in vars(piece).items() if k in own
    }
