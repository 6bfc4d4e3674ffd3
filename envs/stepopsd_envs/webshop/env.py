"""WebShop as a text environment: something to buy, a search bar, and one click a turn."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from stepopsd_envs.alfworld.protocol import THINK_MODES, ProjectedAction, ThinkMode
from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn
from stepopsd_envs.text_env import (
    HistoryTurn,
    TextEnv,
    refuse_unknown_keys,
    require_bool,
    require_choice,
)
from stepopsd_envs.webshop import protocol
from stepopsd_envs.webshop.expert import GoalExpert, wanted_options
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.goods import DEPARTMENT_PATHS
from stepopsd_envs.webshop.nouns import TAGGERS, TaggerName, noun_tagger
from stepopsd_envs.webshop.pages import OBSERVATION_MODES, ObservationMode
from stepopsd_envs.webshop.products import Product
from stepopsd_envs.webshop.reward import Score, score_purchase
from stepopsd_envs.webshop.session import RESULTS_PER_PAGE, Effect, Session
from stepopsd_envs.webshop.sizes import SIZE_SPECS, SIZES
from stepopsd_envs.webshop.skill_rules import shopping_skills
from stepopsd_envs.webshop.tasks import (
    GOAL_KINDS,
    GOAL_SHUFFLES,
    SHUFFLE_SEED,
    SPLIT_SIZES,
    GoalKind,
    GoalShuffle,
    Task,
    task_source,
)

REWARDS = ("success", "score")
VALIDITIES = ("admissible", "format")

_SKILLS = Path(__file__).parent / "skills"
_MAX_GOLDEN_TURNS = 15
_CACHED_SOLUTIONS = 4096


class WebShopEnv(TextEnv):
    """Buys what it is told to (WebShop, arXiv:2207.01206).

    A purchase is scored from 0 to 1 and terminates, `max_turns` truncates. Reward:
    `reward_scale` for a score of exactly 1, else 0; with `reward="score"` the score times the
    scale. Beyond the keys that every text environment writes, `info` has

    - `task_score`, the score of the purchase, 0 until then;
    - `instruction`, `available_actions` (tuple), `turn` (turns taken);
    - `is_executed`, whether the page had the action; otherwise nothing happened;
    - `solvable`, whether the goal's own product with the goal's own options scores 1;
    - `noun_tagger`, "spacy" or "packaged";
    - after a purchase `score_parts`, what the score is made of.

    `anchor` is the page as messages show it. `reset` adds `golden_rollout`, an expert's actions,
    for goals that can be won.
    """

    thread_safe: ClassVar[bool] = True
    action_calls: ClassVar[tuple[str, ...]] = ("search", "click")
    embedded_model: ClassVar[str | Path | None] = "webshop"
    skill_libraries: ClassVar[Mapping[str, str | Path]] = {
        "webshop": _SKILLS / "full",
        "webshop_brief": _SKILLS / "brief",
    }
    refusals: ClassVar[tuple[str, ...] | None] = ()
    task_phrases: ClassVar[tuple[str, ...]] = protocol.TASK_PHRASES
    turn_phrases: ClassVar[tuple[str, ...]] = protocol.TURN_PHRASES

    def __init__(
        self,
        *,
        data: str | Path | Mapping[str, str] = "generated",
        size: str = "tiny",
        goals: GoalKind = "synthetic",
        num_products: int | None = None,
        goal_seed: int = SHUFFLE_SEED,
        goal_shuffle: GoalShuffle = "fixed",
        split_sizes: Sequence[int] = SPLIT_SIZES,
        observation_mode: ObservationMode = "text",
        max_turns: int = 15,
        think: ThinkMode = "required",
        instructions: bool = True,
        reward: Literal["success", "score"] = "success",
        reward_scale: float = 1.0,
        validity: Literal["admissible", "format"] = "admissible",
        strict_options: bool = True,
        nouns: TaggerName = "auto",
        show_attributes: bool = False,
        show_reviews: bool = False,
        results_per_page: int | None = None,
        **unknown: Any,
    ):
        """Makes an environment; copies in one process share shops and goals.

        Args:
            data: "generated"; a folder with WebShop's files `items_shuffle*.json`,
                `items_ins_v2*.json` and `items_human_ins*.json`; or a mapping that names these as
                `products`, `annotations` and `human`.
            size: Size of generated shops: "tiny", "small" or "full" (1,000 products).
            goals: "synthetic", made of annotations, or "human", written by people. Not for
                generated shops.
            num_products: Entries read from the beginning of the product file; None: all.
            goal_seed: Seed of drawn prices and price caps (the original draws them unseeded).
            goal_shuffle: "fixed": one order of the goals, the original's. "verl_agent": one order a
                worker, as in the agent family, so that goals of training are evaluated on; only to
                reproduce its numbers.
            split_sizes: Sizes of official splits: goals of `valid_unseen`, then of `valid_seen`
                (the original's test and development sets: 500 and 1,000).
            observation_mode: "text" or "text_rich".
            max_turns: Turns after which an episode is truncated (papers: 15).
            think: Whether a valid response must ("required"), may ("optional") or need not
                ("off", not asked for) hold its reasoning in think tags.
            instructions: False: messages are the bare page, for models trained on that.
            reward: "success", as in the agent family, or "score", the original's.
            reward_scale: Largest reward (papers: 10).
            validity: "admissible": an action that the page does not have counts as invalid.
                "format": only the format of the response counts, as in the agent family.
            strict_options: The original compares the bare colour of what was chosen with the whole
                name of what was asked for, so that some goals cannot be won. False: an option
                chosen to the letter always counts.
            nouns: What tags titles: "spacy", "packaged", or "auto", spaCy where it is installed.
            show_attributes: Whether a product's annotations have a page.
            show_reviews: Whether ratings and reviews are filled in (the original leaves them out).
            results_per_page: Products on a page of results; None: 10, or what the size says.
            unknown: Refused, with the nearest key there is.
        """
        super().__init__()
        refuse_unknown_keys(WebShopEnv, unknown)
        think = "off" if think is False else think  # as YAML reads `think: off`
        for key, value, known in (
            ("size", size, SIZES),
            ("goals", goals, GOAL_KINDS),
            ("goal_shuffle", goal_shuffle, GOAL_SHUFFLES),
            ("observation_mode", observation_mode, OBSERVATION_MODES),
            ("think", think, THINK_MODES),
            ("reward", reward, REWARDS),
            ("validity", validity, VALIDITIES),
            ("nouns", nouns, TAGGERS),
        ):
            require_choice(key, value, known)
        for key, value in (
            ("instructions", instructions),
            ("strict_options", strict_options),
            ("show_attributes", show_attributes),
            ("show_reviews", show_reviews),
        ):
            require_bool(key, value)
        _require_positive("max_turns", max_turns, int)
        _require_positive("reward_scale", reward_scale, (int, float))
        if results_per_page is None:
            is_generated = data == "generated"
            results_per_page = SIZE_SPECS[size].results_per_page if is_generated else None
        else:
            _require_positive("results_per_page", results_per_page, int)
        self._source = task_source(
            data,
            size,
            goals=goals,
            num_products=num_products,
            goal_seed=goal_seed,
            goal_shuffle=goal_shuffle,
            split_sizes=split_sizes,
        )
        self._mode: ObservationMode = observation_mode
        self._max_turns = max_turns
        self._think: ThinkMode = think
        self._instructions = instructions
        self._pays_score = reward == "score"
        self._reward_scale = float(reward_scale)
        self._needs_admissible = validity == "admissible"
        self._strict_options = strict_options
        self._tagger_name, self._nouns = noun_tagger(nouns)
        self._show_attributes = show_attributes
        self._show_reviews = show_reviews
        self._results_per_page = results_per_page or RESULTS_PER_PAGE
        self._solution = functools.lru_cache(maxsize=_CACHED_SOLUTIONS)(self._solve)
        self._task_id = ""
        self._task: Task | None = None
        self._session: Session | None = None
        self._turn = 0
        self._is_over = True

    @property
    def goal(self) -> Goal:
        """The goal being played: what an expert may look at."""
        return self._playing().goal

    @property
    def clickables(self) -> tuple[str, ...]:
        """Names that can be clicked on the page: what a scripted player reads."""
        if self._session is None:
            raise RuntimeError("No goal is being played. Call reset first.")
        return self._session.clickables

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of the tasks of a split, sorted."""
        return self._source.tasks(split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Starts the task `options["task"]`, or one of the train split drawn with `seed`."""
        super().reset(seed=seed)
        task_id = self.task_for_reset(options)
        self._task, self._task_id = self._source.task(task_id), task_id
        self._session = self._new_session(self._task)
        self._turn, self._is_over = 0, False
        observation = self._session.observation(self._mode)
        info = self._info(observation, ProjectedAction("", True), Effect(True))
        solution = self._solution(task_id)
        if solution:
            info["golden_rollout"] = protocol.golden_rollout(solution)
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Does the action in a response; see `protocol.project` and `Session.act`."""
        if self._session is None or self._is_over:
            raise RuntimeError("The episode is over or was never begun. Call reset first.")
        projected = protocol.project(action, think=self._think)
        effect = self._session.act(projected.action)
        self._turn += 1
        terminated = effect.purchase is not None
        truncated = self._turn >= self._max_turns and not terminated
        self._is_over = terminated or truncated
        observation = self._session.observation(self._mode)
        info = self._info(observation, projected, effect)
        earned = info["task_score"] if self._pays_score else float(info["won"])
        return observation, self._reward_scale * earned, terminated, truncated, info

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes role, task, page, available actions and format."""
        if not self._instructions:
            return protocol.bare_first_message(observation, instruction=info["instruction"])
        page = protocol.without_instruction(observation, info["instruction"])
        return protocol.first_message(
            page, info["available_actions"], instruction=info["instruction"], think=self._think
        )

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes page and available actions; the rest stands further up in the chat."""
        if not self._instructions:
            return protocol.bare_page(observation, info["instruction"])
        page = protocol.without_instruction(observation, info["instruction"])
        return protocol.append_message(page, info["available_actions"])

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """Writes a message that stands alone: task, last turns, page, actions, format."""
        if not self._instructions:
            return protocol.bare_window_message(
                history, observation, instruction=info["instruction"]
            )
        page = protocol.without_instruction(observation, info["instruction"])
        return protocol.window_message(
            history,
            page,
            info["available_actions"],
            instruction=info["instruction"],
            turn=info["turn"],
            think=self._think,
        )

    def response_of(self, command: str) -> str:
        """The action in its tags, behind empty think tags unless `think="off"`.

        A person may write "search red shoes", "click large" or simply "large"; see
        `protocol.action_of`.
        """
        page = self._session
        names, has_search_bar = (
            ((), False) if page is None else (page.clickables, page.has_search_bar)
        )
        action = protocol.action_of(command, names, has_search_bar=has_search_bar)
        thought = "" if self._think == "off" else "<think></think>"
        return thought + super().response_of(action)

    @classmethod
    def largest_return(cls, env_config: Mapping[str, Any]) -> float:
        """The reward of a purchase that scores 1."""
        return float(env_config.get("reward_scale", 1.0))

    @classmethod
    def skill_categories(cls, task_type: str, first_observation: str) -> tuple[str, ...]:
        """The department; the general skills alone where there are none for it."""
        del first_observation
        return (task_type,) if task_type in DEPARTMENT_PATHS else ()

    @classmethod
    def skill_rules(
        cls, task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
    ) -> EpisodeSkills | None:
        """The path to the purchase, or what was missed and wasted."""
        return shopping_skills(task, turns, won=won, max_step_skills=max_step_skills)

    def _playing(self) -> Task:
        if self._task is None:
            raise RuntimeError("No goal is being played. Call reset first.")
        return self._task

    def _new_session(self, task: Task) -> Session:
        def buy(product: Product, options: Mapping[str, str]) -> Score:
            return self._score(task, product, options)

        return Session(
            task.goal.instruction,
            shop=task.shop,
            buy=buy,
            results_per_page=self._results_per_page,
            show_attributes=self._show_attributes,
            show_reviews=self._show_reviews,
        )

    def _score(self, task: Task, product: Product, options: Mapping[str, str]) -> Score:
        return score_purchase(
            product,
            options,
            task.prices[task.shop.number(product.asin.upper())],
            task.goal,
            nouns=self._nouns,
            strict_options=self._strict_options,
        )

    def _solve(self, task_id: str) -> tuple[str, ...]:
        """An expert's actions that win a task; none if it cannot be won."""
        task = self._source.task(task_id)
        product = task.shop.product(task.shop.number(task.goal.asin.upper()))
        options = wanted_options(task.goal, product)
        if self._score(task, product, options).total != 1.0:
            return ()
        session = self._new_session(task)
        expert = GoalExpert(task.goal, options)
        actions: list[str] = []
        for _ in range(_MAX_GOLDEN_TURNS):
            actions.append(expert.act(session.clickables))
            purchase = session.act(actions[-1]).purchase
            if purchase is not None:
                return tuple(actions) if purchase.total == 1.0 else ()
        return ()

    def _info(self, observation: str, projected: ProjectedAction, effect: Effect) -> dict[str, Any]:
        assert self._session is not None
        goal, purchase = self._playing().goal, effect.purchase
        info = {
            "task_id": self._task_id,
            "task_type": goal.category,
            "won": purchase is not None and purchase.total == 1.0,
            "is_action_valid": projected.is_valid
            and (effect.is_executed or not self._needs_admissible),
            "action": projected.action,
            "anchor": protocol.without_instruction(observation, goal.instruction),
            "task_score": 0.0 if purchase is None else float(purchase.total),
            "instruction": goal.instruction,
            "available_actions": protocol.available_actions(
                self._session.has_search_bar, self._session.clickables
            ),
            "turn": self._turn,
            "is_executed": effect.is_executed,
            "solvable": bool(self._solution(self._task_id)),
            "noun_tagger": self._tagger_name,
        }
        if purchase is not None:
            info["score_parts"] = purchase._asdict()
        return info


def _require_positive(key: str, value: Any, kinds: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
        expected = "whole number" if kinds is int else "number"
        raise ValueError(f"{key}={value!r} must be a {expected} above 0.")
