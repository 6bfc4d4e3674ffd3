"""The golden files themselves: each says what it holds and how its numbers can be had again."""

import json
import os

import pytest

from tests.helpers.golden_vectors import golden_folder

FILES = sorted(golden_folder().glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_holds(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["name"] == path.stem
    assert {"rtol", "atol"} == set(content["tolerance"])
    ids = [case["id"] for case in content["cases"]]
    assert ids and len(ids) == len(set(ids))


@pytest.mark.skipif("STEPOPSD_GOLDEN" in os.environ, reason="other vectors need no derivation")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_how_its_numbers_can_be_had_again(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content["about"]) > 20 and len(content["derivation"]) > 40
