"""An analyzer behind an OpenAI-compatible chat endpoint: concurrent, bounded, failures counted."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from stepopsd_rllib.teachers.analysis.analyzer import (
    AnalyzerCounts,
    AnalyzerFailure,
    EpisodeRecord,
    EpisodeSkills,
)
from stepopsd_rllib.teachers.analysis.analyzer_prompt import analysis_messages, second_attempt
from stepopsd_rllib.teachers.analysis.analyzer_reply import usable_skills
from stepopsd_rllib.teachers.analysis.endpoint_settings import EndpointSettings

TOKENS_PER_PRICE = 1_000_000


class _RequestFailed(Exception):
    """A reply could not be had.

    Args:
        reason: What is counted.
        may_pass: Whether the same request may succeed later.
        wait_seconds: The least wait that the endpoint asked for.
    """

    def __init__(
        self, reason: AnalyzerFailure, *, may_pass: bool, wait_seconds: float = 0.0
    ) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.may_pass = may_pass
        self.wait_seconds = wait_seconds


class EndpointAnalyzer:
    """Asks a model for the skills of finished episodes.

    Args:
        settings: Endpoint and limits.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.counts = AnalyzerCounts()

    def analyze(self, record: EpisodeRecord) -> EpisodeSkills | None:
        """Skills of one episode; None, counted, where the endpoint gave none in time."""
        return self.analyze_many([record])[0]

    def analyze_many(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        """Skills of several episodes, in order, within the deadline."""
        if not records:
            return []
        # A thread of its own, since the caller's may already run an event loop.
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(asyncio.run, self._analyze_all(records)).result()

    async def _analyze_all(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        deadline = asyncio.get_running_loop().time() + self.settings.deadline_seconds
        turn_to_ask = asyncio.Semaphore(self.settings.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=os.environ.get(self.settings.api_key_variable) or "none",
            max_retries=0,
            timeout=self.settings.request_timeout_seconds,
        ) as client:
            return await asyncio.gather(
                *(self._counted(client, turn_to_ask, deadline, record) for record in records)
            )

    async def _counted(
        self,
        client: openai.AsyncOpenAI,
        turn_to_ask: asyncio.Semaphore,
        deadline: float,
        record: EpisodeRecord,
    ) -> EpisodeSkills | None:
        self.counts.episodes += 1
        try:
            async with asyncio.timeout_at(deadline), turn_to_ask:
                skills = await self._skills(client, record)
        except _RequestFailed as failure:
            self.counts.failures[failure.reason] += 1
            return None
        except TimeoutError:
            self.counts.failures[AnalyzerFailure.DEADLINE] += 1
            return None
        self.counts.successes += 1
        return skills

    async def _skills(self, client: openai.AsyncOpenAI, record: EpisodeRecord) -> EpisodeSkills:
        messages = analysis_messages(record, max_step_skills=self.settings.max_step_skills)
        failure = AnalyzerFailure.UNREADABLE
        for _ in range(self.settings.parse_attempts):
            reply = await self._reply(client, messages)
            found = usable_skills(reply)
            if not isinstance(found, AnalyzerFailure):
                return found.limited_to(
                    range(len(record.turns)), max_step_skills=self.settings.max_step_skills
                )
            failure = found
            messages = second_attempt(messages, reply=reply, failure=failure)
        raise _RequestFailed(failure, may_pass=False)

    async def _reply(self, client: openai.AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        backoff = self.settings.first_backoff_seconds
        for attempt in range(self.settings.max_retries + 1):
            try:
                return await self._request(client, messages)
            except _RequestFailed as failure:
                if not failure.may_pass or attempt == self.settings.max_retries:
                    raise
                self.counts.retries += 1
                await asyncio.sleep(max(failure.wait_seconds, backoff * random.uniform(0.5, 1.0)))
                backoff *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _request(self, client: openai.AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        self.counts.requests += 1
        arguments: dict[str, Any] = {
            "model": self.settings.model,
            "messages": messages,
            "max_completion_tokens": self.settings.max_completion_tokens,
        }
        if self.settings.temperature is not None:
            arguments["temperature"] = self.settings.temperature
        try:
            # The client's own timeout is for each read: a server that drips bytes never meets it.
            async with asyncio.timeout(self.settings.request_timeout_seconds):
                completion = await client.chat.completions.create(**arguments)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _RequestFailed(AnalyzerFailure.TIMEOUT, may_pass=True) from error
        except openai.APIConnectionError as error:
            raise _RequestFailed(AnalyzerFailure.UNREACHABLE, may_pass=True) from error
        except openai.APIStatusError as error:
            raise _status_failure(error) from error
        except (openai.APIError, ValueError) as error:  # a body that is not what was promised
            raise _RequestFailed(AnalyzerFailure.UNREADABLE, may_pass=True) from error
        self._bill(completion)
        return _text_of(completion)

    def _bill(self, completion: Any) -> None:
        usage = getattr(completion, "usage", None)
        prompt = getattr(usage, "prompt_tokens", None) or 0
        completion_tokens = getattr(usage, "completion_tokens", None) or 0
        self.counts.prompt_tokens += prompt
        self.counts.completion_tokens += completion_tokens
        self.counts.cost += (
            prompt * self.settings.price_per_million_prompt_tokens
            + completion_tokens * self.settings.price_per_million_completion_tokens
        ) / TOKENS_PER_PRICE


def _status_failure(error: openai.APIStatusError) -> _RequestFailed:
    if error.status_code == 429:
        # An empty account stays empty; a rate limit passes.
        return _RequestFailed(
            AnalyzerFailure.QUOTA,
            may_pass=error.code != "insufficient_quota",
            wait_seconds=_retry_after(error),
        )
    if error.status_code >= 500:
        return _RequestFailed(
            AnalyzerFailure.SERVER_ERROR, may_pass=True, wait_seconds=_retry_after(error)
        )
    return _RequestFailed(AnalyzerFailure.REFUSED, may_pass=False)


def _retry_after(error: openai.APIStatusError) -> float:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "0")))
    except ValueError:  # the header may be a date; the back-off serves then
        return 0.0


def _text_of(completion: Any) -> str:
    """Text of the first choice; a body without one is no reply."""
    choices = getattr(completion, "choices", None)
    text = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    if not isinstance(text, str):
        raise _RequestFailed(AnalyzerFailure.UNREADABLE, may_pass=True)
    return text
