"""Dense retrieval: a faiss index searched with embeddings of the queries.

Needs the extra `dense` and an encoder, which is not part of the package. E5 (arXiv:2212.03533)
embeds the mean over the tokens of "query: <text>", scaled to length 1.
"""

import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.search_qa.corpus import CorpusError, parse_line
from stepopsd_envs.search_qa.retriever import Passage
from stepopsd_envs.text_files import is_blank

_MAX_QUERY_TOKENS = 256


class DenseRetriever:
    """Searches a faiss index whose vector i belongs to line i of the corpus. Thread-safe."""

    def __init__(self, index: str, *, corpus: str, encoder: str, query_prefix: str = "query: "):
        """Loads index and encoder; of the corpus only where each line begins.

        Args:
            index: File written by `faiss.write_index`, inner product.
            corpus: The JSON lines it was built from, not compressed.
            encoder: Folder or name of the Hugging Face encoder that embedded them.
            query_prefix: Put before each query (E5: "query: ").
        """
        faiss, self._torch, transformers = _import_packages()
        for name, path in (("index", index), ("corpus", corpus)):
            if not Path(path).is_file():
                raise CorpusError(f"retriever.{name}={path!r}: no such file.")
        self._corpus = corpus
        self._starts = _line_starts(corpus)
        self._index = faiss.read_index(index)
        if self._index.ntotal != len(self._starts):
            raise CorpusError(
                f"{index}: the index of another corpus: it has {self._index.ntotal} vectors, but "
                f"{corpus} has {len(self._starts)} lines."
            )
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
        self._encoder = transformers.AutoModel.from_pretrained(encoder).eval()
        if self._encoder.config.hidden_size != self._index.d:
            raise CorpusError(
                f"encoder={encoder!r} makes vectors of {self._encoder.config.hidden_size} numbers, "
                f"but those of {index} have {self._index.d}. Name the encoder that built it."
            )
        self._query_prefix = query_prefix
        self._lock = threading.Lock()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns the best passages of each query; see `Retriever.search`."""
        embeddings = self.embed([f"{self._query_prefix}{query}" for query in queries])
        with self._lock:  # faiss on a GPU allows one search at a time
            scores, numbers = self._index.search(embeddings, min(top_k, len(self._starts)))
        return [
            [self._read(int(number), float(score)) for number, score in zip(*row, strict=True)]
            for row in zip(numbers, scores, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> Any:
        """Returns embeddings of length 1, float32 [len(texts), dimensions]."""
        torch = self._torch
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=_MAX_QUERY_TOKENS,
            return_tensors="pt",
        )
        with torch.no_grad(), self._lock:
            states_NTD = self._encoder(**tokens).last_hidden_state
        mask_NT1 = tokens["attention_mask"].unsqueeze(-1)
        mean_ND = (states_NTD * mask_NT1).sum(1) / mask_NT1.sum(1)
        return torch.nn.functional.normalize(mean_ND, dim=-1).numpy()

    def close(self) -> None:
        """Does nothing: the corpus is opened anew for each search."""

    def _read(self, number: int, score: float) -> Passage:
        with open(self._corpus, "rb") as file:
            file.seek(self._starts[number])
            passage = parse_line(file.readline(), f"{self._corpus}:{number + 1}")
        return Passage(id=passage.id, contents=passage.contents, score=score)


def _line_starts(path: str) -> array:
    starts, position = array("Q"), 0
    with open(path, "rb") as lines:
        for line in lines:
            if not is_blank(line):
                starts.append(position)
            position += len(line)
    return starts


def _import_packages() -> tuple[Any, Any, Any]:
    try:
        import faiss
    except ImportError:
        raise ModuleNotFoundError(
            "faiss is not installed. Install it with: pip install 'stepopsd-rllib[dense]'"
        ) from None
    import torch
    import transformers

    return faiss, torch, transformers
