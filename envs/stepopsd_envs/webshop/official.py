"""Reads the official files: products, annotations, human instructions, reviews."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stepopsd_envs.text_env import nearest
from stepopsd_envs.webshop.products import CatalogueError, Product, is_listed, read_product

_PATTERNS = {
    "products": "items_shuffle*.json",
    "annotations": "items_ins_v2*.json",
    "human": "items_human_ins*.json",
    "reviews": "reviews.json",
}
_OPTIONAL = ("reviews",)
_CHUNK_CHARACTERS = 4_000_000
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
    reviews = {}
    if files.reviews is not None:
        reviews = {entry.get("asin"): entry for entry in _read(files.reviews, list)}
    seen: set[str] = set()
    for index, row in enumerate(rows):
        where = f"{files.products}: entry {index}"
        asin = row.get("asin") if isinstance(row, dict) else None
        if not isinstance(asin, str):
            raise CatalogueError(
                f"{where}: asin={asin!r} is no text. The file must be in the form of WebShop's "
                "items_shuffle.json."
            )
        if is_listed(asin) and asin not in seen:
            seen.add(asin)
            yield Entry(
                row, annotations.get(asin, {}), human.get(asin, ()), reviews.get(asin), where
            )


def stream_rows(path: Path) -> Iterator[Any]:
    """Reads the entries of a JSON list one by one, for files that memory has no room for."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text, place = file.read(_CHUNK_CHARACTERS), 0
        if not text.lstrip().startswith("["):
            raise CatalogueError(f"{path}: no JSON list. The file must be WebShop's own.")
        place = text.index("[") + 1
        while True:
            place = _BETWEEN_ENTRIES.match(text, place).end()  # type: ignore[union-attr]
            if text.startswith("]", place):
                return
            try:
                row, place = decoder.raw_decode(text, place)
            except ValueError:
                more = file.read(_CHUNK_CHARACTERS)
                if not more:
                    raise CatalogueError(
                        f"{path}: no JSON (it ends within an entry). The file is damaged or was "
                        "not copied whole; fetch it again."
                    ) from None
                text, place = text[place:] + more, 0
                continue
            yield row


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


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise CatalogueError(
            f"{path}: no JSON ({error}). The file is damaged or was not copied whole; fetch it "
            "again."
        ) from None
    if not isinstance(content, kind):
        raise CatalogueError(
            f"{path}: holds a {type(content).__name__}, not a {kind.__name__}. The file must be in "
            "the form of WebShop's own."
        )
    return content
