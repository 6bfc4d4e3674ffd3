"""BM25 in the process, for up to about 100,000 texts. Needs NumPy only; deterministic.

Search-QA searches passages with it, WebShop products.

The scoring is Okapi BM25 as Lucene writes it (Robertson & Zaragoza 2009, "The Probabilistic
Relevance Framework: BM25 and Beyond"):

    score(q, d) = Σ_{t in q} idf(t) · tf / (tf + k1 · (1 − b + b · |d| / mean|d|))
    idf(t) = ln(1 + (N − n_t + ½) / (n_t + ½))
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

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

_EXACT_LENGTHS = 24
_MANTISSA_BITS = 4


def words(text: str) -> list[str]:
    """Splits a text into lower-case words without stop words."""
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def lucene_length(words_in_text: int) -> int:
    """The length that Lucene remembers of a text, in one byte: exact below 24, then rough."""
    excess = words_in_text - _EXACT_LENGTHS
    if excess < 0:
        return words_in_text
    shift = max(0, excess.bit_length() - _MANTISSA_BITS)
    return _EXACT_LENGTHS + (excess >> shift << shift)


class BM25:
    """An inverted index with precomputed weights. Picklable; searches may run in parallel."""

    def __init__(
        self,
        texts: Iterable[str],
        *,
        analyze: Callable[[str], list[str]] = words,
        remembered_length: Callable[[int], int] | None = None,
    ):
        """Indexes the texts, numbered from 0.

        Args:
            texts: At least one.
            analyze: Splits a text or a query into the words that are compared.
            remembered_length: What the index remembers of a text's length, such as
                `lucene_length`; None: the length itself. The mean length is always exact.
        """
        self._analyze = analyze
        vocabulary: dict[str, int] = {}
        occurrences: list[int] = []
        counts: list[int] = []
        for text in texts:
            tokens = analyze(text)
            counts.append(len(tokens))
            occurrences.extend([vocabulary.setdefault(token, len(vocabulary)) for token in tokens])
        if not counts:
            raise ValueError("There is no text to index.")
        self.size = len(counts)
        self._vocabulary = vocabulary
        lengths = np.array(counts, dtype=np.int64)
        remembered = lengths
        if remembered_length is not None:
            remembered = np.array([remembered_length(count) for count in counts], dtype=np.int64)
        self._weigh(np.array(occurrences, dtype=np.int64), lengths, remembered)

    def best(self, query: str, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the texts that share a word with a query, best first; of equals the earlier one.

        Returns:
            Numbers of the texts, int64 [n], and their scores, float64 [n], n at most `top_k`;
            n = 0 where nothing matches.
        """
        scores = np.zeros(self.size)
        for word in self._analyze(query):
            number = self._vocabulary.get(word)
            if number is not None:
                posting = slice(self._starts[number], self._starts[number + 1])
                scores[self._posting_texts[posting]] += self._weights[posting]
        found = np.flatnonzero(scores)
        if len(found) > top_k:
            # Everything that ties with the last place stays, so that the order below decides.
            least = np.partition(scores[found], -top_k)[-top_k]
            found = found[scores[found] >= least]
        best = found[np.lexsort((found, -scores[found]))][:top_k]
        return best, scores[best]

    def _weigh(
        self, words_of_texts: np.ndarray, lengths: np.ndarray, remembered: np.ndarray
    ) -> None:
        """Computes the weight of every (word, text) pair, sorted by word, then text."""
        count = len(lengths)
        texts_of_words = np.repeat(np.arange(count), lengths)
        pairs, frequencies = np.unique(words_of_texts * count + texts_of_words, return_counts=True)
        word_of_pair, text_of_pair = pairs // count, pairs % count
        holders = np.bincount(word_of_pair, minlength=len(self._vocabulary))
        idf = np.log1p((count - holders + 0.5) / (holders + 0.5))
        mean_length = max(lengths.mean(), 1.0)
        saturation = K1 * (1 - B + B * remembered[text_of_pair] / mean_length)
        self._weights = idf[word_of_pair] * frequencies / (frequencies + saturation)
        self._posting_texts = text_of_pair
        self._starts = np.concatenate([[0], np.cumsum(holders)])
