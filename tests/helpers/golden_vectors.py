"""Golden vectors: inputs, and the outputs that published reference implementations gave.

They are read from the folder named by the environment variable `STEPOPSD_GOLDEN`, so that other
vectors of the same form can be run through the same tests; by default from the copy in
`tests/golden/`. Nothing of a vector is skipped quietly: a test fails if it left a field of its case
unread, and a file with a tag that no test knows is refused.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Collection, ItemsView, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Fields(dict[str, Any]):
    """Fields of a case, which remembers those that were read."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(values)
        self.unread = set(values)

    def __getitem__(self, name: str) -> Any:
        self.unread.discard(name)
        return super().__getitem__(name)

    def items(self) -> ItemsView[str, Any]:
        self.unread.clear()
        return super().items()


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenCase:
    """One case of a golden file.

    Attributes:
        id: Identifies the case.
        tag: Name of the corner case or of the variant; "" if it has none.
        inputs: What goes in, with special floats read.
        outputs: What the reference program gave.
        rtol: Relative tolerance for numbers.
        atol: Absolute tolerance for numbers; both 0 means exactly equal.
    """

    id: str
    tag: str
    inputs: Fields
    outputs: Fields
    rtol: float
    atol: float

    def check(self, actual: Any, expected: Any, what: str) -> None:
        """Asserts that numbers, texts, lists and mappings of them agree within the tolerance."""
        where = f"{self.id} ({self.tag}): {what}"
        if isinstance(actual, Tensor):
            actual = actual.detach().tolist()
        if isinstance(expected, Mapping):
            assert isinstance(actual, Mapping), f"{where}: {actual!r} is no mapping"
            assert set(actual) == set(expected), f"{where}: keys {set(actual)} != {set(expected)}"
            for key, value in expected.items():
                self.check(actual[key], value, f"{what}.{key}")
        elif isinstance(expected, list):
            assert isinstance(actual, list | tuple), f"{where}: {actual!r} is no list"
            assert len(actual) == len(expected), (
                f"{where}: {len(actual)} items, not {len(expected)}"
            )
            for i, (got, value) in enumerate(zip(actual, expected, strict=True)):
                self.check(got, value, f"{what}[{i}]")
        elif isinstance(expected, bool | str) or expected is None:
            assert actual == expected, f"{where}: {actual!r} != {expected!r}"
        else:
            assert self._is_close(float(actual), float(expected)), (
                f"{where}: {actual} != {expected}"
            )

    def _is_close(self, actual: float, expected: float) -> bool:
        if math.isnan(expected) or math.isinf(expected) or math.isnan(actual):
            return actual == expected or (math.isnan(actual) and math.isnan(expected))
        return abs(actual - expected) <= self.atol + self.rtol * abs(expected)


def golden_folder() -> Path:
    """The folder of the golden files."""
    return Path(os.environ.get("STEPOPSD_GOLDEN") or Path(__file__).parents[1] / "golden")


def load_cases(name: str) -> list[GoldenCase]:
    """The cases of `<name>.json`.

    Raises:
        FileNotFoundError: There is no such file in the folder.
    """
    path = golden_folder() / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such golden file. STEPOPSD_GOLDEN={os.environ.get('STEPOPSD_GOLDEN')!r} "
            "must name a folder of golden vectors; unset it for the copy in tests/golden/."
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = [_case(entry, content["tolerance"]) for entry in content["cases"]]
    assert cases, f"{path}: no cases"
    return cases


def golden(
    name: str,
    *,
    tags: Collection[str] | None = None,
    other_tags: Collection[str] = (),
    leaves: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test on every case of `<name>.json`, as its argument `case`.

    Args:
        name: The file.
        tags: Tags of the cases to run on; all cases if None.
        other_tags: Tags that another test runs on.
        leaves: Fields that another test reads; any other field must be read.

    Raises:
        ValueError: `tags` are given and a case has a tag that is in neither collection.
    """
    cases = load_cases(name)
    if tags is not None:
        unknown = {case.tag for case in cases} - {*tags, *other_tags}
        if unknown:
            raise ValueError(f"{name}.json: no test knows the tags {sorted(unknown)}.")
        cases = [case for case in cases if case.tag in tags]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, case: GoldenCase, **kwargs: Any) -> None:
            case = GoldenCase(
                **{field: getattr(case, field) for field in ("id", "tag", "rtol", "atol")},
                inputs=Fields(case.inputs),
                outputs=Fields(case.outputs),
            )
            test(*args, case=case, **kwargs)
            unread = (case.inputs.unread | case.outputs.unread) - set(leaves)
            assert not unread, f"{case.id}: the test does not know {sorted(unread)}"

        return pytest.mark.parametrize("case", cases, ids=case_id)(run)

    return decorate


def case_id(case: GoldenCase) -> str:
    """Name of a case for `pytest.mark.parametrize(ids=...)`."""
    return f"{case.id} {case.tag}".strip()


def tensor(rows: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """A golden list as a tensor."""
    return torch.tensor(rows, dtype=dtype)


def numbered(names: list[Any]) -> Tensor:
    """Names (of groups, of episodes) as int64 ids, numbered in order of first appearance."""
    ids: dict[Any, int] = {}
    return torch.tensor([ids.setdefault(name, len(ids)) for name in names], dtype=torch.int64)


def _case(entry: dict[str, Any], tolerance: dict[str, float]) -> GoldenCase:
    tolerance = entry.get("tolerance", tolerance)
    # Where everything is compared exactly there are no floats, and "NaN" would be a text.
    read = _read_floats if tolerance["rtol"] or tolerance["atol"] else lambda value: value
    return GoldenCase(
        id=entry["id"],
        tag=entry.get("tag") or "",
        inputs=Fields(read(entry["inputs"])),
        outputs=Fields(read(entry["outputs"])),
        rtol=tolerance["rtol"],
        atol=tolerance["atol"],
    )


def _read_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _read_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_floats(item) for item in value]
    return _SPECIAL_FLOATS.get(value, value) if isinstance(value, str) else value
