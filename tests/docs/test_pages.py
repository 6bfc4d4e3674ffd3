"""The documentation: its code runs as it stands, links lead somewhere, the first page is short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
MOST_WORDS = 900


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run_blocks(page: Path, folder: Path) -> None:
    """Runs a page's blocks one after the other, as a reader would, in a folder of its own."""
    script = folder / "page.py"
    script.write_text("\n\n".join(python_blocks(page)), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]


# Pages whose blocks another test runs: they need files beside them, or a longer way.
RUN_ELSEWHERE = {
    "add_a_method.md": "tests/unit/test_own_method.py",
    "your_own_environment.md": "tests/docs/test_your_own_environment.py",
    "your_own_sampler.md": "tests/docs/test_your_own_sampler.py",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path):
    if not python_blocks(page):
        pytest.skip("no Python on this page")
    if page.name in RUN_ELSEWHERE:
        assert (ROOT / RUN_ELSEWHERE[page.name]).is_file()
        pytest.skip(f"run by {RUN_ELSEWHERE[page.name]}")
    run_blocks(page, tmp_path)


@pytest.mark.e2e
@pytest.mark.vllm
def test_the_code_of_the_first_page_trains(tmp_path: Path):
    run_blocks(ROOT / "README.md", tmp_path)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert str(page.relative_to(ROOT / "docs")) in navigation, page.name
