"""A shop on disk, for catalogues of millions of products. Needs the extra `search` (tantivy).

The folder `<product file>.shop` beside the product file is made once: a line of JSON a product, the
places of the lines, prices, and an index. Words are split and stemmed by tantivy, so that ranks
differ a little from those of a shop in memory.
"""

import functools
import json
import os
import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepopsd_envs.bm25 import STOP_WORDS
from stepopsd_envs.webshop.official import Entry, OfficialFiles, listed_entries, stream_rows
from stepopsd_envs.webshop.products import CatalogueError, Product
from stepopsd_envs.webshop.shop import MAX_QUERY_CHARACTERS, SEARCH_RESULTS

_FORMAT = 1
_LINES, _TABLE, _INDEX, _DESCRIPTION = "products.jsonl", "table.npz", "index", "shop.json"
_CACHED_PRODUCTS = 20_000
_CACHED_SEARCHES = 4096
_WRITER_BYTES = 256 * 2**20
_WORD = re.compile(r"\w+")
_SYNTHETIC, _HUMAN = 1, 2


def open_disk_shop(files: OfficialFiles) -> "DiskShop":
    """Opens the folder beside the product file, and makes it if it is missing or out of date."""
    folder = files.products.with_name(f"{files.products.name}.shop")
    wanted = {"format": _FORMAT, "files": _fingerprint(files)}
    if _description(folder) != wanted:
        _make(files, folder, wanted)
    return DiskShop(folder)


class DiskShop:
    """Products by number; see `shop.Shop`. Several threads may read at once."""

    def __init__(self, folder: Path):
        """Opens a folder made by `open_disk_shop`."""
        with np.load(folder / _TABLE) as table:
            self._starts, self._prices = table["starts"], table["prices"]
            self._flags, self._asins = table["flags"], table["asins"]
        self._by_asin = np.argsort(self._asins, kind="stable")
        self._file = os.open(folder / _LINES, os.O_RDONLY)
        self._index = _tantivy().Index.open(str(folder / _INDEX))
        self._searcher = self._index.searcher()
        self.product = functools.lru_cache(maxsize=_CACHED_PRODUCTS)(self._product)
        self._cached = functools.lru_cache(maxsize=_CACHED_SEARCHES)(self._search)

    def __len__(self) -> int:
        """The number of products."""
        return len(self._prices)

    def __del__(self) -> None:
        """Closes the file."""
        if hasattr(self, "_file"):
            os.close(self._file)

    def number(self, asin: str) -> int:
        """Returns the number of an ASIN, in capital letters."""
        place = int(np.searchsorted(self._asins, asin.encode(), sorter=self._by_asin))
        if place == len(self) or self._asins[self._by_asin[place]] != asin.encode():
            raise KeyError(asin)
        return int(self._by_asin[place])

    def search(self, query: str) -> Sequence[int]:
        """Returns the numbers of at most `SEARCH_RESULTS` products, best first."""
        return self._cached(query[:MAX_QUERY_CHARACTERS])

    def price_ranges(self) -> Iterable[Sequence[float]]:
        """Returns the price, or the ends of a range, of each product."""
        for low, high in self._prices.tolist():
            yield (low,) if high != high else (low, high)  # nan: no range

    def with_instructions(self, *, human: bool) -> Iterator[tuple[int, Product]]:
        """Returns numbers and products that have human, or synthetic, instructions."""
        wanted = np.flatnonzero(self._flags & (_HUMAN if human else _SYNTHETIC))
        return ((number, self._product(number)) for number in wanted.tolist())

    def _product(self, number: int) -> Product:
        start, end = self._starts[number : number + 2].tolist()
        return Entry(*json.loads(os.pread(self._file, end - start, start))).product()

    def _search(self, query: str) -> tuple[int, ...]:
        # Bare words only: the query language would stumble over what models write.
        words = [word for word in _WORD.findall(query.lower()) if word not in STOP_WORDS]
        if not words:
            return ()
        parsed, _ = self._index.parse_query_lenient(" ".join(words), ["contents"])
        hits = self._searcher.search(parsed, SEARCH_RESULTS, count=False).hits
        return tuple(self._searcher.doc(address).get_first("number") for _, address in hits)


def _make(files: OfficialFiles, folder: Path, description: dict[str, Any]) -> None:
    tantivy = _tantivy()
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / _INDEX).mkdir(parents=True)
    except OSError as error:
        raise CatalogueError(
            f"{folder}: cannot be made ({error.strerror}). Copy the files to a folder that can be "
            "written."
        ) from None
    schema = tantivy.SchemaBuilder()
    schema.add_integer_field("number", stored=True)
    schema.add_text_field("contents", index_option="freq", tokenizer_name="en_stem")
    # One thread: with several, equal scores would come in another order from build to build.
    writer = tantivy.Index(schema.build(), path=str(partial / _INDEX)).writer(_WRITER_BYTES, 1)
    starts, prices, flags, asins = array("q", [0]), array("d"), array("b"), []
    try:
        with (partial / _LINES).open("wb") as lines:
            entries = listed_entries(files, stream_rows(files.products))
            for number, entry in enumerate(entries):
                product = entry.product()
                starts.append(starts[-1] + lines.write(json.dumps(entry).encode() + b"\n"))
                prices.extend((*product.prices, float("nan"))[:2])
                flags.append(
                    _SYNTHETIC * (product.instruction is not None) + _HUMAN * bool(product.human)
                )
                asins.append(product.asin.upper().encode())
                document = tantivy.Document(contents=product.search_text())
                document.add_integer("number", number)
                writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        np.savez(
            partial / _TABLE,
            starts=np.array(starts),
            prices=np.array(prices).reshape(-1, 2),
            flags=np.array(flags),
            asins=np.array(asins, dtype="S10"),
        )
        (partial / _DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fingerprint(files: OfficialFiles) -> list[list[Any]]:
    paths = (files.products, files.annotations, files.human, files.reviews)
    found = [(path, path.stat()) for path in paths if path is not None]
    return [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in found]


def _description(folder: Path) -> Any:
    try:
        return json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError:
        raise ModuleNotFoundError(
            "tantivy is not installed, and the catalogue is too large to search without it. "
            "Install it with: pip install 'stepopsd-rllib[search]'"
        ) from None
    return tantivy
