"""Reads a corpus: JSON lines with `id` and `contents`, the published form of wiki-18.

`contents` is the title on the first line and the text below; `title` and `text` apart are taken
too. A name that ends in .gz is decompressed.
"""

import gzip
import hashlib
import json
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stepopsd_envs.search_qa.retriever import Passage

_FINGERPRINT_BYTES = 2**20
_DIGEST_BYTES = 8


class CorpusError(ValueError):
    """A corpus cannot be used; the message names file and line."""


def read_corpus(path: str | Path) -> Iterator[Passage]:
    """Yields the passages in file order.

    Raises:
        CorpusError: A line is no passage, there is none, or, after the last line, an id was used
            twice.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: no such corpus file. Name a file of JSON lines.")
    digests = array("Q")  # 8 bytes a passage: 21 million ids as texts would need gigabytes
    for number, line in enumerate(read_lines(path, CorpusError), start=1):
        passage = parse_line(line, f"{path}:{number}")
        digests.append(_digest(passage.id))
        yield passage
    if not digests:
        raise CorpusError(f"{path}: the corpus is empty. It needs one JSON object a line.")
    _refuse_duplicates(path, np.frombuffer(digests, dtype=np.uint64))


def read_lines(path: Path, refusal: type[ValueError]) -> Iterator[bytes]:
    """Yields the lines of a file; a broken .gz is refused with `refusal`."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        try:
            yield from lines
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise refusal(
                f"{path}: not a whole gzip file ({error}). Copy it again, or drop the .gz from the "
                "name of a file that is not compressed."
            ) from None


def corpus_fingerprint(path: str | Path) -> str:
    """Names the content of a corpus: its size and a hash over its first and last megabyte."""
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: no such corpus file. Name a file of JSON lines.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_FINGERPRINT_BYTES)
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        tail = file.read()
    return f"{size}-{hashlib.sha256(head + tail).hexdigest()[:16]}"


def parse_document(document: Any) -> tuple[str, str] | None:
    """Returns id and contents of a document as corpora and servers write it, or None.

    Args:
        document: Supposed to hold `contents`, or `title` and `text`, and mostly an `id`.
    """
    if not isinstance(document, dict):
        return None
    contents = document.get("contents")
    if contents is None and isinstance(document.get("text"), str):
        title = document.get("title")
        contents = f'"{title}"\n{document["text"]}' if title else document["text"]
    if not isinstance(contents, str) or not contents.strip():
        return None
    identifier = document.get("id", "")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        return None
    return str(identifier), contents


def parse_line(line: bytes, where: str) -> Passage:
    """Reads one line of a corpus; `where` names it in errors."""
    try:
        document = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"{where}: not JSON ({error}). Every line must be one object.") from None
    parsed = parse_document(document)
    if parsed is None:
        raise CorpusError(f"{where}: the line has no contents. Write {_EXAMPLE}.")
    if not parsed[0]:
        raise CorpusError(f"{where}: the line has no id. Write {_EXAMPLE}.")
    return Passage(id=parsed[0], contents=parsed[1])


_EXAMPLE = r'{"id": "7", "contents": "\"Title\"\ntext"}'


def _digest(identifier: str) -> int:
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    return int.from_bytes(digest.digest(), "little")


def _refuse_duplicates(path: Path, digests: np.ndarray) -> None:
    order = np.argsort(digests, kind="stable")
    repeats = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    if len(repeats):
        first, second = order[repeats[0]] + 1, order[repeats[0] + 1] + 1
        raise CorpusError(
            f"{path}:{second}: the id was already used in line {first} "
            f"({len(repeats)} such lines). Ids must be unique."
        )
