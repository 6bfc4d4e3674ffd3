"""What the pages tell a reader to type: commands that are taken, files that are there."""

import re
import shlex
from pathlib import Path

import pytest

import stepopsd_cli
from stepopsd_rllib.commands import yaml_files

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    fence = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(fence, page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of every call of `stepopsd` in the blocks of a page; optional ones are given."""
    found = []
    for block in blocks(page, "bash", "console", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            called = re.search(
                r"(?:^|[\s/])stepopsd (?=[a-z-])(.*)", re.sub(r"\[(--.*?)\]", r"\1", line)
            )
            if called:
                found.append(shlex.split(called[1], comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_line_takes_what_a_page_types(page: Path):
    parser = stepopsd_cli.parser()
    for words in commands(page):
        words = words[: next((i for i, w in enumerate(words) if w in ("|", "&&", ";", ">")), None)]
        try:
            parser.parse_args(words)
        except SystemExit as end:
            assert not end.code, f"{page.name}: stepopsd {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_that_a_page_names_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\btuned_examples/[\w./-]+\.yaml", text):
        assert (ROOT / name).is_file(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_yaml_of_a_page_can_be_read(page: Path):
    for block in blocks(page, "yaml"):
        assert yaml_files.parse(block, page.name)
