"""Learner pipelines run on recorded episodes, and the log-probs they need from a naive loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.connectors.hindsight import HINDSIGHT
from stepopsd_rllib.episodes import AgentEpisode, to_rllib
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.training.learner import TokenLearner
from tests.helpers.agents import SMALL, build_learner, random_groups
from tests.helpers.dense import dense
from tests.helpers.houses import BARE

TEMPERATURE = 0.7
SKILLS = {"skills": "alfworld_brief", "skill_max_tokens": 400}


def config_of(name: str, *, context: str, **keys: Any) -> GRPOConfig:
    """A method on tiny houses, at a temperature that is not 1."""
    config = ALGORITHMS[name].get_default_config()
    assert isinstance(config, GRPOConfig)
    config.environment("stepopsd/ALFWorld-v0", env_config=BARE)
    config.agent(**SMALL, context=context, temperature=TEMPERATURE, max_sampler_difference=None)
    config.update_from_dict({"lr": 3e-4, "kl_coeff": 0.0, "entropy_coeff": 0.0} | keys)
    config.validate()
    return config


def recorded_groups(context: str, *, version: int = 4, seed: int = 0) -> list[list[AgentEpisode]]:
    """Three groups of unequal sizes, the last of which failed altogether."""
    groups = random_groups((3, 2, 2), seed=seed, context=context, version=version)
    kind = "pick_heat_then_place_in_recep"
    known = [[replace(e, task_type=kind) for e in group] for group in groups]
    lost = [
        replace(e, won=False, turns=tuple(replace(t, reward=0.0) for t in e.turns))
        for e in known[-1]
    ]
    return [*known[:-1], lost]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What the connectors of a config made of a batch, its columns as padded rows."""

    config: Any
    learner: TokenLearner
    episodes: list[AgentEpisode]
    columns: dict[str, torch.Tensor]
    shared: dict[str, Any]

    def tokens(self, column: str, episode: int, turn: int) -> list[float]:
        """The numbers on the response tokens of a turn."""
        here_BT = (self.columns["turn_index"] == turn) & (
            self.columns["episode_index"][:, None] == episode
        )
        return self.columns[column][here_BT].tolist()

    def turns(self) -> list[tuple[int, int]]:
        """(episode, turn) of the whole batch, in order."""
        return [(n, k) for n, e in enumerate(self.episodes) for k in range(len(e.turns))]

    def context(self, episode: int, turn: int) -> list[int]:
        """All ids before the response of a turn, as the policy saw them."""
        turns = self.episodes[episode].turns
        past = [] if self.episodes[episode].context == "window" else turns[:turn]
        ids = [i for t in past for i in [*t.prompt_ids.tolist(), *t.response_ids.tolist()]]
        return [*ids, *turns[turn].prompt_ids.tolist()]

    @torch.no_grad()
    def log_probs(
        self, model: Any, episode: int, turn: int, *, prefix: Sequence[int] = (), suffix=()
    ) -> list[float]:
        """Log-probs of a turn's response: one forward pass of the plain model, shifted here."""
        before = [*prefix, *self.context(episode, turn), *suffix]
        response = self.episodes[episode].turns[turn].response_ids.tolist()
        logits_TV = model(input_ids=torch.tensor([[*before, *response]])).logits[0]
        log_probs_TV = (logits_TV / self.config.temperature).log_softmax(-1)
        return [float(log_probs_TV[len(before) - 1 + i, t]) for i, t in enumerate(response)]

    def told(self, episode: int) -> tuple[int, ...]:
        """What the teacher is told of an episode."""
        return self.shared[HINDSIGHT][episode].ids

    def scores(self) -> dict[tuple[int, int], float]:
        """Return less penalties of each turn: of its row alone, or of its episode."""
        by_row = self.config.advantage_statistics == "rows"
        scores = {}
        for n, k in self.turns():
            episode = self.episodes[n]
            own = by_row and episode.context == "window"
            judged = [episode.turns[k]] if own else episode.turns
            invalid = sum(not turn.is_action_valid for turn in judged)
            scores[n, k] = episode.return_ - self.config.invalid_action_penalty * invalid
        return scores

    def group_advantages(self) -> dict[tuple[int, int], float]:
        """GRPO's advantage of each turn, spelt out over floats."""
        scores, advantages = self.scores(), {}
        by_row = self.config.advantage_statistics == "rows"
        for n, k in self.turns():
            group = self.episodes[n].group
            rows = [
                scores[m, j]
                for m, j in self.turns()
                if self.episodes[m].group == group
                and (j == 0 or (by_row and self.episodes[m].context == "window"))
            ]
            mean = sum(rows) / len(rows)
            scale = 1.0
            if self.config.normalize_advantages:
                variance = sum((row - mean) ** 2 for row in rows) / (len(rows) - 1)
                scale = variance**0.5 + self.config.advantage_eps
            is_flat = max(rows) - min(rows) < 1e-8
            advantages[n, k] = 0.0 if is_flat else (scores[n, k] - mean) / scale
        return advantages


def run_pipeline(
    config: GRPOConfig, groups: Sequence[Sequence[AgentEpisode]], **replaced: Any
) -> Pipeline:
    """Runs the connectors of a config on recorded episodes.

    The policy is moved away from the teacher and the KL reference first.

    Args:
        config: The method.
        groups: The episodes.
        **replaced: Connectors by the class name of those that they stand in for.
    """
    learner = build_learner(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learner.language_module.language_model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    episodes = [episode for group in groups for episode in group]
    batch: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for piece in config.learner_connectors():
        piece = replaced.get(type(piece).__name__, piece)
        batch = piece(
            rl_module=learner.module,
            batch=batch,
            episodes=[to_rllib(episode) for episode in episodes],
            shared_data=shared,
        )
    columns = dense(batch[DEFAULT_MODULE_ID])
    return Pipeline(
        config=config, learner=learner, episodes=episodes, columns=columns, shared=shared
    )


def with_responses(
    groups: Sequence[Sequence[AgentEpisode]], encode: Any, texts: Mapping[int, tuple[str, ...]]
) -> list[list[AgentEpisode]]:
    """Episodes whose responses are texts, given in pieces by turn; the pieces are encoded apart."""

    def written(episode: AgentEpisode) -> AgentEpisode:
        turns = []
        for k, turn in enumerate(episode.turns):
            pieces = texts[k % len(texts)]
            ids = np.asarray([i for piece in pieces for i in encode(piece)], dtype=np.int32)
            zeros = np.zeros(len(ids), dtype=np.float32)
            turns.append(
                replace(turn, response="".join(pieces), response_ids=ids, behaviour_log_probs=zeros)
            )
        return replace(episode, turns=tuple(turns))

    return [[written(episode) for episode in group] for group in groups]


def with_prompts(
    groups: Sequence[Sequence[AgentEpisode]], chat: ChatFormat
) -> list[list[AgentEpisode]]:
    """Episodes whose prompts the chat template wrote; the first message states the task."""
    first = chat.first_prompt([{"role": "user", "content": "Your task is to: cool it.\nGo."}])
    later = chat.continuation("You see it.", response_ended=False)

    def written(episode: AgentEpisode) -> AgentEpisode:
        continues = episode.context == "append"
        prompts = [later if k and continues else first for k in range(len(episode.turns))]
        return replace(
            episode,
            turns=tuple(
                replace(turn, prompt_ids=np.asarray(prompt, dtype=np.int32))
                for turn, prompt in zip(episode.turns, prompts, strict=True)
            ),
        )

    return [[written(episode) for episode in group] for group in groups]
