"""Plays many tasks at once with one causal LM, in the `append` context.

This measures a freshly cloned model before any sampler or runner exists; training and evaluation
of runs do not pass through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class Teacher(Protocol):
    """What one episode is told, and where it stands.

    Attributes:
        privileged: What stands in front of the whole prompt.
    """

    privileged: str

    def first_message(self, message: str) -> str:
        """The first message, with what stands in it in all turns."""
        ...

    def turn(self, message: str, observation: str, info: Mapping[str, Any]) -> tuple[str, str]:
        """A turn's message as told, and what stands right before the response.

        Both are read in this turn alone: the turns after it read the message that was given.
        """
        ...


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
    teachers: Sequence[Teacher] | None = None,
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
        teachers: One for each task; None tells nothing.

    Returns:
        One record a task, in the order of `tasks`.
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    episodes: list[PlayedEpisode] = []
    for start in range(0, len(tasks), len(envs)):
        tables = [
            _Table(env, task, chat, teachers[start + index] if teachers else None)
            for index, (env, task) in enumerate(
                zip(envs, tasks[start : start + len(envs)], strict=False)
            )
        ]
        contexts = _GrowingContexts(model, len(tables))
        playing = list(tables)
        while playing:
            contexts.pack()
            before = contexts.mark()
            for row, table in enumerate(playing):
                contexts.add(row, table.told_ids or table.message_ids)
            responses = _respond(
                contexts, chat, len(playing), temperature, max_response_tokens, generator
            )
            for row, (table, response_ids) in enumerate(zip(playing, responses, strict=True)):
                if table.told_ids:
                    contexts.rewind(row, before)
                    contexts.add(row, [*table.message_ids, *response_ids])
                table.answer(response_ids)
            still = [row for row, table in enumerate(playing) if not table.is_over]
            contexts.keep(still)
            playing = [playing[row] for row in still]
        episodes.extend(table.episode for table in tables)
    return episodes


class _Table:
    """One environment in play, and the tokens of its newest message.

    `told_ids` are those that are read in this turn alone in the place of `message_ids`; empty where
    the turn is told nothing.
    """

    def __init__(self, env: TextEnv, task: str, chat: ChatFormat, teacher: Teacher | None):
        self._env, self._chat, self._teacher = env, chat, teacher
        self.told_ids: list[int] = []
        observation, info = env.reset(seed=0, options={"task": task})
        system = [{"role": "system", "content": env.system_prompt}] if env.system_prompt else []
        message = env.first_message(observation, info)

        def prompt(message: str) -> list[int]:
            ids = chat.first_prompt([*system, {"role": "user", "content": message}])
            return [*self._encode(teacher.privileged if teacher else ""), *ids]

        if teacher is not None:
            message = teacher.first_message(message)
        self._read(prompt, message, observation, info)
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
        ended = self._chat.closes_turn(response_ids)
        self._read(
            lambda message: self._chat.continuation(message, response_ended=ended),
            self._env.append_message(observation, info),
            observation,
            info,
        )
        episode.tokens += len(self.message_ids)

    def _read(
        self,
        encoded: Callable[[str], list[int]],
        message: str,
        observation: str,
        info: Mapping[str, Any],
    ) -> None:
        self.message_ids, self.told_ids = encoded(message), []
        if self._teacher is not None:
            told, before_response = self._teacher.turn(message, observation, info)
            if told != message or before_response:
                self.told_ids = [*encoded(told), *self._encode(before_response)]

    def _encode(self, text: str) -> list[int]:
        return self._chat.tokenizer(text, add_special_tokens=False)["input_ids"]


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

    def pack(self) -> None:
        """Drops padding: each row's real columns move to the front, in their order."""
        order = self._mask.argsort(dim=1, descending=True, stable=True)
        width = int(self._mask.sum(1).max()) if self._mask.numel() else 0
        if width == self._mask.shape[1]:
            return
        order = order[:, :width]
        self._mask = self._mask.gather(1, order)
        index = order[:, None, :, None].to(self._model.device)
        layers: Any = self._cache.layers
        for layer in layers:
            keys, values = layer.keys, layer.values
            wanted = index.expand(-1, keys.shape[1], -1, keys.shape[3])
            layer.keys, layer.values = keys.gather(2, wanted), values.gather(2, wanted)

    def mark(self) -> tuple[int, list[list[int]]]:
        """Where the contexts are now, for `rewind`."""
        return self._mask.shape[1], [list(ids) for ids in self._unread]

    def rewind(self, row: int, mark: tuple[int, list[list[int]]]) -> None:
        """Takes back all that a row was lengthened by since the mark."""
        width, unread = mark
        self._mask[row, width:] = 0
        self._unread[row] = list(unread[row])

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
