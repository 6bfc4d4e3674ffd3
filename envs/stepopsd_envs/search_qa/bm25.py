"""BM25 over passages in the process, for corpora up to about 100,000 of them."""

from collections.abc import Sequence

from stepopsd_envs.bm25 import BM25
from stepopsd_envs.search_qa.retriever import Passage


class BM25Index:
    """Passages with their index. Picklable; searches may run in parallel."""

    def __init__(self, passages: Sequence[Passage]):
        """Indexes the passages; among equal scores the earlier passage comes first."""
        if not passages:
            raise ValueError("The corpus has no passages.")
        self._passages = tuple(passages)
        self._index = BM25(passage.contents for passage in passages)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns the best passages of each query; see `Retriever.search`."""
        return [self._search(query, top_k) for query in queries]

    def close(self) -> None:
        """Does nothing: the index is in memory."""

    def _search(self, query: str, top_k: int) -> list[Passage]:
        numbers, scores = self._index.best(query, top_k)
        if len(numbers) == 0:
            return list(self._passages[:top_k])
        return [
            Passage(
                id=self._passages[number].id,
                contents=self._passages[number].contents,
                score=float(score),
            )
            for number, score in zip(numbers, scores, strict=True)
        ]
