"""`stepopsd play --policy`: a person and a checkpoint's policy play an episode together.

The episode runs in the training's own turn loop, so the policy reads what it read there. The person
stands where the sampler does: lets the policy write the response, writes it, or asks which actions
the policy is likely to take.

What is likely is measured, not read off: N responses are drawn to the same prompt, at the
temperature that is played with (1 where that is greedy), and an action's share of them estimates
its probability, with Wilson's 95 % interval. Two responses have the same action where the same text
stands in their first action tags, white space aside. `at least` is the sum of the probabilities of
the different responses drawn with that action: the exact probability is never below it, and equals
it where all ways to write the action were drawn.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stepopsd_envs import TextEnv
from stepopsd_envs.tag_blocks import first_tag_block
from transformers.utils.logging import disable_progress_bar

from stepopsd_rllib.commands.checkpoints import config_of, merged_model, whole_checkpoint
from stepopsd_rllib.commands.play import response_of, typed_line
from stepopsd_rllib.commands.ray_start import quiet_ray
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate
from stepopsd_rllib.models.lora import ADAPTER_CONFIG
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.report.tables import aligned
from stepopsd_rllib.rollout.callbacks import RunnerCallbacks
from stepopsd_rllib.rollout.env_calls import EnvReply
from stepopsd_rllib.rollout.turn_end import turn_of
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, TurnLoop
from stepopsd_rllib.sampling.sampler import Sampler, SampleRequest, SampleResult
from stepopsd_rllib.training import checkpoint_files

SHOWN = 5
"""Actions that a person sees when they ask."""
NO_ACTION = "(no action)"
ASK, GO_ON = "?", "go"
HELP = (
    "Enter: the policy's turn · a text: yours · ?: its likely actions, then a number plays one · "
    "go: it plays to the end · quit"
)


class Left(Exception):
    """The person has left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelyAction:
    """An action that the policy took in some of the responses drawn.

    Attributes:
        action: Its text; `NO_ACTION` for responses without one.
        share: Of all responses drawn, with its 95 % interval.
        at_least: Lower bound of its probability; see the module.
        drawn: Its most likely response.
    """

    action: str
    share: Estimate
    at_least: float
    drawn: SampleResult


def play_with_policy(
    checkpoint: str,
    env_config: Mapping[str, Any],
    *,
    split: str,
    task: str | None,
    seed: int,
    samples: int,
    is_trusted: bool,
) -> int:
    """Plays one task with a checkpoint's policy in the terminal; returns the exit status.

    Args:
        checkpoint: A checkpoint, trial or run folder.
        env_config: Arguments of the environment that differ from training.
        split: Split that the task is drawn from.
        task: Task id; drawn from the split with `seed` if not given.
        seed: Seed of the draw, of the environment and of the policy.
        samples: Responses that are drawn when a person asks for likely actions.
        is_trusted: Whether a checkpoint outside of a run folder is read.
    """
    quiet_ray()
    disable_progress_bar()
    folder = whole_checkpoint(checkpoint, is_trusted=is_trusted)
    with _config(folder, env_config, samples) as config:
        env = config.make_env()
        tasks = env.tasks(split)
        if task is None and not tasks:
            raise ValueError(f"--split {split}: {type(env).__name__} has no task there.")
        chosen = tasks[seed % len(tasks)] if task is None else task
        chat, sampler = config.chat_format(), config.make_sampler()
        print(f"task        {chosen}\n{HELP}\n")
        beside = PersonBeside(sampler, chat, env, config.tokenizer(), samples=samples)
        loop = TurnLoop(
            make_env=lambda: env,
            sampler=beside,
            chat=chat,
            max_concurrent=1,
            env_timeout_s=config.env_deadline_s(),
            callbacks=_Told(),
        )
        request = EpisodeRequest(task_id=chosen, group=seed, rollout=0, seed=seed)
        try:
            (episode,) = loop.run([request], config.rollout_settings(explore=False))
            print(_ending(episode))
        except Left:
            print(f"Left after {beside.turns} turns.")
        finally:
            loop.close()
            sampler.close()
    return 0


