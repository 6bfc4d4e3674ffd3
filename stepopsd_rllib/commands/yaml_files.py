"""YAML as people write it: all that RLlib's own loader takes, and the numbers of YAML 1.2.

Anchors, aliases and merge keys (`<<`) work; `1e-6` is a number; a key written twice is refused, of
which YAML would keep the last. `on`, `off`, `yes` and `no` are true and false, as RLlib reads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
"""Longest file; the parser takes a second for it, and a tuned example has two kilobytes."""
MAX_VALUES = 100_000
"""Values of a document with its aliases written out; ten lines of them can stand for billions."""

# What the constructors of PyYAML raise for a number, date or tag that is none.
_DAMAGE = (ValueError, TypeError, AttributeError, OverflowError, IndexError, KeyError)
_EXPONENT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read(path: Path, source: str) -> Any:
    """The document in a file.

    Args:
        path: The file: UTF-8, or UTF-16 with its byte-order mark.
        source: What the user called it; every message starts with it.

    Raises:
        ValueError: The file cannot be read, or is not one YAML document of plain values.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise ValueError(f"{source}: cannot be read ({error.strerror}).") from error
    if size > MAX_BYTES:
        raise ValueError(f"{source}: has {size:,} bytes, too many for a tuned example.")
    return parse(content, source)


def parse(text: str | bytes, source: str) -> Any:
    """The document in a text; see `read`."""
    try:
        # A subclass of SafeLoader: it builds plain values and nothing else.
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.reader.ReaderError as error:
        if error.encoding == "unicode":  # a character that YAML does not allow
            where = f"{error.reason} (character {error.position})"
            raise ValueError(f"{source}: is not valid YAML: {where}.") from error
        raise ValueError(
            f"{source}: is not UTF-8 (byte {error.position + 1}). Save it as UTF-8."
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: is not valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{source}: is not valid YAML: nested too deeply.") from error
    except _DAMAGE as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{source}: is not valid YAML: a value is damaged: {problem}.") from error
    _require_tree(document, source)
    return document


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice and takes 1e-6 for a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, before merge keys are written out: what a merge brings may be written again.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} is written twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _require_tree(document: Any, source: str) -> None:
    """Refuses a document that holds itself, or that is enormous once its aliases are followed."""
    count = 0
    waiting: list[tuple[Any, tuple[int, ...]]] = [(document, ())]
    while waiting:
        value, parents = waiting.pop()
        count += 1
        if id(value) in parents:
            raise ValueError(f"{source}: an alias stands inside of what it names.")
        if count > MAX_VALUES:
            raise ValueError(f"{source}: its aliases stand for more than {MAX_VALUES:,} values.")
        inside = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list, tuple, set)):
            waiting += [(item, (*parents, id(value))) for item in inside]


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    if problem.startswith("but "):  # goes on with what stands before it
        problem = f"{getattr(error, 'context', '')} {problem}"
    return f"{problem} (line {mark.line + 1})." if mark else problem
