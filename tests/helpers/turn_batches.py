"""Random batches of turns, in either row layout."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from stepopsd_rllib.objectives.turns import turn_ids


@dataclass(frozen=True, kw_only=True)
class Turns:
    """One batch in the layout of one row a turn; `_S` is sorted by episode and time."""

    gap_BT: Tensor
    teacher_BT: Tensor
    advantages_BT: Tensor
    turn_BT: Tensor
    episode_S: Tensor
    group_S: Tensor
    prior_S: Tensor
    reward_S: Tensor

    @property
    def num_turns(self) -> int:
        return len(self.episode_S)

    def of(self, turn: int, values_BT: Tensor) -> list[float]:
        """The numbers on the tokens of one turn."""
        return values_BT[self.turn_BT == turn].tolist()

    def episodes(self) -> list[list[int]]:
        """Turns of each episode."""
        numbers = self.episode_S.tolist()
        return [
            [turn for turn, episode in enumerate(numbers) if episode == n] for n in set(numbers)
        ]


@st.composite
def turn_batches(draw):
    """1 to 4 episodes of 1 to 4 turns of 1 to 5 tokens; rows in any order."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    index_B = torch.tensor([k for length in lengths for k in range(length)])
    episode_B = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    order = torch.randperm(len(index_B), generator=generator)
    index_B, episode_B = index_B[order], episode_B[order]
    num_tokens_B = torch.randint(1, 6, (len(index_B),), generator=generator)
    shape = (len(index_B), 5)
    index_BT = torch.where(torch.arange(5) < num_tokens_B[:, None], index_B[:, None], -1)
    turn_BT, episode_S = turn_ids(index_BT, episode_B)
    advantage_N = torch.randn(len(lengths), generator=generator).round(decimals=1).double()
    group_N = torch.randint(0, 2, (len(lengths),), generator=generator)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0]))
    return Turns(
        gap_BT=torch.randn(shape, generator=generator).double() * scale,
        teacher_BT=-torch.randn(shape, generator=generator).abs().double(),
        advantages_BT=advantage_N[episode_B][:, None] * (index_BT >= 0),
        turn_BT=turn_BT,
        episode_S=episode_S,
        group_S=group_N[episode_S],
        prior_S=torch.rand(len(lengths), generator=generator).double()[episode_S] * 0.8 + 0.1,
        reward_S=torch.randint(-1, 3, episode_S.shape, generator=generator).double(),
    )


def as_episode_rows(batch: Turns, values_BT: Tensor) -> Tensor:
    """The same tokens, the turns of an episode in one row with an observation token between."""
    rows = []
    for turns in batch.episodes():
        pieces = []
        for turn in turns:
            pieces += [values_BT[batch.turn_BT == turn], values_BT.new_full((1,), -1)]
        rows.append(torch.cat(pieces))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
