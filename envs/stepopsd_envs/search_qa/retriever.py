"""What every retriever is to the environment: queries in, passages or a named failure out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One piece of a corpus.

    Attributes:
        id: Names it in its corpus.
        contents: Title on the first line (published corpora put it in quotes), text below.
        score: Relevance to the query; comparable within one answer only.
    """

    id: str
    contents: str
    score: float = 0.0


class RetrievalError(RuntimeError):
    """No evidence could be had. Never shown to the policy.

    Attributes:
        status: What failed, in a word to count by: "refused", "timeout", "http_500", ...
        reason: The message without the status.
    """

    def __init__(self, status: str, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status
        self.reason = message


class Retriever(Protocol):
    """Finds passages. May be called from several threads at once.

    A retriever never answers with nothing: where no passage matches, it gives the first of the
    corpus with score 0, as a dense index gives its nearest, however far.
    """

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns, for each query, 1 to `top_k` passages, best first.

        Raises:
            RetrievalError: There is no answer.
        """
        ...

    def close(self) -> None:
        """Lets go of files and connections."""
        ...
