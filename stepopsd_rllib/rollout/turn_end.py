"""Where a turn ends: what the policy wrote behind its action is no part of it, if so asked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.episodes.segmentation import token_span
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.env_threads import within
from stepopsd_rllib.sampling.sampler import SampleResult


def turn_of(
    env: TextEnv, chat: ChatFormat, result: SampleResult, *, timeout_s: float = 60.0
) -> tuple[str, SampleResult]:
    """Text and tokens of a turn, up to where its environment says that it ends.

    What is cut off is neither in the chat nor trained. The token in which the turn ends stays
    whole. The tokens stay as they were sampled where only white space or the end of the turn
    follows.

    Args:
        env: The environment that the response is for.
        chat: Chat format of the sampler's model.
        result: The response as sampled.
        timeout_s: Seconds that the environment has.

    Returns:
        The text, and the response with that text.

    Raises:
        ValueError: The environment changed the text in place of cutting it.
        EnvTimeout: It gave no answer in time.
        Exception: What it raised; what would have ended the process comes as RuntimeError.
    """
    ids = result.token_ids.tolist()
    text = chat.text(ids)
    if not env.says("end_turn"):
        return text, result
    kept = within(timeout_s, partial(env.end_turn, text))
    if not text.startswith(kept):
        raise ValueError(
            f"{type(env).__name__}.end_turn gave a text that the response does not begin with. "
            "Return the response, or its beginning."
        )
    if not text[len(kept) :].strip():
        return text, result
    length = max(1, token_span(chat.text, ids, (0, len(kept)))[1])  # a turn has a token
    return chat.text(ids[:length]), replace(
        result,
        token_ids=result.token_ids[:length],
        log_probs=result.log_probs[:length],
        finish_reason="stop",
    )