class PersonBeside:
    """A `Sampler` whose every response a person lets pass, replaces, or asks about first.

    Args:
        sampler: The policy's.
        chat: Its chat format.
        env: The environment that is played.
        tokenizer: Of the policy.
        samples: Responses that are drawn when the person asks.
        ask: Gives the person's next line; None when they leave.
        say: Takes a text for the person.
    """

    def __init__(
        self,
        sampler: Sampler,
        chat: ChatFormat,
        env: TextEnv,
        tokenizer: Any,
        *,
        samples: int,
        ask: Callable[[], str | None] = typed_line,
        say: Callable[[str], None] = print,
    ):
        """Begins with the person's say at every turn."""
        self._sampler, self._chat, self._env, self._tokenizer = sampler, chat, env, tokenizer
        self._samples, self._ask, self._say = samples, ask, say
        self._request: SampleRequest | None = None
        self._plays_on = False
        self.turns = 0

    @property
    def weights_version(self) -> int:
        """The policy's."""
        return self._sampler.weights_version

    @property
    def max_context_tokens(self) -> int:
        """The policy's."""
        return self._sampler.max_context_tokens

    def submit(self, request: SampleRequest) -> None:
        """Keeps the request until the person has spoken."""
        self._request = request

    def is_idle(self) -> bool:
        """Whether nobody waits for a response."""
        return self._request is None

    def step(self) -> list[SampleResult]:
        """The response that the person chose.

        Raises:
            Left: They have left.
        """
        request = self._request
        assert request is not None
        result, self._request = self._chosen(request), None
        self.turns += 1
        return [replace(result, request_id=request.request_id)]

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Passed on."""
        self._sampler.load_weights(weights, version)

    def score(self, token_ids: Sequence[int]) -> np.ndarray:
        """Passed on."""
        return self._sampler.score(token_ids)

    def close(self) -> None:
        """Passed on."""
        self._sampler.close()

    def _chosen(self, request: SampleRequest) -> SampleResult:
        likely: list[LikelyAction] = []
        while not self._plays_on:
            line = self._ask()
            if line is None:
                raise Left
            if line == ASK:
                likely = likely_actions(
                    self._sampler, request, self._chat, self._env, samples=self._samples
                )
                self._say(likely_table(likely[:SHOWN], self._samples))
            elif line.isdecimal() and 1 <= int(line) <= len(likely[:SHOWN]):
                return self._shown(likely[int(line) - 1].drawn)
            elif line in ("", GO_ON):
                self._plays_on = line == GO_ON
                break
            else:
                return self._written(request, response_of(self._env, line))
        (result,) = _drawn(self._sampler, [request])
        return self._shown(result)

    def _shown(self, result: SampleResult) -> SampleResult:
        self._say(f"policy: {self._chat.text(result.token_ids.tolist()).strip()}\n")
        return result

    def _written(self, request: SampleRequest, text: str) -> SampleResult:
        """The person's response as tokens, with what the policy thinks of them."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [*ids, self._chat.end_of_turn_ids[0]]
        prompt = list(map(int, request.prompt_ids))
        room = self.max_context_tokens - len(prompt) - 1
        log_probs = self.score([*prompt, *ids[:room]])[len(prompt) - 1 :]
        self._say(f"you: {text}   (its probability of writing this: {_chance(log_probs)})\n")
        return SampleResult(
            request_id=request.request_id,
            token_ids=np.array(ids[:room], np.int32),
            log_probs=np.array(log_probs, np.float32),
            finish_reason="stop",
        )


def likely_actions(
    sampler: Sampler, request: SampleRequest, chat: ChatFormat, env: TextEnv, *, samples: int
) -> list[LikelyAction]:
    """The actions that a policy takes in `samples` responses to a prompt, the most frequent first.

    Args:
        sampler: The policy's.
        request: The prompt; its own response is not drawn here.
        chat: Chat format of the policy.
        env: Says where a turn ends and between which tags it acts.
        samples: Responses to draw.
    """
    seeds = np.random.SeedSequence([request.seed, samples]).generate_state(samples)
    temperature = request.temperature or 1.0
    asked = [
        replace(
            request, request_id=f"{request.request_id}/{i}", seed=int(s), temperature=temperature
        )
        for i, s in enumerate(seeds)
    ]
    found: dict[str, list[SampleResult]] = {}
    for result in _drawn(sampler, asked):
        text, _ = turn_of(env, chat, result)
        found.setdefault(action_in(text, env.action_tags), []).append(result)
    likely = []
    for action, results in found.items():
        different = {tuple(r.token_ids.tolist()): float(r.log_probs.sum()) for r in results}
        likely.append(
            LikelyAction(
                action=action,
                share=intervals.rate(len(results), samples),
                at_least=min(1.0, math.fsum(map(math.exp, different.values()))),
                drawn=max(results, key=lambda result: float(result.log_probs.sum())),
            )
        )
    return sorted(likely, key=lambda one: (-one.share.value, -one.at_least, one.action))


