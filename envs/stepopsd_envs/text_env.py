"""The contract between a text environment and whoever plays it, or learns from who played it.

An action is the policy's whole response text of one turn; the environment finds the command in
it. An observation is the raw text of the environment. What a model reads around it (role,
history, instructions) comes from three message methods, so that one environment serves both
context policies: `append` (one growing chat) and `window` (prompt rebuilt from the last turns).

What a method may need to know of an environment, the environment's class says (its skills, its
largest return, what a refusal looks like ...); nothing is guessed from its name or its words.
`stepopsd_envs.checks` has the checker of the contract.
"""

import difflib
import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym

from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn, skills_by_rules
from stepopsd_envs.text_space import UnicodeText

SPLITS = ("train", "valid_seen", "valid_unseen")


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryTurn:
    """One past turn as a rebuilt prompt shows it.

    Attributes:
        index: 0-based number of the turn in its episode.
        observation: What the environment said *before* the action.
        action: What the environment parsed out of the response and executed.
    """

    index: int
    observation: str
    action: str


class TextEnv(gym.Env[str, str]):
    """One task at a time, played in turns of text.

    Writes in every `info`: `task_id`, `task_type`, `won`, `is_action_valid`, `action` (what was
    parsed and executed, "" at reset); optionally `anchor` (text that names the state),
    `golden_rollout` (a known solution as text, which no prompt ever shows), `task_score` (how well
    the task was done, 0 to 1, where that is graded; 1 if won) and `tool_error` (then the turn is
    truncated and its observation is not evidence).

    A turn limit is `truncated`, the end of the task is `terminated`; never both.
    An exception out of `reset` or `step` means that the environment is broken.

    The constructor takes keywords, the keys of `env_config`; one named `tokenizer` is given the
    folder of the model's tokenizer, unless the configuration sets it.

    What follows `system_prompt` describes the environment to methods. All of it has a default, and
    a method that needs what a class does not say is refused with the name of what is missing.
    """

    thread_safe: ClassVar[bool] = False
    """Whether copies may be stepped from several threads at once."""

    system_prompt: str | None = None
    """The system message of every chat; None for none."""

    action_tags: ClassVar[tuple[str, ...]] = ("action",)
    """Names of the tags between which a response acts; a bare command goes into the first."""

    answer_tags: ClassVar[tuple[str, ...]] = ()
    """Those of `action_tags` that give the final answer; () where there is no such thing."""

    action_calls: ClassVar[tuple[str, ...]] = ()
    """Names of calls that act without tags where no tag stands: "click" for `click[buy now]`."""

    contexts: ClassVar[tuple[str, ...]] = ("append", "window")
    """The context policies that the messages serve; `refuse_context` where it depends."""

    embedded_model: ClassVar[str | Path | None] = None
    """What `model: tiny` means: the name of a packaged model ("alfworld", "search_qa"), or the
    folder of an own one in the Hugging Face format."""

    skill_libraries: ClassVar[Mapping[str, str | Path]] = {}
    """Skill libraries by name: a folder of Markdown files with a `general.md`, or a JSON bank. The
    first is the one that `skills: packaged` means."""

    refusals: ClassVar[tuple[str, ...] | None] = None
    """Parts of an observation, in any case, by which it says that nothing was done, such as
    "nothing happens"; () if there are none, None if the class does not say."""

    exploring_commands: ClassVar[tuple[str, ...]] = ()
    """Beginnings of commands that look around and change nothing, such as "go to"; `skill_rules`
    leaves them out of a workflow where they lead to nothing."""

    moving_commands: ClassVar[tuple[str, ...]] = ()
    """Those of `exploring_commands` that leave the spot, so that the one before led to nothing."""

    task_phrases: ClassVar[tuple[str, ...]] = ()
    """Phrases before the task in a user message, the preferred one first. Advice on a whole episode
    (OPID) is put after the line with one; without one, where `turn_phrases` says."""

    turn_phrases: ClassVar[tuple[str, ...]] = ()
    """Phrases that hand the turn to the model, the preferred one first. Advice on one turn is put
    before it; without one, at the end of the message."""

    def __init__(self) -> None:
        """Sets the spaces; a subclass calls this first."""
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    @abstractmethod
    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of all tasks of a split, sorted, each once.

        Args:
            split: "train", "valid_seen" or "valid_unseen".
        """
        raise NotImplementedError

    @abstractmethod
    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Returns the user message of turn 0, under either context policy."""
        raise NotImplementedError

    def end_turn(self, response: str) -> str:
        """The part of a response that is the turn; by default all of it.

        What follows is cut off before `step`: it is neither in the chat nor trained.

        Args:
            response: What the policy wrote.

        Returns:
            The response, or its beginning.
        """
        return response

    @abstractmethod
    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Returns the user message of a later turn when the chat grows."""
        raise NotImplementedError

    @abstractmethod
    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """Returns the only user message of a later turn when the prompt is rebuilt.

        Args:
            history: The last turns, oldest first, as many as the agent wants shown.
            observation: What the environment says now.
            info: The info that came with it.
        """
        raise NotImplementedError

    def response_of(self, command: str) -> str:
        """What a model would have written for a bare command: how a person's line is played.

        With several `action_tags` the line may begin with the name of one: "answer Lisbon".
        """
        first, _, rest = command.strip().partition(" ")
        if len(self.action_tags) > 1 and first.lower() in self.action_tags and rest.strip():
            return f"<{first.lower()}>{rest.strip()}</{first.lower()}>"
        if not self.action_tags:
            return command
        return f"<{self.action_tags[0]}>{command}</{self.action_tags[0]}>"

    @classmethod
    def refuse_context(cls, context: str, env_config: Mapping[str, Any]) -> None:
        """Raises a ValueError if the messages do not serve a context policy.

        Args:
            context: "append" or "window".
            env_config: Arguments of the constructor.
        """
        if context not in cls.contexts:
            raise ValueError(
                f"context={context!r}: {cls.__name__} writes no messages for it. Use "
                f"{' or '.join(f'context={known!r}' for known in cls.contexts)}."
            )

    @classmethod
    def largest_return(cls, env_config: Mapping[str, Any]) -> float:
        """The return of a perfect episode; not said by default.

        Args:
            env_config: Arguments of the constructor.
        """
        raise NotImplementedError(f"{cls.__name__} does not say its largest return.")

    @classmethod
    def skill_categories(cls, task_type: str, first_observation: str) -> tuple[str, ...]:
        """The categories of `skill_libraries` that a task belongs to; not said by default.

        Args:
            task_type: `info["task_type"]`.
            first_observation: What `reset` said.

        Returns:
            Names of categories; () for the general skills alone.

        Raises:
            ValueError: No such task type.
        """
        raise NotImplementedError(f"{cls.__name__} does not say which skills a task gets.")

    @classmethod
    def skill_rules(
        cls, task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
    ) -> EpisodeSkills | None:
        """What rules can teach about a finished episode, from its record alone.

        By default `stepopsd_envs.skill_rules`, with `refusals` and `exploring_commands`: after a
        success the commands that moved it forward, after a failure those that were wasted.

        Args:
            task: The first observation.
            turns: The episode's turns, in order, at least one.
            won: How it ended.
            max_step_skills: Most turns to give advice on; what is beyond is dropped.

        Returns:
            The skills, the decisive turns first; None if there is nothing to learn.
        """
        del task
        return skills_by_rules(
            turns,
            won=won,
            refusals=cls.refusals or (),
            exploring=cls.exploring_commands,
            moving=cls.moving_commands,
            max_step_skills=max_step_skills,
        )

    @classmethod
    def says(cls, name: str) -> bool:
        """Whether the class, or one between it and `TextEnv`, has its own value or method."""
        classes = cls.__mro__[: cls.__mro__.index(TextEnv)]
        return any(name in vars(base) for base in classes)

    def task_for_reset(self, options: Mapping[str, Any] | None) -> str:
        """Returns `options["task"]`, or a task of the train split drawn with `np_random`.

        Call it after `super().reset(seed=seed)`.
        """
        options = options or {}
        for key in options:
            if key != "task":
                raise ValueError(f"reset(options=...) has the key {key!r}: only 'task' is known.")
        if "task" in options:
            return options["task"]
        tasks = self.tasks("train")
        return tasks[int(self.np_random.integers(len(tasks)))]


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns " Did you mean 'x'?" for the known name nearest to `name`, or "" if none is near."""
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def require_choice(key: str, value: Any, known: Sequence[str]) -> None:
    """Raises a ValueError unless `value` is one of the `known` values of `key`."""
    if value not in known:
        choices = ", ".join(map(repr, known))
        hint = nearest(value, known)
        if isinstance(value, bool):
            hint = " YAML takes on, off, yes and no for true and false: write the word in quotes."
        raise ValueError(f"{key}={value!r} is none of {choices}.{hint}")


def require_bool(key: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a bool: the text "false" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} must be true or false.")


def refuse_unknown_keys(environment: type[TextEnv], unknown: Mapping[str, Any]) -> None:
    """Raises a ValueError if a constructor that takes any keyword was given one it does not know.

    Args:
        environment: The class constructed.
        unknown: What its `**unknown` caught.
    """
    parameters = inspect.signature(environment).parameters.values()
    known = [key.name for key in parameters if key.kind is inspect.Parameter.KEYWORD_ONLY]
    for key, value in unknown.items():
        raise ValueError(
            f"{key}={value!r}: {environment.__name__} has no such key.{nearest(key, known)} "
            f"It has {', '.join(known)}."
        )
