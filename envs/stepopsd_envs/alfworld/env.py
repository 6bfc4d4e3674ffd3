"""ALFWorld as a text environment: a household, a task, and one command a turn."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from stepopsd_envs.alfworld import protocol
from stepopsd_envs.alfworld.engine import Engine, EngineReply, FastEngine
from stepopsd_envs.alfworld.game import Game
from stepopsd_envs.alfworld.skill_categories import skill_categories
from stepopsd_envs.alfworld.tasks import task_source
from stepopsd_envs.text_env import (
    HistoryTurn,
    TextEnv,
    refuse_unknown_keys,
    require_bool,
    require_choice,
)

ENGINES = ("fast", "textworld")
_SKILLS = Path(__file__).parent / "skills"


class ALFWorldEnv(TextEnv):
    """Plays ALFWorld games (arXiv:2010.03768), generated or official ones.

    Reward: `reward_scale` in the turn that wins, else 0. A win terminates, `max_turns` truncates.
    Beyond the keys that every text environment writes, `info` has `admissible_commands` (tuple),
    `turn` (turns taken) and `task` (the task sentence); `anchor` is the observation.
    `reset` adds `golden_rollout`, the expert's commands, for games that have a walkthrough.
    """

    embedded_model: ClassVar[str | Path | None] = "alfworld"
    skill_libraries: ClassVar[Mapping[str, str | Path]] = {
        "alfworld": _SKILLS / "full",
        "alfworld_brief": _SKILLS / "brief",
    }
    refusals: ClassVar[tuple[str, ...] | None] = ("nothing happens",)
    exploring_commands: ClassVar[tuple[str, ...]] = (
        "go to",
        "look",
        "examine",
        "inventory",
        "open",
        "close",
    )
    moving_commands: ClassVar[tuple[str, ...]] = ("go to",)
    task_phrases: ClassVar[tuple[str, ...]] = protocol.TASK_PHRASES
    turn_phrases: ClassVar[tuple[str, ...]] = protocol.TURN_PHRASES

    def __init__(
        self,
        *,
        data: str | Path = "generated",
        size: str = "tiny",
        task_type: str | Sequence[str] | None = None,
        engine: str = "fast",
        max_turns: int = 50,
        think: protocol.ThinkMode | Literal[False] = "required",
        show_admissible_commands: bool | None = None,
        instructions: bool = True,
        reward_scale: float = 1.0,
        **unknown: Any,
    ):
        """Makes an environment; the first `reset` starts a game.

        Args:
            data: "generated"; "official", the games under $ALFWORLD_DATA; or such a data root.
            size: Size of generated games: "tiny", "small" or "full" (as the official ones).
            task_type: The task type, or several, to which the tasks are restricted.
            engine: "fast", or "textworld" for the original engine (slow; the same answers).
            max_turns: Turns after which an episode is truncated (papers: 50, OPID 30).
            think: Whether a valid response must ("required"), may ("optional") or need not
                ("off", not asked for) hold its reasoning in think tags.
            show_admissible_commands: Whether messages list the admissible commands; None: if they
                hold instructions.
            instructions: False: messages are the bare observation, for models trained on that.
            reward_scale: Reward of a win (papers: 10).
            unknown: Refused, with the nearest key there is.
        """
        super().__init__()
        refuse_unknown_keys(ALFWorldEnv, unknown)
        require_choice("engine", engine, ENGINES)
        think = "off" if think is False else think  # as YAML reads `think: off`
        require_choice("think", think, protocol.THINK_MODES)
        require_bool("instructions", instructions)
        if show_admissible_commands is not None:
            require_bool("show_admissible_commands", show_admissible_commands)
        _require_positive("max_turns", max_turns, int)
        _require_positive("reward_scale", reward_scale, (int, float))
        self._source = task_source(data, size, task_type)
        self._engine_name = engine
        self._max_turns = max_turns
        self._think: protocol.ThinkMode = think
        self._show_commands = (
            instructions if show_admissible_commands is None else show_admissible_commands
        )
        self._instructions = instructions
        self._reward_scale = float(reward_scale)
        self._engine: Engine | None = None
        self._task_id = ""
        self._task = ""
        self._turn = 0
        self._is_over = True

    @property
    def game(self) -> Game:
        """The game being played: what an expert that knows everything may look at."""
        if self._engine is None:
            raise RuntimeError("No game is being played. Call reset first.")
        return self._source.game(self._task_id)

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of the tasks of a split, sorted."""
        return self._source.tasks(split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Starts the task `options["task"]`, or one of the train split drawn with `seed`."""
        super().reset(seed=seed)
        task_id = self.task_for_reset(options)
        if self._engine is None or task_id != self._task_id:
            self._close_engine()
            self._engine = self._make_engine(task_id)
        reply = self._engine.reset()
        self._task_id, self._task = task_id, protocol.task_sentence(reply.text)
        self._turn, self._is_over = 0, False
        info = self._info(reply, protocol.ProjectedAction("", True))
        walkthrough = self._source.game(task_id).walkthrough
        if walkthrough:
            info["golden_rollout"] = protocol.golden_rollout(walkthrough)
        return reply.text, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Executes the command in a response; see `protocol.project_action`."""
        if self._engine is None or self._is_over:
            raise RuntimeError("The episode is over or was never begun. Call reset first.")
        projected = protocol.project_action(action, think=self._think)
        reply = self._engine.step(projected.action)
        self._turn += 1
        truncated = self._turn >= self._max_turns and not reply.won
        self._is_over = reply.won or truncated
        reward = self._reward_scale * reply.won
        return reply.text, reward, reply.won, truncated, self._info(reply, projected)

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes role, observation, admissible commands and format."""
        if not self._instructions:
            return self._bare(observation, info)
        return protocol.first_message(
            observation,
            info["admissible_commands"],
            think=self._think,
            show_commands=self._show_commands,
        )

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes observation and admissible commands; the rest stands further up in the chat."""
        return self._bare(observation, info)

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """Writes a message that stands alone: task, last turns, observation, format."""
        if not self._instructions:
            return protocol.bare_window_message(
                history,
                observation,
                info["admissible_commands"],
                task=info["task"],
                show_commands=self._show_commands,
            )
        return protocol.window_message(
            history,
            observation,
            info["admissible_commands"],
            task=info["task"],
            turn=info["turn"],
            think=self._think,
            show_commands=self._show_commands,
        )

    def response_of(self, command: str) -> str:
        """The command in its tags, behind empty think tags unless `think="off"`."""
        thought = "" if self._think == "off" else "<think></think>"
        return thought + super().response_of(command)

    @classmethod
    def largest_return(cls, env_config: Mapping[str, Any]) -> float:
        """The reward of a win."""
        return float(env_config.get("reward_scale", 1.0))

    @classmethod
    def skill_categories(cls, task_type: str, first_observation: str) -> tuple[str, ...]:
        """The category of the task type."""
        del first_observation
        return skill_categories(task_type)

    def close(self) -> None:
        """Ends the engine, if it holds anything."""
        self._close_engine()
        self._is_over = True

    def _bare(self, observation: str, info: Mapping[str, Any]) -> str:
        return protocol.bare_message(
            observation, info["admissible_commands"], show_commands=self._show_commands
        )

    def _info(self, reply: EngineReply, projected: protocol.ProjectedAction) -> dict[str, Any]:
        return {
            "task_id": self._task_id,
            "task_type": self._source.task_type(self._task_id),
            "won": reply.won,
            "is_action_valid": projected.is_valid,
            "action": projected.action,
            "anchor": reply.text,
            "admissible_commands": reply.admissible_commands,
            "turn": self._turn,
            "task": self._task,
        }

    def _make_engine(self, task_id: str) -> Engine:
        if self._engine_name == "fast":
            return FastEngine(self._source.game(task_id))
        from stepopsd_envs.alfworld.textworld_engine import TextWorldEngine

        with tempfile.TemporaryDirectory(prefix="alfworld_game_") as scratch:
            return TextWorldEngine(self._source.game_file(task_id, Path(scratch)))

    def _close_engine(self) -> None:
        close = getattr(self._engine, "close", None)
        if close is not None:
            close()
        self._engine = None


def _require_positive(key: str, value: Any, kinds: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
        expected = "whole number" if kinds is int else "number"
        raise ValueError(f"{key}={value!r} must be a {expected} above 0.")
