"""Exact match as the question-answering benchmarks define it.

The normalisation is that of SQuAD (arXiv:1606.05250); the extraction rules are those of Search-R1
(arXiv:2503.09516).
"""

import re
import string
from collections.abc import Sequence

from stepopsd_envs.tag_blocks import tag_blocks

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


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


def is_right_answer(prediction: str, golden_answers: str | Sequence[str]) -> bool:
    """Whether an answer is rewarded: `exact_match`, but where that compares nothing with nothing.

    "The The", "A" or "?" normalise to nothing, and so does every blank answer. Such a golden answer
    is matched by what equals it as it is written, but for case and white space.
    """
    golden = _as_list(golden_answers)
    if normalize_answer(prediction):
        return exact_match(prediction, golden)
    written = _as_written(prediction)
    return bool(written) and any(
        written == _as_written(answer) for answer in golden if not normalize_answer(answer)
    )


def _as_written(text: str) -> str:
    return " ".join(text.casefold().split())


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
    answers = [block.content for block in tag_blocks(text, ("answer",))]
    return answers[-1].strip() if len(answers) >= required_matches else None


def _as_list(golden_answers: str | Sequence[str]) -> Sequence[str]:
    return [golden_answers] if isinstance(golden_answers, str) else golden_answers
