"""What is averaged over what: masked sums and means, and the four aggregations of a token loss.

Every aggregation is linear in the token loss, so it is a row of weights: `loss = Σ weights ·
token_loss`. The weights of a whole minibatch, over all learners, need two counts (`LossCounts`);
given them, any split into micro-batches and learners sums to the same loss and the same gradient.

Modes as in Dr.GRPO (arXiv:2503.20783) and DAPO (arXiv:2503.14476).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

# Keeps the token mean of an empty mask finite (the reference programs' constant).
_EMPTY_MASK_EPS = 1e-8


def same_shape(**tensors: Tensor) -> torch.Size:
    """Refuses tensors of different shapes, which broadcasting would accept.

    Args:
        **tensors: The tensors by name.

    Returns:
        Their common shape.

    Raises:
        ValueError: The shapes differ; the message names every tensor with its shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"Shapes differ: {listed}. Pass tensors of the same rows and positions.")
    return next(iter(tensors.values())).shape


def masked_sum(values_BT: Tensor, mask_BT: Tensor, *, dim: int | None = None) -> Tensor:
    """Σ values over the positions of the mask; what stands elsewhere, NaN included, is ignored.

    Args:
        values_BT: Float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        dim: Sum along this axis alone; over everything if None.

    Returns:
        Float scalar, or a vector if `dim` is given.
    """
    same_shape(values_BT=values_BT, mask_BT=mask_BT)
    kept_BT = values_BT.masked_fill(mask_BT == 0, 0.0)
    return kept_BT.sum() if dim is None else kept_BT.sum(dim)


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the values over the positions of the mask; 0 for an empty mask.

    Args:
        values_BT: Float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].

    Returns:
        Float scalar.
    """
    num_tokens = (mask_BT != 0).sum()
    return masked_sum(values_BT, mask_BT) / (num_tokens + _EMPTY_MASK_EPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCounts:
    """What a loss is divided by: counts of the whole minibatch, over all its learners.

    Attributes:
        num_tokens: Positions in the loss mask.
        num_rows: Rows that hold at least one of them. Padding rows do not count.
        constant_divisor: Divisor of `seq-mean-token-sum-norm`, in tokens. The reference programs
            divide by the padded length, whatever the number of rows; Dr.GRPO's mean over rows is
            rows x length.
    """

    num_tokens: int
    num_rows: int
    constant_divisor: float

    @staticmethod
    def of(mask_BT: Tensor, *, constant_divisor: float | None = None) -> LossCounts:
        """Counts one batch.

        Args:
            mask_BT: 0/1 of any dtype, [B, T].
            constant_divisor: Divisor as in the attribute; the padded length `T` if None.
        """
        is_counted_BT = mask_BT != 0
        return LossCounts(
            num_tokens=int(is_counted_BT.sum()),
            num_rows=int(is_counted_BT.any(1).sum()),
            constant_divisor=mask_BT.shape[1] if constant_divisor is None else constant_divisor,
        )

    def __add__(self, other: LossCounts) -> LossCounts:
        """Counts of two parts of one minibatch, which share the constant divisor.

        Raises:
            ValueError: The parts were counted with different constant divisors.
        """
        if self.constant_divisor != other.constant_divisor:
            raise ValueError(
                f"LossCounts.constant_divisor: {self.constant_divisor} and {other.constant_divisor}"
                " in one minibatch. Pass the same constant_divisor to LossCounts.of for every part."
            )
        return LossCounts(
            num_tokens=self.num_tokens + other.num_tokens,
            num_rows=self.num_rows + other.num_rows,
            constant_divisor=self.constant_divisor,
        )


def token_weights(mask_BT: Tensor, mode: Aggregation, counts: LossCounts) -> Tensor:
    """Weight of every token in the minibatch loss, `loss = Σ weights · token_loss`.

        token-mean                1 / tokens
        seq-mean-token-sum        1 / rows
        seq-mean-token-mean       1 / (rows · tokens of the row)
        seq-mean-token-sum-norm   1 / constant divisor

    Args:
        mask_BT: 0/1 of any dtype, [B, T]: part of the minibatch, in whole rows.
        mode: The aggregation.
        counts: Counts of the whole minibatch.

    Returns:
        Float32 [B, T], 0 outside the mask. A row without tokens has no weight, where the
        reference's `seq-mean-token-mean` gives NaN.

    Raises:
        ValueError: An unknown mode.
    """
    mask_BT = (mask_BT != 0).float()
    if mode == "token-mean":
        return mask_BT / max(counts.num_tokens, 1)
    if mode == "seq-mean-token-sum":
        return mask_BT / max(counts.num_rows, 1)
    if mode == "seq-mean-token-mean":
        return mask_BT / (max(counts.num_rows, 1) * mask_BT.sum(1, keepdim=True).clamp(min=1.0))
    if mode == "seq-mean-token-sum-norm":
        return mask_BT / counts.constant_divisor
    raise ValueError(_unknown_mode(mode))


def weighted_sum(values_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Σ weights · values; positions of weight 0 are ignored, NaN included, in value and gradient.

    Args:
        values_BT: Float [B, T].
        weights_BT: Float [B, T], from `token_weights`.

    Returns:
        Float scalar. The sum over the parts of a minibatch is the loss of the minibatch.
    """
    same_shape(values_BT=values_BT, weights_BT=weights_BT)
    return (values_BT.masked_fill(weights_BT == 0, 0.0) * weights_BT).sum()


def aggregate(values_BT: Tensor, mask_BT: Tensor, mode: Aggregation) -> Tensor:
    """Reduces one batch as the reference programs do, which is per micro-batch.

    Differs from `token_weights` for rows without tokens alone: they count as rows here, and make
    `seq-mean-token-mean` NaN. The learners use `token_weights`, whose result no split can change.

    Args:
        values_BT: Token losses, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        mode: The aggregation.

    Returns:
        Float scalar.

    Raises:
        ValueError: An unknown mode.
    """
    if mode == "token-mean":
        return masked_mean(values_BT, mask_BT)
    sums_B = masked_sum(values_BT, mask_BT, dim=1)
    if mode == "seq-mean-token-sum":
        return sums_B.mean()
    if mode == "seq-mean-token-mean":
        return (sums_B / (mask_BT != 0).sum(1)).mean()
    if mode == "seq-mean-token-sum-norm":
        return sums_B.sum() / values_BT.shape[1]
    raise ValueError(_unknown_mode(mode))


def _unknown_mode(mode: str) -> str:
    return f"aggregation={mode!r} is not known. Use one of {', '.join(AGGREGATIONS)}."
