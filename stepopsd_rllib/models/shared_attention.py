"""Rows that begin alike in one forward pass, their beginning once, with gradient.

The tokens of a pass stand one behind the other without padding: the shared beginnings first, then
what is each row's own. All that looks at a token alone (projections, norms, MLP) runs over them as
they stand. Attention alone looks further: there the keys and values of a beginning are lent to all
the rows that continue it, and autograd adds their gradients up. No cache is involved, so that
gradient checkpointing, adapters and several learners need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stepopsd_rllib.episodes.packing import micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "stepopsd_shared"
"""Name under which transformers finds the attention of this file."""

# A mask makes a kernel look at the keys behind a query, too, only to leave them out. Queries are
# taken so many at a time, each part with the keys up to its end, which bounds the waste. A GPU
# wants fewer, larger parts.
QUERIES_AT_ONCE = 128
QUERIES_AT_ONCE_ON_GPU = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Pieces of the packed tokens that attention sees as the rows of a rectangle.

    Attributes:
        num_rows: S.
        width: Tokens of the longest piece, Q.
        num_tokens: Tokens of all pieces, n.
        place_SQ: Which of the n tokens stands where, int64 [S, Q], 0 where padded; None if all
            pieces have Q tokens.
        real_N: Where each token stands in the rectangle, int64 [n]; None likewise.
    """

    num_rows: int
    width: int
    num_tokens: int
    place_SQ: Tensor | None
    real_N: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """The rectangle of pieces of these lengths."""
        width, total = max(lengths), sum(lengths)
        place_SQ, real_N = None, None
        if total < width * len(lengths):
            is_real_SQ = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
            real_N = is_real_SQ.flatten().nonzero()[:, 0]
            place_SQ = torch.zeros(len(lengths), width, dtype=torch.int64)
            place_SQ[is_real_SQ] = torch.arange(total)
        return cls(
            num_rows=len(lengths),
            width=width,
            num_tokens=total,
            place_SQ=place_SQ,
            real_N=real_N,
        )

    def rows(self, states_HND: Tensor) -> Tensor:
        """[S, H, Q, D] of [H, n, D]."""
        if self.place_SQ is None:
            return states_HND.unflatten(1, (self.num_rows, self.width)).transpose(0, 1)
        heads, tokens, size = states_HND.shape
        flat_NC = states_HND.transpose(0, 1).reshape(tokens, heads * size)
        # As a look-up its gradient is summed in a fixed order, on GPUs as well.
        rows_SQC = nn.functional.embedding(self.place_SQ, flat_NC)
        return rows_SQC.unflatten(2, (heads, size)).transpose(1, 2)

    def tokens(self, rows_SQHD: Tensor) -> Tensor:
        """[n, H, D] of [S, Q, H, D]."""
        flat = rows_SQHD.flatten(0, 1)
        return flat if self.real_N is None else flat.index_select(0, self.real_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tails:
    """What rows have of their own, behind their beginnings.

    Attributes:
        block: The pieces.
        head_S: The beginning that each continues, int64 [S].
        sees: Keys that each query sees, bool [S or 1, 1, Q, P + Q]: its beginning, padded to P
            tokens, and its own row so far.
    """

    block: Block
    head_S: Tensor
    sees: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], head_S: Tensor, head_lengths: Tensor) -> Self:
        """Pieces of these lengths; `head_lengths` int64 [G] are those of all beginnings."""
        block = Block.of(lengths)
        longest = int(head_lengths.max())
        starts_S = head_lengths[head_S]
        starts_S = starts_S[:1] if bool((starts_S == starts_S[0]).all()) else starts_S
        sees_head_SP = torch.arange(longest)[None] < starts_S[:, None]
        own_QQ = torch.ones(block.width, block.width, dtype=torch.bool).tril()
        sees = torch.cat(
            (
                sees_head_SP[:, None].expand(-1, block.width, -1),
                own_QQ[None].expand(len(starts_S), -1, -1),
            ),
            dim=2,
        )
        return cls(block=block, head_S=head_S, sees=sees[:, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedRows:
    """Rows as one packed pass, each shared beginning once.

    Attributes:
        ids: int64 [1, N], N tokens: beginnings, then tails.
        positions: int64 [1, N], place of each token in its row.
        source_BT: int64 [B, T], where the token of a row stands among the N; 0 where padded.
        heads: The beginnings.
        tails: The rest of the rows, those of like length together.
    """

    ids: Tensor
    positions: Tensor
    source_BT: Tensor
    heads: Block
    tails: tuple[Tails, ...]

    @classmethod
    def of(
        cls, ids_BT: Tensor, lengths_B: Tensor, sets: Sequence[tuple[int, Sequence[int]]]
    ) -> Self:
        """Lays rows out.

        Args:
            ids_BT: int64 [B, T], right-padded.
            lengths_B: int64 [B].
            sets: (tokens shared, rows) of sets that hold every row once; of each row fewer tokens
                are shared than it has, and at least 1.
        """
        ids = ids_BT.cpu().numpy()
        head_lengths = torch.tensor([length for length, _ in sets])
        head_of = {row: g for g, (_, rows) in enumerate(sets) for row in rows}
        tail_of = torch.tensor(
            [int(lengths_B[b]) - sets[head_of[b]][0] for b in range(len(lengths_B))]
        )
        source = np.zeros(ids.shape, dtype=np.int64)
        pieces: list[tuple[int, int, int]] = []  # (row, first token, end)
        end = 0
        for length, rows in sets:
            for row in rows:
                source[row, :length] = np.arange(end, end + length)
            pieces.append((rows[0], 0, length))
            end += length
        tails = []
        for part in micro_batches(tail_of, max_tokens=int(lengths_B.sum())):
            rows = part.tolist()
            for row in rows:
                first, last = sets[head_of[row]][0], int(lengths_B[row])
                source[row, first:last] = np.arange(end, end + last - first)
                pieces.append((row, first, last))
                end += last - first
            head_S = torch.tensor([head_of[row] for row in rows])
            tails.append(Tails.of(tail_of[part].tolist(), head_S, head_lengths))
        return cls(
            ids=torch.from_numpy(np.concatenate([ids[b, i:j] for b, i, j in pieces]))[None],
            positions=torch.from_numpy(np.concatenate([np.arange(i, j) for _, i, j in pieces]))[
                None
            ],
            source_BT=torch.from_numpy(source),
            heads=Block.of(head_lengths.tolist()),
            tails=tuple(tails),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return _moved(self, device)

    def forward(self, model: PreTrainedModel) -> Tensor:
        """Hidden states of the packed tokens, [N, H]; `source_BT` finds those of a row's token."""
        base_model: Any = model.base_model
        # Any mask of four dimensions is handed on as it is; without one, transformers would take
        # falling positions for the start of another sequence.
        unused_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.ids.device)
        return base_model(
            input_ids=self.ids,
            position_ids=self.positions,
            attention_mask=unused_mask,
            use_cache=False,
            shared_rows=self,
        ).last_hidden_state[0]


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    return value


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_rows: SharedRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer: over shared beginnings where there are some, else as ever.

    Args:
        module: The layer's attention.
        query: [1, H, N, D] of the packed tokens.
        key: [1, K, N, D], with K that divides H.
        value: [1, K, N, D].
        attention_mask: Not looked at where beginnings are shared.
        shared_rows: How the tokens are packed.
        kwargs: `scaling`, and others of transformers.

    Returns:
        [1, N, H, D], and None for the weights that nobody asked for.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if shared_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scaling, heads = kwargs.get("scaling"), shared_rows.heads
    sizes = [heads.num_tokens, *(tails.block.num_tokens for tails in shared_rows.tails)]
    # One split has one gradient; slices would fill the whole with zeros, each of them.
    parts = [states.squeeze(0).split(sizes, dim=1) for states in (query, key, value)]
    q, k, v = (heads.rows(part[0]) for part in parts)
    out, _ = sdpa_attention_forward(module, q, k, v, None, scaling=scaling, is_causal=True)
    outputs = [heads.tokens(out)]
    for i, tails in enumerate(shared_rows.tails, start=1):
        own_q, own_k, own_v = (tails.block.rows(part[i]) for part in parts)
        all_k = torch.cat((k.index_select(0, tails.head_S), own_k), dim=2)
        all_v = torch.cat((v.index_select(0, tails.head_S), own_v), dim=2)
        outputs.append(tails.block.tokens(_attended(own_q, all_k, all_v, tails.sees, scaling)))
    return torch.cat(outputs)[None], None


def _attended(
    query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scaling: float | None
) -> Tensor:
    """[S, Q, H, D] of queries [S, H, Q, D] behind beginnings, keys [S, K, P + Q, D]."""
    at_once = QUERIES_AT_ONCE_ON_GPU if query.is_cuda else QUERIES_AT_ONCE
    if query.shape[2] <= at_once:
        return _masked(query, key, value, sees, scaling)
    outputs = []
    start = key.shape[2] - query.shape[2]
    for first in range(0, query.shape[2], at_once):
        queries = slice(first, first + at_once)
        keys = slice(start + queries.stop)
        outputs.append(
            _masked(
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                sees[:, :, queries, keys],
                scaling,
            )
        )
    return torch.cat(outputs, dim=1)


def _masked(
    query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scaling: float | None
) -> Tensor:
    """[S, Q, H, D] of queries [S, H, Q, D] that see some of the keys [S, K, L, D]."""
    # The heads that look at the same keys are more queries to these, so that no key is copied.
    repeats = query.shape[1] // key.shape[1]
    out = nn.functional.scaled_dot_product_attention(
        query.reshape(len(query), key.shape[1], -1, query.shape[3]),
        key,
        value,
        attn_mask=sees.repeat(1, 1, repeats, 1),
        scale=scaling,
    )
    return out.reshape(query.shape).transpose(1, 2)


def keeps_all_keys(model: PreTrainedModel) -> bool:
    """Whether a branch can be attached to a history: not where layers forget what lies behind."""
    return not forgetful_layers(model.config)


def forgetful_layers(config: Any) -> list[str]:
    """Kinds of a model's layers, by its configuration, that do not keep all keys; sorted."""
    kinds = getattr(config, "layer_types", None) or ()
    return sorted(set(kinds) - {"full_attention"})


def can_share(model: PreTrainedModel) -> bool:
    """Lets a model share beginnings if it can; the model is as it was where it cannot.

    Returns:
        Whether it can: its layers forget nothing and leave attention to transformers, and its
        hidden states of rows that begin alike are those of the rows by themselves.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config: Any = model.config
    if not (keeps_all_keys(model) and config._attn_implementation == "sdpa"):
        return False
    AttentionInterface.register(ATTENTION, shared_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    config._attn_implementation = ATTENTION
    if _shares_exactly(model):
        return True
    config._attn_implementation = "sdpa"
    return False


def _shares_exactly(model: PreTrainedModel) -> bool:
    """Whether two pairs of short rows have the hidden states that they have by themselves."""
    embedding: Any = model.get_input_embeddings()
    device = embedding.weight.device
    ids_BT = torch.arange(28).reshape(4, 7) % len(embedding.weight)
    ids_BT[1, :3], ids_BT[3, :4] = ids_BT[0, :3], ids_BT[2, :4]
    lengths_B = torch.tensor([7, 6, 7, 5])
    shared = SharedRows.of(ids_BT, lengths_B, [(3, (0, 1)), (4, (2, 3))]).to(device)
    base_model: Any = model.base_model
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected_BTH = base_model(input_ids=ids_BT.to(device), use_cache=False)[0]
            actual_BTH = shared.forward(model)[shared.source_BT]
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False  # an architecture whose layers do not hand the layout on to attention
    finally:
        model.train(was_training)
    return all(
        torch.allclose(expected_BTH[b, :n], actual_BTH[b, :n], atol=1e-3, rtol=1e-3)
        for b, n in enumerate(lengths_B.tolist())
    )
