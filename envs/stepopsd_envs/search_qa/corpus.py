"""Reads a corpus: JSON lines with `id` and `contents`, the published form of wiki-18.

`contents` is the title on the first line and the text below; `title` and `text` apart are taken
too. A name that ends in .gz is decompressed.
"""

import hashlib
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from stepopsd_envs.search_qa.retriever import Passage
from stepopsd_envs.text_files import json_lines, parse_json

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
    numbers = array("Q")
    for number, document in json_lines(path, CorpusError):
        passage = _passage(document, f"{path}:{number}")
        digests.append(_digest(passage.id))
        numbers.append(number)
        yield passage
    if not digests:
        raise CorpusError(f"{path}: the corpus is empty. It needs one JSON object a line.")
    _refuse_duplicates(path, *(np.frombuffer(each, dtype=np.uint64) for each in (digests, numbers)))


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
    """Returns id ("" without one) and contents of a document, or None where it has no text.

    Args:
        document: A document as corpora and servers write it: `contents`, or `title` and `text`,
            and mostly an `id`; or a text alone.
    """
    if isinstance(document, str):
        return ("", document) if document.strip() else None
    if not isinstance(document, dict):
        return None
    contents, text = document.get("contents"), document.get("text")
    if not _is_text(contents) and _is_text(text):
        title = document.get("title")
        contents = f'"{title}"\n{text}' if title else text
    return (identifier(document.get("id")), contents) if _is_text(contents) else None


def identifier(value: Any) -> str:
    """An id as text, 7.0 as "7" (tables write so); "" for what is none, such as null."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        value = int(value) if value.is_integer() else value
    is_id = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value).strip() if is_id else ""


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def parse_line(line: bytes, where: str) -> Passage:
    """Reads one line of a corpus; `where` names it in errors."""
    return _passage(parse_json(line, where, CorpusError), where)


def _passage(document: Any, where: str) -> Passage:
    parsed = parse_document(document) if isinstance(document, dict) else None
    if parsed is None:
        raise CorpusError(f"{where}: the line has no contents. Write {_EXAMPLE}.")
    if not parsed[0]:
        raise CorpusError(f"{where}: the line has no id. Write {_EXAMPLE}.")
    return Passage(id=parsed[0], contents=parsed[1])


_EXAMPLE = r'{"id": "7", "contents": "\"Title\"\ntext"}'


def _digest(identifier: str) -> int:
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    return int.from_bytes(digest.digest(), "little")


def _refuse_duplicates(path: Path, digests: np.ndarray, numbers: np.ndarray) -> None:
    order = np.argsort(digests, kind="stable")
    repeats = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    if len(repeats):
        first, second = numbers[order[repeats[0]]], numbers[order[repeats[0] + 1]]
        raise CorpusError(
            f"{path}:{second}: the id was already used in line {first} "
            f"({len(repeats)} such lines). Ids must be unique."
        )
