"""Plays many tasks at once with one causal LM, in the `append` context.

This measures a freshly cloned model before any sampler or runner exists; training and evaluation
of runs do not pass through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stepopsd_envs.text_env import TextEnv
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stepopsd_rllib.prompts.chat import ChatFormat


@dataclass(kw_only=True, slots=True)
class PlayedEpisode:
    """What became of one task.

    Attributes:
        task_id: Which task.
        task_type: Type of the task.
        won: Whether the task was solved.
        turns: Responses given.
        valid_turns: Responses that held an action in the right format.
        tokens: Prompt and response tokens of the whole chat.
        transcript: Observation, response, observation, ... as texts.
    """

    task_id: str
    task_type: str
    won: bool = False
    turns: int = 0
    valid_turns: int = 0
    tokens: int = 0
    transcript: list[str]


@torch.no_grad()
def play(
    model: PreTrainedModel,
    chat: ChatFormat,
    envs: Sequence[TextEnv],
    tasks: Sequence[str],
    *,
    temperature: float,
    max_response_tokens: int,
    seed: int,
) -> list[PlayedEpisode]:
    """Plays every task once, `len(envs)` at a time.

    Args:
        model: Causal LM, wherever it is.
        chat: Format of the model's tokenizer.
        envs: Copies of one environment.
        tasks: Task ids.
        temperature: 0 takes the likeliest token.
        max_response_tokens: A longer response is cut.
        seed: Seed of the sampling.

    Returns:
        One record a task, in the order of `tasks`.
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    episodes: list[PlayedEpisode] = []
    for start in range(0, len(tasks), len(envs)):
        tables = [
            _Table(env, task, chat)
            for env, task in zip(envs, tasks[start : start + len(envs)], strict=False)
        ]
        contexts = _GrowingContexts(model, len(tables))
        playing = list(tables)
        while playing:
            for row, table in enumerate(playing):
                contexts.add(row, table.message_ids)
            responses = _respond(
                contexts, chat, len(playing), temperature, max_response_tokens, generator
            )
            for table, response_ids in zip(playing, responses, strict=True):
                table.answer(response_ids)
            still = [row for row, table in enumerate(playing) if not table.is_over]
            contexts.keep(still)
            playing = [playing[row] for row in still]
        episodes.extend(table.episode for table in tables)
    return episodes


class _Table:
    """One environment in play, and the tokens of its newest message."""

    def __init__(self, env: TextEnv, task: str, chat: ChatFormat):
        self._env, self._chat = env, chat
        observation, info = env.reset(seed=0, options={"task": task})
        system = [{"role": "system", "content": env.system_prompt}] if env.system_prompt else []
        message = env.first_message(observation, info)
        self.message_ids = chat.first_prompt([*system, {"role": "user", "content": message}])
        self.is_over = False
        self.episode = PlayedEpisode(
            task_id=task, task_type=info["task_type"], transcript=[observation]
        )
        self.episode.tokens = len(self.message_ids)

    def answer(self, response_ids: list[int]) -> None:
        response = self._chat.text(response_ids)
        observation, _, terminated, truncated, info = self._env.step(response)
        episode = self.episode
        episode.turns += 1
        episode.valid_turns += info["is_action_valid"]
        episode.won = info["won"]
        episode.transcript += [response, observation]
        episode.tokens += len(response_ids)
        self.is_over = terminated or truncated
        if self.is_over:
            return
        self.message_ids = self._chat.continuation(
            self._env.append_message(observation, info),
            response_ended=self._chat.closes_turn(response_ids),
        )
        episode.tokens += len(self.message_ids)


class _GrowingContexts:
    """Key-value cache of chats that grow by different amounts.

    Each call appends one block of columns; a row shorter than the block is padded there, and the
    mask hides its padding from all that follows. Positions count real tokens only.
    """

    def __init__(self, model: PreTrainedModel, rows: int):
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._unread: list[list[int]] = [[] for _ in range(rows)]
        self._mask = torch.zeros(rows, 0, dtype=torch.long)

    def add(self, row: int, token_ids: Sequence[int]) -> None:
        """Lengthens one row; the model reads it at the next call of `logits`."""
        self._unread[row].extend(token_ids)

    def logits(self) -> Tensor:
        """Reads all that was added; logits after each row's last new token, float [B, V].

        A row to which nothing was added gets logits that mean nothing.
        """
        longest = max(len(ids) for ids in self._unread)
        token_ids = torch.zeros(len(self._unread), longest, dtype=torch.long)
        mask = torch.zeros_like(token_ids)
        for row, ids in enumerate(self._unread):
            token_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            mask[row, : len(ids)] = 1
        positions = (self._mask.sum(1, keepdim=True) + mask.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([self._mask, mask], dim=1)
        self._unread = [[] for _ in self._unread]
        device = self._model.device
        hidden_BTH = self._model.base_model(
            input_ids=token_ids.to(device),
            attention_mask=self._mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        last = (mask.sum(1) - 1).clamp(min=0)
        head: Any = self._model.get_output_embeddings()
        return head(hidden_BTH[torch.arange(len(last)), last]).cpu()

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows."""
        if not rows or len(rows) == len(self._unread):
            return
        index = torch.tensor(rows)
        self._mask = self._mask[index]
        self._unread = [self._unread[row] for row in rows]
        self._cache.batch_select_indices(index.to(self._model.device))


def _respond(
    contexts: _GrowingContexts,
    chat: ChatFormat,
    rows: int,
    temperature: float,
    max_response_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Samples one response for each row, the token that ends it included."""
    responses: list[list[int]] = [[] for _ in range(rows)]
    unfinished = list(range(rows))
    while unfinished:
        sampled = _sample(contexts.logits()[unfinished], temperature, generator)
        for row, token in zip(unfinished, sampled, strict=True):
            responses[row].append(token)
            contexts.add(row, [token])
        unfinished = [
            row
            for row in unfinished
            if responses[row][-1] not in chat.end_of_turn_ids
            and len(responses[row]) < max_response_tokens
        ]
    return responses


def _sample(logits: Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0:
        return logits.argmax(-1).tolist()
    probabilities = torch.softmax(logits / temperature, -1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
