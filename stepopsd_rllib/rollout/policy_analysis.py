"""Asks the policy, with the sampler that played them, what its finished episodes teach.

All questions run at once; an episode's second attempt joins the batch the moment its first reply
turned out to be unusable. The replies are stored as they were written: the learner reads them
(`teachers.analysis.policy_analyzer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepopsd_rllib.episodes import AgentEpisode, PolicyReply
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.sampling.sampler import (
    LOWEST_TEMPERATURE,
    Sampler,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
)
from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord
from stepopsd_rllib.teachers.analysis.analyzer_prompt import (
    analysis_messages,
    second_attempt,
    turns_that_fit,
)
from stepopsd_rllib.teachers.analysis.analyzer_reply import usable_skills
from stepopsd_rllib.teachers.analysis.policy_analyzer import PolicySettings

# Sets the seeds of replies apart from those of an episode's turns.
_REPLY_SEEDS = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyAnalysis:
    """What the policy is asked about which of its training episodes.

    Attributes:
        settings: How it is asked.
        max_context_tokens: Longest question plus reply, tokens.
        choose: The episodes to ask about, out of whole groups of finished ones.
    """

    settings: PolicySettings
    max_context_tokens: int
    choose: Callable[[Sequence[AgentEpisode]], Sequence[AgentEpisode]]

    def __post_init__(self) -> None:
        """Refuses what the sampler could not serve."""
        temperature = self.settings.temperature
        if 0 < temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"config.analyzer.temperature={temperature!r}: must be 0 (greedy), or at least "
                f"{LOWEST_TEMPERATURE}."
            )
        if self.max_prompt_tokens < 1:
            raise ValueError(
                f"config.analyzer.max_completion_tokens={self.settings.max_completion_tokens!r} "
                f"leaves no room for a question in max_context_tokens={self.max_context_tokens}. "
                "Lower the one or raise the other."
            )

    @property
    def max_prompt_tokens(self) -> int:
        """Longest question, tokens."""
        return self.max_context_tokens - self.settings.max_completion_tokens

    def require_room(self, task: str, chat: ChatFormat) -> None:
        """Refuses a context in which no episode of a task could be asked about.

        Args:
            task: Description of the task.
            chat: Chat format of the policy.

        Raises:
            ValueError: The question has no room before the first turn is shown.
        """
        record = EpisodeRecord(task=task, outcome="failure", turns=())
        length = len(chat.first_prompt(self.messages(record, ())))
        if length >= self.max_prompt_tokens:
            raise ValueError(
                f"config.analyzer: the question about an episode takes {length} tokens before its "
                f"first turn is shown; max_context_tokens={self.max_context_tokens} less "
                f"max_completion_tokens={self.settings.max_completion_tokens} leave "
                f"{self.max_prompt_tokens}. Raise the one or lower the other."
            )

    def messages(self, record: EpisodeRecord, shown_turns: Sequence[int]) -> list[dict[str, str]]:
        """The chat that asks about an episode."""
        return analysis_messages(
            record, max_step_skills=self.settings.max_step_skills, shown_turns=shown_turns
        )


def with_replies(
    episodes: Sequence[AgentEpisode],
    analysis: PolicyAnalysis,
    *,
    sampler: Sampler,
    chat: ChatFormat,
) -> list[AgentEpisode]:
    """The same episodes, the chosen ones with what the policy wrote about them.

    Args:
        episodes: Finished episodes, in whole groups.
        analysis: What is asked about which of them.
        sampler: The one that played them; idle.
        chat: Chat format of the policy.

    Returns:
        The episodes in their order. A reply depends on its own episode and seed alone.
    """
    running: dict[str, _Question] = {}
    for episode in analysis.choose(episodes):
        question = _Question(episode, analysis, chat)
        running[question.request_id] = question
        question.put(sampler)
    while not sampler.is_idle():
        for result in sampler.step():
            question = running[result.request_id]
            if question.wants_another(result):
                question.put(sampler)
    answered = {(q.episode.group, q.episode.rollout): q.reply for q in running.values()}
    return [
        replace(episode, reply=answered.get((episode.group, episode.rollout)))
        for episode in episodes
    ]


class _Question:
    """One episode's question, its attempts, and the reply so far."""

    def __init__(self, episode: AgentEpisode, analysis: PolicyAnalysis, chat: ChatFormat):
        self.episode = episode
        self.reply = PolicyReply()
        self._record = EpisodeRecord.of(episode)
        self._analysis = analysis
        self._chat = chat
        self._failure: AnalyzerFailure | None = None
        self._prompt_ids: list[int] = []

    @property
    def request_id(self) -> str:
        return f"{self.episode.group}.{self.episode.rollout}"

    def put(self, sampler: Sampler) -> None:
        """Submits the next attempt; one that cannot be made leaves an earlier reply as it is."""
        settings = self._analysis.settings
        shown = turns_that_fit(len(self._record.turns), self._fits)
        failure = AnalyzerFailure.TOO_LONG
        if shown:
            self._prompt_ids = self._ids(shown)
            try:
                sampler.submit(
                    SampleRequest(
                        request_id=self.request_id,
                        prompt_ids=self._prompt_ids,
                        seed=_attempt_seed(self.episode.seed, self.reply.requests),
                        temperature=settings.temperature,
                        max_tokens=settings.max_completion_tokens,
                        stop_token_ids=self._chat.end_of_turn_ids,
                    )
                )
                self.reply = replace(self.reply, shown_turns=shown)
                return
            except SamplerRefusal:
                failure = AnalyzerFailure.REFUSED
        if self.reply.requests == 0:
            self.reply = replace(self.reply, failure=str(failure))

    def wants_another(self, result: SampleResult) -> bool:
        """Takes a reply; whether it is unusable and another attempt is left."""
        text = self._chat.text(result.token_ids.tolist())
        self.reply = replace(
            self.reply,
            text=text,
            requests=self.reply.requests + 1,
            prompt_tokens=self.reply.prompt_tokens + len(self._prompt_ids),
            completion_tokens=self.reply.completion_tokens + len(result.token_ids),
        )
        found = usable_skills(text)
        self._failure = found if isinstance(found, AnalyzerFailure) else None
        attempts = self._analysis.settings.parse_attempts
        return self._failure is not None and self.reply.requests < attempts

    def _fits(self, shown_turns: Sequence[int]) -> bool:
        # No turn, no question: there would be nothing to learn from.
        return len(shown_turns) > 0 and (
            len(self._ids(shown_turns)) <= self._analysis.max_prompt_tokens
        )

    def _ids(self, shown_turns: Sequence[int]) -> list[int]:
        messages = self._analysis.messages(self._record, shown_turns)
        if self._failure is not None:
            messages = second_attempt(messages, reply=self.reply.text, failure=self._failure)
        return self._chat.first_prompt(messages)


def _attempt_seed(episode_seed: int, attempt: int) -> int:
    sequence = np.random.SeedSequence([episode_seed, attempt, _REPLY_SEEDS])
    return int(sequence.generate_state(1)[0])
