"""Search-QA as a text environment: a question, searches over a corpus, one answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from stepopsd_envs.search_qa import protocol as protocols
from stepopsd_envs.search_qa.open_retriever import RetrieverSpec, open_retriever
from stepopsd_envs.search_qa.protocol import SearchAction
from stepopsd_envs.search_qa.retriever import RetrievalError, Retriever
from stepopsd_envs.search_qa.scoring import is_right_answer
from stepopsd_envs.search_qa.skill_categories import skill_categories
from stepopsd_envs.search_qa.skill_rules import is_search_episode, search_skills
from stepopsd_envs.search_qa.tasks import task_source
from stepopsd_envs.search_qa.text_limit import Tokenizer, count_tokens, first_tokens, load_tokenizer
from stepopsd_envs.search_qa.world import LEVELS, Question
from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn
from stepopsd_envs.text_env import (
    HistoryTurn,
    TextEnv,
    refuse_unknown_keys,
    require_bool,
    require_choice,
)

_PAPER_TOP_K = 3
_NO_OBSERVATION = "nothing"
_SKILLS = Path(__file__).parent / "skills"


class SearchQAEnv(TextEnv):
    """Answers questions with a search engine (Search-R1, arXiv:2503.09516).

    Reward: 1 in the turn of an answer that matches exactly, else 0; only what the policy wrote is
    scored, never a retrieved text. An answer terminates, the turn limit truncates. A retrieval
    that fails truncates too, with `tool_error` in `info` and an empty observation.

    Beyond the keys that every text environment writes, `info` has `question`, `turn` (turns taken)
    and `searches` (searches executed); `task_type` is the data source, `anchor` the observation.
    `reset` adds `golden_rollout`, searches and answer, for questions that say which facts they
    need.
    """

    thread_safe: ClassVar[bool] = True
    action_tags: ClassVar[tuple[str, ...]] = ("search", "answer")
    answer_tags: ClassVar[tuple[str, ...]] = ("answer",)
    embedded_model: ClassVar[str | Path | None] = "search_qa"
    skill_libraries: ClassVar[Mapping[str, str | Path]] = {
        "search_qa": _SKILLS / "full",
        "search_qa_brief": _SKILLS / "brief",
    }
    refusals: ClassVar[tuple[str, ...] | None] = ("action is invalid",)
    task_phrases: ClassVar[tuple[str, ...]] = protocols.TASK_PHRASES
    turn_phrases: ClassVar[tuple[str, ...]] = protocols.TURN_PHRASES

    def __init__(
        self,
        *,
        data: str | Path | Mapping[str, str | Sequence[str]] = "generated",
        level: str = "easy",
        retriever: RetrieverSpec | Retriever | None = None,
        protocol: protocols.Protocol = "append",
        top_k: int | None = None,
        max_turns: int = 4,
        max_observation_tokens: int = 500,
        max_question_tokens: int = 1024,
        tokenizer: str | Tokenizer | None = None,
        instructions: bool = True,
        **unknown: Any,
    ):
        """Makes an environment; copies in one process share worlds and retrievers.

        Args:
            data: "generated"; a folder with a file for each split; or the file, or files, of each
                split.
            level: Level of generated worlds: "easy", "one_hop", "two_hop" or "full".
            retriever: Where to search; not for generated worlds, which bring their own index. See
                `open_retriever`.
            protocol: "append", Search-R1's growing chat, or "window", the per-turn protocol.
            top_k: Passages a search returns; None: 3, as in the papers, or what the level says.
            max_turns: With "append" the turns in which a search is executed; one more follows
                for the answer alone. With "window" all turns, the answer included. (Papers: 4.)
            max_observation_tokens: Limit of the documents in one observation (papers: 500).
            max_question_tokens: Longer questions are refused at reset.
            tokenizer: What counts those tokens: a folder or name of a Hugging Face tokenizer, or
                a function from text to tokens. None: words are counted (an algorithm of
                `stepopsd_rllib` gives its model's tokenizer).
            instructions: False: messages hold question and evidence alone, for models trained on
                that.
            unknown: Refused, with the nearest key there is.
        """
        super().__init__()
        refuse_unknown_keys(SearchQAEnv, unknown)
        require_choice("protocol", protocol, protocols.PROTOCOLS)
        require_choice("level", level, tuple(LEVELS))
        require_bool("instructions", instructions)
        is_generated = data == "generated"
        top_k = (LEVELS[level].top_k if is_generated else _PAPER_TOP_K) if top_k is None else top_k
        for key, value in (
            ("top_k", top_k),
            ("max_turns", max_turns),
            ("max_observation_tokens", max_observation_tokens),
            ("max_question_tokens", max_question_tokens),
        ):
            _require_positive(key, value)
        self._retriever = _retriever_of_data(is_generated, retriever)
        self._source = task_source(data, level)
        self._protocol: protocols.Protocol = protocol
        self._top_k = top_k
        self._max_turns = max_turns
        self._max_observation_tokens = max_observation_tokens
        self._max_question_tokens = max_question_tokens
        self._tokenize = load_tokenizer(tokenizer)
        self._instructions = instructions
        self._task_id = ""
        self._question: Question | None = None
        self._turn = 0
        self._searches = 0
        self._is_over = True

    @property
    def question(self) -> Question:
        """The question being played: what an expert may look at."""
        if self._question is None:
            raise RuntimeError("No question is being played. Call reset first.")
        return self._question

    @property
    def max_searches(self) -> int:
        """Searches that an episode has room for before it must answer."""
        return self._max_turns if self._protocol == "append" else self._max_turns - 1

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of the tasks of a split, sorted."""
        return self._source.tasks(split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Asks the question `options["task"]`, or one of the train split drawn with `seed`."""
        super().reset(seed=seed)
        task_id = self.task_for_reset(options)
        question = self._source.question(task_id)
        text = protocols.with_question_mark(question.text)
        length = count_tokens(text, self._tokenize)
        if length > self._max_question_tokens:
            raise ValueError(
                f"task {task_id!r}: the question has {length} tokens, more than "
                f"max_question_tokens={self._max_question_tokens}. Raise it, if the model's "
                "context has room, or drop the question."
            )
        self._task_id, self._question = task_id, question
        self._turn, self._searches, self._is_over = 0, 0, False
        info = self._info(SearchAction(None, "", True), text, won=False)
        if question.lookups:
            info["golden_rollout"] = protocols.golden_rollout(
                [lookup.subject for lookup in question.lookups], question.golden_answers[0]
            )
        return text, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Executes the search or scores the answer in a response."""
        if self._is_over:
            raise RuntimeError("The episode is over or was never begun. Call reset first.")
        parse = protocols.parse_append if self._protocol == "append" else protocols.parse_window
        parsed = parse(action)
        self._turn += 1
        if parsed.kind == "answer":
            self._is_over = True
            won = is_right_answer(parsed.content, self.question.golden_answers)
            return "", float(won), True, False, self._info(parsed, "", won=won)
        if self._turn > self.max_searches:
            self._is_over = True
            return "", 0.0, False, True, self._info(parsed, "", won=False)
        if parsed.kind != "search":
            observation = protocols.INVALID_FEEDBACK if self._protocol == "append" else ""
            # Having been told nothing is a state too.
            anchor = observation or _NO_OBSERVATION
            return observation, 0.0, False, False, self._info(parsed, anchor, won=False)
        return self._search(parsed)

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes task, format and question."""
        if not self._instructions:
            return observation
        return protocols.first_message(info["question"], protocol=self._protocol)

    def end_turn(self, response: str) -> str:
        """In the growing chat a turn ends with its first complete action, as Search-R1's does."""
        return protocols.cut_after_action(response) if self._protocol == "append" else response

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Writes the observation; the rest stands further up in the chat."""
        return observation.strip()

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """Writes a message that stands alone: question, last turns, format."""
        if not self._instructions:
            return protocols.bare_window_message(history, observation, question=info["question"])
        return protocols.window_message(
            history, observation, question=info["question"], turn=info["turn"]
        )

    @classmethod
    def refuse_context(cls, context: str, env_config: Mapping[str, Any]) -> None:
        """Raises a ValueError unless context and protocol are of the same name."""
        protocol = env_config.get("protocol", "append")
        if protocol in protocols.PROTOCOLS and context != protocol:
            raise ValueError(
                f"context={context!r}: env_config.protocol={protocol!r} writes its evidence for "
                f"context={protocol!r}. Set context={protocol!r}, or env_config.protocol="
                f"{context!r}."
            )

    @classmethod
    def largest_return(cls, env_config: Mapping[str, Any]) -> float:
        """The reward of a right answer."""
        return 1.0

    @classmethod
    def skill_categories(cls, task_type: str, first_observation: str) -> tuple[str, ...]:
        """The category of the data source, or of a comparison."""
        return skill_categories(task_type, first_observation)

    @classmethod
    def skill_rules(
        cls, task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
    ) -> EpisodeSkills | None:
        """What was searched and found; the general rules where nothing was."""
        rules = search_skills if is_search_episode(turns) else super().skill_rules
        return rules(task, turns, won=won, max_step_skills=max_step_skills)

    def _search(self, parsed: SearchAction) -> tuple[str, float, bool, bool, dict[str, Any]]:
        retriever = self._retriever or self._source.retriever(self._task_id)
        if retriever is None:
            raise RuntimeError(f"task {self._task_id!r} has no retriever.")
        try:
            [passages] = retriever.search([parsed.content], self._top_k)
        except RetrievalError as error:
            self._is_over = True
            info = self._info(parsed, "", won=False)
            return "", 0.0, False, True, {**info, "tool_error": str(error)}
        self._searches += 1
        write = (
            protocols.append_information
            if self._protocol == "append"
            else protocols.window_information
        )
        observation = write(passages, self._shorten)
        return observation, 0.0, False, False, self._info(parsed, observation, won=False)

    def _shorten(self, documents: str) -> str:
        return first_tokens(documents, self._max_observation_tokens, self._tokenize)

    def _info(self, action: SearchAction, anchor: str, *, won: bool) -> dict[str, Any]:
        return {
            "task_id": self._task_id,
            "task_type": self.question.data_source,
            "won": won,
            "is_action_valid": action.is_valid,
            "action": action.text(),
            "anchor": anchor,
            "question": protocols.with_question_mark(self.question.text),
            "turn": self._turn,
            "searches": self._searches,
        }


def _retriever_of_data(
    is_generated: bool, retriever: RetrieverSpec | Retriever | None
) -> Retriever | None:
    if is_generated and retriever is not None:
        raise ValueError(
            f"retriever={retriever!r} with data='generated': a name means something else in every "
            "generated world, so each is searched with its own index. Leave retriever out, or "
            "write one world to files and name these in data."
        )
    if not is_generated and retriever is None:
        raise ValueError(
            "retriever is missing: questions from files bring no passages. Name a server "
            "('http://127.0.0.1:8000/retrieve'), a folder made by `stepopsd index`, or a corpus "
            "('corpus.jsonl')."
        )
    return None if retriever is None else open_retriever(retriever)


def _require_positive(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{key}={value!r} must be a whole number above 0.")
