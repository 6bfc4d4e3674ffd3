"""The page about a run in a browser: speed, colours, filters, keys; it asks for nothing."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from stepopsd_rllib.report.inspect_page.page import write_page
from tests.helpers.chromium import LOAD_TIMEOUT_MS, chromium, opened
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.run_folders import sample, write_lines, write_run

SECONDS = 2.0
FIELDS = (
    "log_prob_gap",
    "weight",
    "group_advantage",
    "advantage",
    "old_log_prob",
    "new_log_prob",
    "entropy",
)
PERCENTILE, DEEPEST = 0.95, 0.7
ABOVE, BELOW = (0, 114, 178), (213, 94, 0)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "house", samples=64)


@pytest.fixture(scope="module")
def page_file(run) -> Path:
    return write_page([run])


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "credit.jsonl").read_text().splitlines()]


def expected_colours(record: dict[str, Any], field: str) -> list[tuple[tuple[int, ...], float]]:
    """Colour and opacity of every token: distance from neutral over the 95th percentile."""
    values = [value for turn in record["turns"] for value in turn[field]]
    centre = 1.0 if field == "weight" else 0.0
    distances = sorted(abs(value - centre) for value in values)
    scale = distances[min(len(distances) - 1, int(PERCENTILE * len(distances)))] or 1.0
    shares = [max(-1.0, min(1.0, (value - centre) / scale)) for value in values]
    return [(ABOVE if share > 0 else BELOW, DEEPEST * abs(share)) for share in shares]


def shown_tokens(page: Any) -> list[list[str]]:
    return page.evaluate(
        "[...document.querySelectorAll('#episode .token')].map("
        "t => [t.textContent, t.dataset.value, getComputedStyle(t).backgroundColor])"
    )


def rows_of(page: Any) -> list[list[str]]:
    return page.evaluate(
        "[...document.querySelectorAll('#episodes tbody tr')].map("
        "r => [...r.cells].map(c => c.textContent))"
    )


def test_two_thousand_episodes_open_within_two_seconds(browser, tmp_path):
    folder = write_run(tmp_path / "large", samples=2000, updates=50)
    file = write_page([folder])
    seconds = []
    for _ in range(2):
        page = browser.new_page()
        # Of its thread's processor: by the clock, it waits for whatever runs beside the browser.
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(f"file://{file}#episodes", timeout=LOAD_TIMEOUT_MS)
        assert "2090 of 2090 episodes" in page.text_content("#episodes .count")
        assert len(rows_of(page)) == 200
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        seconds += [m["value"] for m in metrics if m["name"] == "TaskDuration"]
        page.close()
    assert 0 < min(seconds) < SECONDS


@pytest.mark.parametrize("field", FIELDS)
def test_colours_are_the_numbers_of_the_credit_file(browser, run, page_file, field):
    record = records_of(run)[5]
    page, watched = opened(browser, page_file, "#episode=5")
    page.click(f"#episode button[data-field={field}]")
    tokens = shown_tokens(page)
    assert [text for text, _, _ in tokens] == [
        t for turn in record["turns"] for t in turn["tokens"]
    ]
    assert [float(value) for _, value, _ in tokens] == [
        v for turn in record["turns"] for v in turn[field]
    ]
    for (_, _, shown), (colour, depth) in zip(tokens, expected_colours(record, field), strict=True):
        numbers = [float(number) for number in re.findall(r"[\d.]+", shown)]
        assert tuple(int(number) for number in numbers[:3]) == colour or depth < 0.003
        assert (numbers[3] if numbers[3:] else 1.0) == pytest.approx(depth, abs=0.006)
    assert not watched.complaints
    page.close()


def test_the_pointer_reads_all_numbers_of_a_token(browser, run, page_file):
    turn = records_of(run)[5]["turns"][1]
    page, _ = opened(browser, page_file, "#episode=5")
    page.hover("#episode .token[data-turn='1'][data-token='2']")
    text = page.text_content("aside .numbers")
    assert json.dumps(turn["tokens"][2]) in text
    for field in FIELDS:
        assert f"{turn[field][2]:.4f}" in text or f"{turn[field][2]:.2f}" in text
    page.close()


def test_filters_leave_the_episodes_that_they_name(browser, run, page_file):
    records = records_of(run)
    page, watched = opened(browser, page_file, "#episodes")
    page.select_option("[data-filter=source]", "sample")
    page.select_option("[data-filter=outcome]", "won")
    page.select_option("[data-filter=update]", "3")
    kept = [r for r in records if r["won"] and r["update"] == 3]
    assert kept and len(rows_of(page)) == len(kept)
    page.click("#episodes button:text('clear')")
    page.select_option("[data-filter=type]", "pick_heat")
    page.select_option("[data-filter=group]", "1")
    assert len(rows_of(page)) == 8
    page.fill("[data-filter=text]", "no such task")
    assert rows_of(page) == [] and page.text_content(".count").startswith("0 of")
    assert not watched.complaints
    page.close()


def test_keys_walk_the_episodes_the_turns_and_the_colours(browser, page_file):
    page, watched = opened(browser, page_file, "#episodes")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#episode=2"
    page.keyboard.press("k")
    page.wait_for_url(re.compile("#episode=1$"))
    page.wait_for_selector("#episode .turn.current[data-turn='0']")
    page.keyboard.press("n")
    assert page.get_attribute("#episode .turn.current", "data-turn") == "1"
    page.keyboard.press("c")
    assert page.text_content("#episode .fields .here") == "w"
    page.keyboard.press("g")
    page.wait_for_selector("#group table")
    assert len(page.query_selector_all("#group thead th")) == 9
    page.keyboard.press("o")
    page.wait_for_selector("#overview svg.chart")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    assert not watched.complaints
    page.close()


def test_a_group_shows_where_its_siblings_parted(browser, run, page_file):
    records = records_of(run)[:8]
    page, _ = opened(browser, page_file, "#group=0:1:0")
    first = page.evaluate(
        "[...document.querySelectorAll('#group tbody tr')[0].cells].slice(1).map("
        "c => [c.className, c.firstChild.nextSibling.textContent])"
    )
    assert [action for _, action in first] == [record["turns"][0]["action"] for record in records]
    assert {kind for kind, _ in first} == {"parted"}
    page.close()


def test_no_request_leaves_the_file(browser, page_file):
    page, watched = opened(browser, page_file)
    for view in (
        "#episodes",
        "#episode=1",
        "#group=0:1:0",
        "#overview",
        "#nowhere",
        "#episode=99999",
    ):
        page.evaluate(f"location.hash = '{view}'")
        page.wait_for_timeout(50)
    assert [url.partition("#")[0] for url in watched.requests] == [f"file://{page_file}"]
    assert not watched.complaints
    page.close()


def test_what_a_model_wrote_never_runs(browser, tmp_path):
    texts = iter(hostile_texts(1000) * 40)
    folder = write_run(tmp_path / "hostile", samples=8)
    rng = random.Random(0)
    records = [sample(rng, 1, 0, i, lambda: next(texts)) for i in range(120)]
    write_lines(folder / "credit.jsonl", records)
    page, watched = opened(browser, write_page([folder]), "#episodes")
    plain = set(page.evaluate("[...document.querySelectorAll('*')].map(n => n.tagName)"))
    for i, record in enumerate(records):
        page.evaluate(f"location.hash = 'episode={i}'; route()")
        shown = [text for text, _, _ in shown_tokens(page)]
        wrote = [token for turn in record["turns"] for token in turn["tokens"]]
        assert [as_text(text) for text in shown] == [as_text(text) for text in wrote]
    tags = set(page.evaluate("[...document.querySelectorAll('*')].map(n => n.tagName)"))
    assert tags - plain <= {"PRE", "DETAILS", "SUMMARY", "ASIDE", "B", "H3"}
    assert not watched.complaints
    assert len(watched.requests) == 1
    page.close()


def as_text(text: str) -> str:
    """The text as it comes back over the browser's protocol, which has no halves of pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_two_runs_side_by_side(browser, run, tmp_path):
    other = write_run(tmp_path / "other", samples=16, seed=1)
    file = write_page([run, other], tmp_path / "both.html")
    page, watched = opened(browser, file, "#compare")
    page.click("#compare-tasks tr[data-task='task 0']")
    page.wait_for_selector("#group thead th")
    heads = page.evaluate(
        "[...document.querySelectorAll('#group thead th')].map(h => h.textContent)"
    )
    assert sum(head.startswith("house") for head in heads) == 8
    assert sum(head.startswith("other") for head in heads) == 8
    assert not watched.complaints
    page.close()


def test_of_many_runs_each_has_its_part_of_the_columns(browser, run, tmp_path):
    others = [write_run(tmp_path / f"run{i}", samples=16, seed=i) for i in range(1, 5)]
    file = write_page([run, *others], tmp_path / "all.html")
    page, watched = opened(browser, file, "#task=task%200")
    page.wait_for_selector("#group thead th")
    heads = page.evaluate(
        "[...document.querySelectorAll('#group thead th')].map(h => h.textContent)"
    )
    for name in ("house", "run1", "run2", "run3", "run4"):
        assert sum(head.startswith(name) for head in heads) == 4
    assert "20 of 40 episodes" in page.text_content("#group h2")
    assert not watched.complaints
    page.close()


def test_without_an_episode_the_page_still_opens(browser, tmp_path):
    (tmp_path / "params.json").write_text("{}")
    page, watched = opened(browser, write_page([tmp_path]), "#episodes")
    assert "No episode is recorded" in page.text_content("#episodes")
    assert not watched.complaints
    page.close()
