"""BM25 in the process, for corpora up to about 100,000 passages. Needs NumPy only; deterministic.

The scoring is Okapi BM25 as Lucene writes it (Robertson & Zaragoza 2009, "The Probabilistic
Relevance Framework: BM25 and Beyond"):

    score(q, d) = Σ_{t in q} idf(t) · tf / (tf + k1 · (1 − b + b · |d| / mean|d|))
    idf(t) = ln(1 + (N − n_t + ½) / (n_t + ½))
"""

import re
from collections.abc import Sequence

import numpy as np

from stepopsd_envs.search_qa.retriever import Passage

K1, B = 0.9, 0.4
"""Anserini's defaults for passages (Pyserini, arXiv:2102.10073)."""

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
"""Lucene's English stop words."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Splits a text into lower-case words without stop words."""
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


class BM25Index:
    """An inverted index with precomputed weights. Picklable; searches may run in parallel."""

    def __init__(self, passages: Sequence[Passage]):
        """Indexes the passages; among equal scores the earlier passage comes first."""
        if not passages:
            raise ValueError("The corpus has no passages.")
        self._passages = tuple(passages)
        vocabulary: dict[str, int] = {}
        occurrences: list[int] = []
        lengths = np.empty(len(passages), dtype=np.int64)
        for number, passage in enumerate(passages):
            tokens = words(passage.contents)
            lengths[number] = len(tokens)
            occurrences.extend([vocabulary.setdefault(token, len(vocabulary)) for token in tokens])
        self._vocabulary = vocabulary
        self._weigh(np.array(occurrences, dtype=np.int64), lengths)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns the best passages of each query; see `Retriever.search`."""
        return [self._search(query, top_k) for query in queries]

    def close(self) -> None:
        """Holds nothing open."""

    def _weigh(self, words_of_corpus: np.ndarray, lengths: np.ndarray) -> None:
        """Computes the weight of every (word, passage) pair, sorted by word, then passage."""
        count = len(lengths)
        passages_of_corpus = np.repeat(np.arange(count), lengths)
        pairs, frequencies = np.unique(
            words_of_corpus * count + passages_of_corpus, return_counts=True
        )
        word_of_pair, passage_of_pair = pairs // count, pairs % count
        holders = np.bincount(word_of_pair, minlength=len(self._vocabulary))
        idf = np.log1p((count - holders + 0.5) / (holders + 0.5))
        mean_length = max(lengths.mean(), 1.0)
        saturation = K1 * (1 - B + B * lengths[passage_of_pair] / mean_length)
        self._weights = idf[word_of_pair] * frequencies / (frequencies + saturation)
        self._posting_passages = passage_of_pair
        self._starts = np.concatenate([[0], np.cumsum(holders)])

    def _search(self, query: str, top_k: int) -> list[Passage]:
        scores = np.zeros(len(self._passages))
        for word in words(query):
            number = self._vocabulary.get(word)
            if number is not None:
                posting = slice(self._starts[number], self._starts[number + 1])
                scores[self._posting_passages[posting]] += self._weights[posting]
        found = np.flatnonzero(scores)
        if len(found) == 0:
            return list(self._passages[:top_k])
        if len(found) > top_k:
            # Everything that ties with the last place stays, so that the order below decides.
            least = np.partition(scores[found], -top_k)[-top_k]
            found = found[scores[found] >= least]
        best = found[np.lexsort((found, -scores[found]))][:top_k]
        return [
            Passage(
                id=self._passages[number].id,
                contents=self._passages[number].contents,
                score=float(scores[number]),
            )
            for number in best
        ]
