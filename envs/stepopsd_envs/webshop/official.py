"""Reads the official files: products, annotations, human instructions, reviews."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stepopsd_envs.text_env import nearest
from stepopsd_envs.text_files import parse_json, read_bytes, text_pieces, whole_texts
from stepopsd_envs.webshop import pages
from stepopsd_envs.webshop.products import CatalogueError, Product, is_listed, read_product

_PATTERNS = {
    "products": "items_shuffle*.json",
    "annotations": "items_ins_v2*.json",
    "human": "items_human_ins*.json",
    "reviews": "reviews.json",
}
_OPTIONAL = ("reviews",)
_BUTTONS = {
    name.lower()
    for name in (pages.BUY, pages.NEXT, pages.PREVIOUS, pages.BACK, pages.SEARCH, *pages.SUB_PAGES)
}
_PIECE_BYTES = 4_000_000
_MAX_ENTRY_CHARACTERS = 64_000_000  # a damaged file must not be read to its end for one entry
_BETWEEN_ENTRIES = re.compile(r"[\s,]*")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialFiles:
    """Where the files are; `reviews` may be missing."""

    products: Path
    annotations: Path
    human: Path
    reviews: Path | None = None


def find_files(data: str | Path | Mapping[str, str]) -> OfficialFiles:
    """Finds the files in a folder, or takes those that a mapping names.

    Args:
        data: A folder, or the keys "products", "annotations", "human" and perhaps "reviews".
    """
    if isinstance(data, Mapping):
        return _named_files(data)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise CatalogueError(
            f"data={str(data)!r} is neither 'generated' nor a folder with WebShop's files "
            f"{', '.join(_PATTERNS[key] for key in _PATTERNS if key not in _OPTIONAL)}."
        )
    return _named_files(
        {key: str(path) for key in _PATTERNS if (path := _only_file(folder, key)) is not None}
    )


def read_products(files: OfficialFiles, *, num_products: int | None = None) -> list[Product]:
    """Reads the shop as the original does.

    Products whose identifier is "nan", too long or a repetition are left out.

    Args:
        files: The files.
        num_products: Entries read from the beginning of the file; None: all.
    """
    rows = _read(files.products, list)[:num_products]
    return [entry.product() for entry in listed_entries(files, rows)]


class Entry(NamedTuple):
    """A product as the files have it."""

    row: Mapping[str, Any]
    annotation: Mapping[str, Any]
    human: Sequence[Mapping[str, Any]]
    reviews: Mapping[str, Any] | None
    where: str

    def product(self) -> Product:
        """Reads the product."""
        return read_product(self.row, self.annotation, self.human, self.reviews, where=self.where)


def listed_entries(files: OfficialFiles, rows: Iterable[Any]) -> Iterator[Entry]:
    """Puts together what the files say of each product that the original lists.

    Args:
        files: The files.
        rows: Entries of the product file, in order.
    """
    annotations = _read(files.annotations, dict)
    human = _read(files.human, dict)
    reviews = {} if files.reviews is None else _read_reviews(files.reviews)
    seen: set[str] = set()
    for index, row in enumerate(rows):
        where = f"{files.products}: entry {index}"
        asin = row.get("asin") if isinstance(row, dict) else None
        if not isinstance(asin, str):
            raise CatalogueError(
                f"{where}: asin={asin!r} is no text. The file must be in the form of WebShop's "
                "items_shuffle.json."
            )
        if asin.lower() in _BUTTONS:
            raise CatalogueError(f"{where}: asin={asin!r} is the name of a button. Rename it.")
        if is_listed(asin) and asin not in seen:
            seen.add(asin)
            yield Entry(
                row,
                _annotation(annotations.get(asin, {}), f"{files.annotations}: {asin!r}"),
                _human_entries(human.get(asin, ()), f"{files.human}: {asin!r}"),
                reviews.get(asin),
                where,
            )


def stream_rows(path: Path) -> Iterator[Any]:
    """Reads the entries of a JSON list one by one, for files that memory has no room for."""
    decoder = json.JSONDecoder()
    pieces = text_pieces(path, CatalogueError, size=_PIECE_BYTES)
    text = next(pieces, "")
    if not text.lstrip().startswith("["):
        raise CatalogueError(f"{path}: no JSON list. The file must be WebShop's own.")
    place, index = text.index("[") + 1, 0
    while True:
        place = _BETWEEN_ENTRIES.match(text, place).end()  # type: ignore[union-attr]
        if text.startswith("]", place):
            return
        try:
            row, place = decoder.raw_decode(text, place)
        except RecursionError:
            raise CatalogueError(
                f"{path}: entry {index} cannot be read: nested too deeply."
            ) from None
        except ValueError:
            more = next(pieces, None)
            if more is None or len(text) - place > _MAX_ENTRY_CHARACTERS:
                found = "ends within it" if more is None else "is no JSON there"
                raise CatalogueError(
                    f"{path}: entry {index} cannot be read: the file {found}. It is damaged or "
                    "was not copied whole; fetch it again."
                ) from None
            text, place = text[place:] + more, 0
            continue
        yield whole_texts(row)
        index += 1


def _named_files(named: Mapping[str, str]) -> OfficialFiles:
    for key in named:
        if key not in _PATTERNS:
            raise CatalogueError(
                f"data[{key!r}]: there is no such file.{nearest(key, list(_PATTERNS))} Known: "
                f"{', '.join(_PATTERNS)}."
            )
    for key in _PATTERNS:
        if key not in named and key not in _OPTIONAL:
            raise CatalogueError(
                f"data: the file of the {key} is missing. Put {_PATTERNS[key]} into the folder, or "
                f"name it as data[{key!r}]."
            )
    return OfficialFiles(**{key: Path(path).expanduser() for key, path in named.items()})


def _only_file(folder: Path, key: str) -> Path | None:
    found = sorted(folder.glob(_PATTERNS[key]))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CatalogueError(
            f"data={str(folder)!r} holds several files of the {key}: {names}. Name the one wanted: "
            "data: {products: ..., annotations: ..., human: ...}."
        )
    return found[0] if found else None


def _annotation(entry: Any, where: str) -> Mapping[str, Any]:
    form = "The file must be in the form of WebShop's items_ins_v2.json."
    if not isinstance(entry, dict):
        raise CatalogueError(f"{where}: is a {type(entry).__name__}, not a dict. {form}")
    if not isinstance(entry.get("instruction"), str | None):
        raise CatalogueError(
            f"{where}: instruction={entry['instruction']!r:.80} is no text. {form}"
        )
    for key in ("attributes", "instruction_attributes"):
        _require_texts(entry, key, where, form)
    return entry


def _human_entries(entries: Any, where: str) -> Sequence[Mapping[str, Any]]:
    form = "The file must be in the form of WebShop's items_human_ins.json."
    if not isinstance(entries, list | tuple) or not all(isinstance(e, dict) for e in entries):
        raise CatalogueError(f"{where}: is no list of dicts. {form}")
    for entry in entries:
        if not isinstance(entry.get("instruction"), str):
            raise CatalogueError(
                f"{where}: instruction={entry.get('instruction')!r:.80} is no text. {form}"
            )
        for key in ("instruction_attributes", "instruction_options"):
            _require_texts(entry, key, where, form)
    return entries


def _require_texts(entry: Mapping[str, Any], key: str, where: str, form: str) -> None:
    values = entry.get(key)
    if values is None:
        return
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise CatalogueError(f"{where}: {key}={values!r:.80} is no list of texts. {form}")


def _read_reviews(path: Path) -> dict[str, Mapping[str, Any]]:
    found = {}
    for index, entry in enumerate(_read(path, list)):
        reviews = entry.get("reviews", []) if isinstance(entry, dict) else None
        if not isinstance(reviews, list) or not all(isinstance(r, dict) for r in reviews):
            raise CatalogueError(
                f"{path}: entry {index} is not of the form {{'asin': ..., 'average_rating': ..., "
                "'reviews': [{...}, ...]}."
            )
        found[entry.get("asin")] = entry
    return found


def _read(path: Path, kind: type[_T]) -> _T:
    # As other JSON readers have it, the last of two equal keys counts: these files are large.
    content = parse_json(read_bytes(path, CatalogueError), str(path), CatalogueError, is_file=False)
    if not isinstance(content, kind):
        raise CatalogueError(
            f"{path}: holds a {type(content).__name__}, not a {kind.__name__}. The file must be in "
            "the form of WebShop's own."
        )
    return content
