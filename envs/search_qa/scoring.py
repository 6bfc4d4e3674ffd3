"""Exact match as the question-answering benchmarks define it, and its summary over a data set.

The normalisation is that of SQuAD (arXiv:1606.05250); the extraction rules are those of Search-R1
(arXiv:2503.09516).
"""

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def normalize_answer(text: str) -> str:
    """Lower-cases, deletes ASCII punctuation, drops the articles, collapses white space.

    Punctuation leaves no space behind ("U.S.A." becomes "usa"); other punctuation stays.
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, golden_answers: str | Sequence[str]) -> bool:
    """Whether the prediction equals any golden answer, both normalised."""
    normalized = normalize_answer(prediction)
    return any(normalized == normalize_answer(answer) for answer in _as_list(golden_answers))


def substring_match(prediction: str, golden_answers: str | Sequence[str]) -> bool:
    """Whether any golden answer occurs within the prediction, both normalised."""
    normalized = normalize_answer(prediction)
    return any(normalize_answer(answer) in normalized for answer in _as_list(golden_answers))


def last_answer(text: str, *, required_matches: int = 1) -> str | None:
    """Finds the content of the last `<answer>` block, stripped.

    Args:
        text: What is searched.
        required_matches: How many blocks there must be. 2 for a text that begins with a prompt
            whose worked example holds one: programs that score prompt and response together.

    Returns:
        None if there are fewer blocks.
    """
    answers = _ANSWER.findall(text)
    return answers[-1].strip() if len(answers) >= required_matches else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactMatch:
    """Mean exact match of one data source.

    Attributes:
        questions: Number of questions.
        correct: How many were answered exactly.
        mean: correct / questions.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    questions: int
    correct: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactMatchSummary:
    """Exact match over a whole evaluation in which every question was scored once.

    Attributes:
        sources: Per data source, in alphabetical order.
        mean_over_sources: Unweighted mean of the sources, the "Avg" of the papers' tables.
        mean_over_questions: Every question counts the same.
    """

    sources: dict[str, ExactMatch]
    mean_over_sources: float
    mean_over_questions: float


def summarize(results: Iterable[tuple[str, str, bool]]) -> ExactMatchSummary:
    """Sums up an evaluation.

    Args:
        results: Task id, data source and whether the answer matched, of every question.

    Raises:
        ValueError: There is no result, or a question was scored twice: batches that are filled
            up with repeated questions bias the mean.
    """
    seen: set[str] = set()
    outcomes: dict[str, list[bool]] = {}
    for task_id, source, is_correct in results:
        if task_id in seen:
            raise ValueError(f"task {task_id!r} was scored twice. Score every question once.")
        seen.add(task_id)
        outcomes.setdefault(source, []).append(is_correct)
    if not seen:
        raise ValueError("no results: there is nothing to average.")
    sources = {source: _exact_match_of(outcomes[source]) for source in sorted(outcomes)}
    return ExactMatchSummary(
        sources=sources,
        mean_over_sources=sum(source.mean for source in sources.values()) / len(sources),
        mean_over_questions=sum(source.correct for source in sources.values()) / len(seen),
    )


def _exact_match_of(outcomes: Sequence[bool]) -> ExactMatch:
    questions, correct = len(outcomes), sum(outcomes)
    interval = binomtest(correct, questions).proportion_ci(method="wilson")
    return ExactMatch(
        questions=questions,
        correct=correct,
        mean=correct / questions,
        low=float(interval.low),
        high=float(interval.high),
    )


def _as_list(golden_answers: str | Sequence[str]) -> Sequence[str]:
    return [golden_answers] if isinstance(golden_answers, str) else golden_answers