def likely_table(likely: Sequence[LikelyAction], samples: int) -> str:
    """The actions as a numbered table."""
    rows = [["", "action", f"of {samples} responses", "95 %", "at least"]]
    for number, one in enumerate(likely, start=1):
        share = one.share
        rows.append(
            [
                str(number),
                one.action,
                f"{share.value:.1%}",
                f"[{share.low:.1%}, {share.high:.1%}]",
                f"{one.at_least:.1%}",
            ]
        )
    lines = aligned(
        [[row[0], row[1].ljust(max(len(r[1]) for r in rows)), *row[2:]] for row in rows]
    )
    kept = lines.splitlines()
    rule = kept[1]
    return "\n".join(line for i, line in enumerate(kept) if line != rule or i == 1)


def action_in(text: str, tags: Sequence[str]) -> str:
    """What tells the action of a response from others: its first action tags' content.

    Args:
        text: The response.
        tags: Names of the tags; the name stands before the content where there are several. ()
            takes the whole text.
    """
    if not tags:
        return " ".join(text.split()) or NO_ACTION
    block = first_tag_block(text, tags)
    if block is None:
        return NO_ACTION
    content = " ".join(block.content.split())
    return f"{block.name} {content}" if len(tags) > 1 else content


class _Told(RunnerCallbacks):
    """Prints what the environment says."""

    def __init__(self) -> None:
        pass

    def environment_created(self, env: TextEnv) -> None:
        """Says nothing."""

    def episode_created(self, place: tuple[int, int], env: TextEnv, env_index: int) -> None:
        """Says nothing."""

    def episode_started(
        self, place: tuple[int, int], env: TextEnv, env_index: int, reply: EnvReply
    ) -> None:
        """The first message."""
        system = f"[system]\n{reply.system_prompt}\n\n" if reply.system_prompt else ""
        print(f"{system}{reply.message}\n")

    def episode_stepped(
        self, place: tuple[int, int], env: TextEnv, env_index: int, response: str, reply: EnvReply
    ) -> None:
        """What came of a turn."""
        if not reply.info["is_action_valid"]:
            print(f"(not a valid action: {reply.info['action']!r})")
        print(f"{reply.observation}\n")

    def episode_ended(self, episode: AgentEpisode, env: TextEnv | None, env_index: int) -> None:
        """Says nothing."""


@contextmanager
def _config(folder: Path, env_config: Mapping[str, Any], samples: int) -> Iterator[Any]:
    """The checkpoint's config with its model in this process."""
    changes = {"sampler": "transformers", "num_envs_per_env_runner": samples}
    model = folder / checkpoint_files.MODEL
    with tempfile.TemporaryDirectory(prefix="stepopsd_") as scratch:
        if (model / ADAPTER_CONFIG).is_file():  # the sampler takes whole weights
            whole = Path(scratch) / checkpoint_files.MODEL
            checkpoint_files.write_model(whole, *merged_model(model))
            changes |= {"lora": {}, "model": str(whole)}
        config: Any = config_of(folder, changes)
        config.env_config = {**config.env_config, **env_config}
        config.validate()
        yield config


def _drawn(sampler: Sampler, requests: Sequence[SampleRequest]) -> list[SampleResult]:
    for request in requests:
        sampler.submit(request)
    results: list[SampleResult] = []
    while not sampler.is_idle():
        results += sampler.step()
    return results


def _chance(log_probs: np.ndarray) -> str:
    chance = math.exp(float(log_probs.sum()))
    return f"{chance:.1%}" if chance >= 1e-3 else f"{chance:.1g}"


def _ending(episode: AgentEpisode) -> str:
    total = sum(turn.reward for turn in episode.turns)
    score = "" if episode.task_score is None else f", task score {episode.task_score:.2f}"
    why = f" ({episode.error})" if episode.error else ""
    return (
        f"{episode.status.value.replace('_', ' ')}{why} after {len(episode.turns)} turns, "
        f"return {total:g}{score}"
    )
