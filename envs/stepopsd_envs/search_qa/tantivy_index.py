"""BM25 on disk with tantivy, for corpora of millions of passages. Needs the extra `search`."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.bm25 import STOP_WORDS
from stepopsd_envs.search_qa.corpus import corpus_fingerprint, read_corpus
from stepopsd_envs.search_qa.retriever import Passage

_DESCRIPTION_FILE = "stepopsd_index.json"
_FORMAT = 1
_WRITER_BYTES = 256 * 2**20
_ANALYZER = "en_stem"
_WORD = re.compile(r"\w+")
_PROGRESS_EVERY = 100_000
_MAX_QUERY_WORDS = 256


class IndexFolderError(ValueError):
    """A folder holds no index that can be used."""


def build_index(
    corpus: str | Path, folder: str | Path, *, progress: Callable[[int], None] | None = None
) -> int:
    """Indexes a corpus into a folder, which appears only when it is complete.

    One thread writes: with several, passages of equal score would come in another order from
    one build to the next.

    Args:
        corpus: JSON lines; see `read_corpus`.
        folder: Must not be there yet.
        progress: Called with the number of passages read, now and then.

    Returns:
        The number of passages.
    """
    tantivy = _import_tantivy()
    folder = Path(folder)
    fingerprint = corpus_fingerprint(corpus)
    if folder.exists():
        raise IndexFolderError(f"{folder}: already there. Delete it or name another folder.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise IndexFolderError(
            f"{folder}: cannot be made ({error.strerror}). Name a folder that can be written."
        ) from None
    try:
        count = _write(tantivy, corpus, partial, progress)
        description = {
            "format": _FORMAT,
            "corpus": fingerprint,
            "corpus_path": str(Path(corpus).resolve()),
            "passages": count,
        }
        (partial / _DESCRIPTION_FILE).write_text(json.dumps(description), encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _write(
    tantivy: Any, corpus: str | Path, folder: Path, progress: Callable[[int], None] | None
) -> int:
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("id", stored=True, index_option="basic", tokenizer_name="raw")
    schema.add_text_field("contents", stored=True, index_option="freq", tokenizer_name=_ANALYZER)
    writer = tantivy.Index(schema.build(), path=str(folder)).writer(_WRITER_BYTES, 1)
    count = 0
    try:
        for count, passage in enumerate(read_corpus(corpus), start=1):
            writer.add_document(tantivy.Document(id=passage.id, contents=passage.contents))
            if progress and count % _PROGRESS_EVERY == 0:
                progress(count)
        writer.commit()
    except BaseException:
        writer.rollback()
        raise
    finally:
        writer.wait_merging_threads()  # they would go on writing into the folder
    return count


class TantivyIndex:
    """Searches an index folder; thread-safe. Not picklable: open the folder in each process."""

    def __init__(self, folder: str, *, corpus: str | None = None):
        """Opens a folder made by `build_index`.

        Args:
            folder: The index.
            corpus: The index must have been built from this file as it is now. By default the file
                that it was built from, if that is still there.
        """
        tantivy = _import_tantivy()
        self._tantivy = tantivy
        path = Path(folder)
        description = _read_description(path)
        if corpus is None and Path(description.get("corpus_path", "")).is_file():
            corpus = description["corpus_path"]
        if corpus is not None and description["corpus"] != corpus_fingerprint(corpus):
            raise IndexFolderError(
                f"{folder}: the index of another corpus than {corpus}, or of an older state of it. "
                f"Delete it and build it anew with `stepopsd index {corpus}`."
            )
        self.passages = int(description["passages"])
        self._index = tantivy.Index.open(str(path))
        self._searcher = self._index.searcher()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns the best passages of each query; see `Retriever.search`."""
        return [self._search(query, top_k) for query in queries]

    def close(self) -> None:
        """Lets go of the files."""
        del self._searcher, self._index

    def _search(self, query: str, top_k: int) -> list[Passage]:
        # Bare words only: the query language would stumble over what models write. Stop words stand
        # in nearly every passage: they cost most of the time and tell passages hardly apart.
        everything = _WORD.findall(query.lower())
        words = ([w for w in everything if w not in STOP_WORDS] or everything)[:_MAX_QUERY_WORDS]
        parsed, _ = self._index.parse_query_lenient(" ".join(words), ["contents"])
        hits = self._searcher.search(parsed, top_k, count=False).hits if words else []
        if not hits:
            matches = self._searcher.search(self._tantivy.Query.all_query(), top_k, count=False)
            hits = [(0.0, address) for _, address in matches.hits]
        return [self._passage(score, address) for score, address in hits]

    def _passage(self, score: float, address: Any) -> Passage:
        document = self._searcher.doc(address)
        return Passage(
            id=document.get_first("id"),
            contents=document.get_first("contents"),
            score=float(score),
        )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IndexFolderError(
            f"{folder}: no index made by `stepopsd index` (it has no {_DESCRIPTION_FILE})."
        ) from None
    if description.get("format") != _FORMAT:
        raise IndexFolderError(
            f"{path}: format={description.get('format')!r}, but this version reads {_FORMAT}. "
            "Build the index anew."
        )
    return description


def _import_tantivy() -> Any:
    try:
        import tantivy
    except ImportError:
        raise ModuleNotFoundError(
            "tantivy is not installed. Install it with: pip install 'stepopsd-rllib[search]'"
        ) from None
    return tantivy
