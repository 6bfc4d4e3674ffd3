"""Means, maxima and losses that no split into micro-batches or learners can change."""

from __future__ import annotations

import math

import pytest
import torch

from stepopsd_rllib.training.metric_sums import MetricSums

VALUES = torch.tensor([[1.0, 2.0, 100.0], [4.0, -7.0, 100.0]])
MASK = torch.tensor([[True, True, False], [True, True, False]])


def collected(*parts: slice) -> MetricSums:
    sums = MetricSums()
    for part in parts:
        sums.add_mean("mean", VALUES[part], MASK[part])
        sums.add_max("largest", VALUES[part], MASK[part])
        sums.add_loss("loss", VALUES[part].masked_fill(~MASK[part], 0).sum())
    sums.count_step()
    return sums


def test_a_mean_is_over_all_tokens_of_the_mask():
    assert collected(slice(0, 2)).reduce() == {"mean": 0.0, "largest": 4.0, "loss": 0.0}
    assert collected(slice(0, 1), slice(1, 2)).reduce() == collected(slice(0, 2)).reduce()


def test_losses_are_means_over_optimizer_steps():
    sums = collected(slice(0, 1))
    sums.add_loss("loss", torch.tensor(5.0))
    sums.count_step()
    assert sums.reduce()["loss"] == pytest.approx((3.0 + 5.0) / 2)


def test_learners_reduce_to_what_one_learner_says():
    parts = [collected(slice(0, 1)), collected(slice(1, 2))]
    gathered: list[tuple[torch.Tensor, str]] = []
    parts[1].reduce(lambda tensor, operation: gathered.append((tensor, operation)) or tensor)
    others = iter(gathered)

    def all_reduce(tensor: torch.Tensor, operation: str) -> torch.Tensor:
        other, expected = next(others)
        assert operation == expected
        return tensor + other if operation == "sum" else torch.maximum(tensor, other)

    assert parts[0].reduce(all_reduce) == collected(slice(0, 2)).reduce()


def test_an_empty_mask_has_no_mean_and_a_maximum_of_zero():
    sums = MetricSums()
    nothing = torch.zeros_like(MASK)
    sums.add_mean("mean", VALUES.log(), nothing)
    sums.add_max("largest", VALUES, nothing)
    reduced = sums.reduce()
    assert math.isnan(reduced["mean"]) and reduced["largest"] == 0.0
    assert MetricSums().reduce() == {}
