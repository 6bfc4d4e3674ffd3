"""Files of text as people have them: read as they were meant, or refused in one line.

Read: blank lines, CRLF, a byte-order mark, any line separator of Unicode inside a JSON text.
Refused, with file and row: another encoding than UTF-8, a Git-LFS pointer, a file that was cut off,
a key that stands twice in an object.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Refusal = type[ValueError]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}|\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def read_text(path: str | Path, refusal: Refusal = ValueError) -> str:
    """The text of a UTF-8 file, lines ended with a line feed.

    Raises:
        ValueError: The given class, in one line; the file cannot be read, or is another thing.
    """
    text = decoded(read_bytes(Path(path), refusal), str(path), refusal)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, refusal: Refusal = ValueError) -> Any:
    """What a JSON file holds; see `read_text` and `parse_json`."""
    return parse_json(read_bytes(Path(path), refusal), str(path), refusal)


def json_lines(path: str | Path, refusal: Refusal = ValueError) -> Iterator[tuple[int, Any]]:
    """Yields line number, from 1, and value of each line that is not blank; .gz is decompressed.

    Raises:
        ValueError: The given class, in one line with the file, and the row where there is one.
    """
    path = Path(path)
    for number, line in enumerate(read_lines(path, refusal), start=1):
        if not is_blank(line):
            yield number, parse_json(line, f"{path}:{number}", refusal)


def read_lines(path: Path, refusal: Refusal) -> Iterator[bytes]:
    """Yields the lines of a file with their line feeds; a broken .gz is refused."""
    try:
        with path.open("rb") as file:
            refuse_pointer(file.read(len(_LFS_POINTER)), str(path), refusal)
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise refusal(
            f"{path}: not a whole gzip file ({error}). Copy it again, or drop the .gz from the "
            "name of a file that is not compressed."
        ) from None
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror or error}).") from None


def text_pieces(path: Path, refusal: Refusal = ValueError, *, size: int) -> Iterator[str]:
    """Yields the text of a UTF-8 file that memory has no room for, about `size` bytes at a time.

    Raises:
        ValueError: The given class, in one line; see `read_text`.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    num_read, piece = 0, b""
    try:
        with path.open("rb") as file:
            while piece := file.read(size):
                if num_read == 0:
                    _refuse_heads(piece, str(path), refusal)
                yield decoder.decode(piece)
                num_read += len(piece)
            decoder.decode(piece, final=True)  # the last piece is empty
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        # The decoder has put what it kept of the piece before in front of this one.
        place = num_read - (len(error.object) - len(piece)) + error.start
        raise refusal(_not_utf8(str(path), error, place)) from None


def is_blank(line: bytes) -> bool:
    """Whether a line of a file holds nothing."""
    return not line.removeprefix(_BYTE_ORDER_MARK).strip()


def parse_json(
    data: bytes, where: str, refusal: Refusal = ValueError, *, is_file: bool = True
) -> Any:
    """The value of a JSON text.

    Halves of surrogate pairs become U+FFFD: JSON can write them, but they are no characters.

    Args:
        data: The text, encoded.
        where: Names file and row in errors.
        refusal: Class of the errors.
        is_file: Refuse a key that stands twice in an object: in a file somebody meant both. In a
            message the last one counts, as JSON readers have it.

    Raises:
        ValueError: The given class; not UTF-8, not JSON, nested too deeply, or a key twice.
    """
    text = decoded(data, where, refusal)
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition if is_file else None)
    except _RepeatedKeyError as error:
        raise refusal(f"{where}: the key {error} stands twice in one object. Keep one.") from None
    except RecursionError:
        raise refusal(f"{where}: not JSON that can be read (nested too deeply).") from None
    except ValueError as error:
        hint = " It may have been cut off: copy it again." if _is_cut_off(text) else ""
        raise refusal(f"{where}: not JSON ({error}).{hint}") from None
    return whole_texts(value) if _ESCAPED_SURROGATE.search(text) else value


def decoded(data: bytes, where: str, refusal: Refusal = ValueError) -> str:
    """Text of UTF-8 bytes, without byte-order mark; `where` names them in errors."""
    _refuse_heads(data, where, refusal)
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(_not_utf8(where, error, error.start)) from None
    if "\0" in text:
        raise refusal(
            f"{where}: holds zero bytes. Save the file as UTF-8; copy it again if that broke off."
        )
    return text


def _refuse_heads(head: bytes, where: str, refusal: Refusal) -> None:
    """Refuses what the first bytes tell: a pointer, or another encoding."""
    refuse_pointer(head, where, refusal)
    if head.startswith(_UTF16_MARKS):
        raise refusal(f"{where}: is UTF-16. Save the file as UTF-8.")


def _not_utf8(where: str, error: UnicodeDecodeError, place: int) -> str:
    return (
        f"{where}: not UTF-8 (byte 0x{error.object[error.start]:02x} at position {place}). Save "
        "the file as UTF-8."
    )


def refuse_pointer(head: bytes, where: str, refusal: Refusal = ValueError) -> None:
    """Refuses what stands in place of a file in a Git clone without its large files."""
    if head.startswith(_LFS_POINTER):
        raise refusal(
            f"{where}: is a Git-LFS pointer, not the file itself. Run `git lfs pull` in its folder."
        )


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair; halves side by side are one."""
    if _SURROGATE.search(text) is None:
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _SURROGATE.sub("\ufffd", joined)


def json_line(row: Any) -> str:
    """One line of a JSON-lines file, ended with a line feed; `json_lines` reads the row back.

    Characters beyond ASCII stay readable, but for those that programs take for the end of a line
    and for halves of surrogate pairs, which no UTF-8 file can hold.
    """
    line = json.dumps(row, ensure_ascii=False)
    line = _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    return f"{line}\n"


_TO_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(repr(key))
            seen.add(key)
    return made


def whole_texts(value: Any) -> Any:
    """A JSON value with `whole_characters` in all its texts and keys."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [whole_texts(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): whole_texts(item) for key, item in value.items()}
    return value


def _is_cut_off(text: str) -> bool:
    text = text.strip()
    return text[:1] in ("{", "[") and text[-1:] not in ("}", "]")


def read_bytes(path: Path, refusal: Refusal) -> bytes:
    """The bytes of a file; one line says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror or error}).") from None
