"""A large batch takes the memory of its tokens, not of as many rows as the longest."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import RLSDConfig
from stepopsd_rllib.connectors.group_advantages import GroupAdvantages
from stepopsd_rllib.connectors.row_batch import RowBatch
from stepopsd_rllib.connectors.token_batch import TokenBatch
from stepopsd_rllib.episodes import AgentEpisode, Status, Turn, to_rllib
from stepopsd_rllib.episodes.packing import micro_batches
from tests.helpers.dense import dense

EPISODES, GROUP, TURNS, TOKENS, SAMPLED = 128, 8, 50, 2560, 100
BOUND = 200 * 2**20  # bytes; the ids are 66 MB, and the padded columns 570
PEAK = Path("/proc/self/clear_refs")


def episodes() -> list[AgentEpisode]:
    """Rebuilt prompts of unequal length; all turns share their arrays."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 150_000, TOKENS - SAMPLED, dtype=np.int32)
    response = rng.integers(0, 150_000, SAMPLED, dtype=np.int32)
    log_probs = np.full(SAMPLED, -1.0, dtype=np.float32)

    def turn(k: int, reward: float) -> Turn:
        return Turn(
            prompt_ids=prompt,
            response_ids=response,
            behaviour_log_probs=log_probs,
            observation="",
            response="",
            action="",
            is_action_valid=True,
            reward=reward,
            finish_reason="stop",
            weights_version=0,
        )

    return [
        AgentEpisode(
            task_id=str(n // GROUP),
            task_type="",
            group=n // GROUP,
            rollout=n % GROUP,
            seed=n,
            context="window",
            status=Status.SUCCESS,
            won=True,
            turns=tuple(turn(k, float(k == 0 and n % 2)) for k in range(TURNS)),
        )
        for n in range(EPISODES)
    ]


def resident(name: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at their peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def growth(make: Any) -> tuple[int, Any]:
    """By how much a call raises the peak above what there was before, and what it gave."""
    gc.collect()
    PEAK.write_text("5")  # the peak is now what there is now
    before = resident("VmRSS")
    made = make()
    return resident("VmHWM") - before, made


def an_update_but_for_the_model(recorded: list[Any]) -> dict[str, torch.Tensor]:
    """Columns of a batch and a method's credit, then every micro-batch of it."""
    columns: dict[str, torch.Tensor] = {}
    batch, shared = {DEFAULT_MODULE_ID: columns}, {}
    pieces = [
        TokenBatch(),
        GroupAdvantages(statistics="episodes", normalize=True, eps=1e-6, penalty=0.1),
    ]
    for piece in pieces:
        piece(rl_module=None, batch=batch, episodes=recorded, shared_data=shared)
    columns["log_prob_gap"] = torch.ones_like(columns["advantages"])
    columns["is_scored"] = torch.ones_like(columns["advantages"], dtype=torch.bool)
    shaping = RLSDConfig().credit_connectors()[0]
    shaping(rl_module=None, batch=batch, episodes=recorded, shared_data=shared)
    rows = RowBatch(columns)
    for part in micro_batches(columns["lengths"], max_tokens=16_384):
        rows.padded(part, "cpu")
    return columns


@pytest.mark.skipif(not PEAK.exists(), reason="peak memory can be reset on Linux alone")
def test_a_step_of_16_million_tokens_holds_no_padded_columns():
    recorded = [to_rllib(episode) for episode in episodes()]
    assert EPISODES * TURNS * TOKENS == 16_384_000
    taken, columns = growth(lambda: an_update_but_for_the_model(recorded))
    assert len(columns["input_ids"]) == EPISODES * TURNS * TOKENS
    assert taken < BOUND, f"{taken / 2**20:.0f} MiB"
    padded, _ = growth(lambda: dense(columns))
    assert padded > BOUND, "the measure sees the padded form"
