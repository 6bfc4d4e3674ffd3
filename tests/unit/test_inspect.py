"""The page about a run: what it shows, whatever the files hold; a text is never a script."""

import json
import random
import re
import shutil
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stepopsd_rllib.commands.inspection import server_of
from stepopsd_rllib.report.inspect_page import charts, inspected_files
from stepopsd_rllib.report.inspect_page.inspected_files import inspected_folders, read_inspected
from stepopsd_rllib.report.inspect_page.page import json_block, page_of, write_page
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.run_folders import sample, write_lines, write_run


class Scripts(HTMLParser):
    """The scripts of a page as a browser takes them apart, and every other tag."""

    def __init__(self, html: str):
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.is_inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
            self.is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = self.is_inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def blocks(html: str) -> dict[str, Any]:
    return {
        str(attributes["id"]): json.loads(text)
        for attributes, text in Scripts(html).scripts
        if attributes.get("type") == "application/json"
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "house", samples=32)


def test_the_page_holds_every_record_of_the_credit_file_as_it_is(run):
    found = blocks(page_of([run]))
    written = [json.loads(line) for line in (run / "credit.jsonl").read_text().splitlines()]
    assert [found[f"e{i}"] for i in range(len(written))] == written
    index = found["index"]
    assert len(index["episodes"]) == len(written) + 90
    assert index["episodes"][0]["task"] == written[0]["task_id"]


def test_nothing_of_the_page_comes_from_elsewhere(run):
    page = Scripts(page_of([run]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not {"src", "srcset", "action"} & set(attributes), tag
        assert str(attributes.get("href", "#")).startswith("#")
    (policy,) = [str(a["content"]) for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_the_script_writes_texts_only_as_text(run):
    code = [text for attributes, text in Scripts(page_of([run])).scripts if not attributes]
    assert len(code) == 1
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", code[0])


def test_a_thousand_hostile_texts_stay_data(tmp_path):
    texts = hostile_texts(1000)
    rest = iter(texts * 40)
    folder = write_run(tmp_path / "run", samples=8)
    hostile = write_run(tmp_path / "hostile", samples=8)
    rng = random.Random(1)
    records = [sample(rng, 1, 0, i, lambda: next(rest)) for i in range(160)]
    write_lines(hostile / "credit.jsonl", records)
    told = [{"error": t, "status": "tool_error", "iteration": 1, "task_id": t} for t in texts[:60]]
    write_lines(hostile / "errors.jsonl", told)
    plain, html = page_of([folder]), page_of([hostile])
    assert [t for t, a in Scripts(plain).tags if t == "script" and "type" not in a] == ["script"]
    assert [t for t, a in Scripts(html).tags if t == "script" and "type" not in a] == ["script"]
    found = blocks(html)
    assert [found[f"e{i}"] for i in range(160)] == records
    used = json.dumps(records)
    assert sum(json.dumps(text)[1:-1] in used for text in texts) >= 950
    assert {t for t, _ in Scripts(html).tags} == {t for t, _ in Scripts(plain).tags}
    for attributes in (a for _, a in Scripts(html).tags):
        assert not any(name.startswith("on") for name in attributes)


@pytest.mark.parametrize("text", hostile_texts(200))
def test_no_text_ends_its_script_block(text):
    block = str(json_block({"text": text}))
    assert json.loads(block) == {"text": text}
    assert not set(block) & set("<>&\u2028\u2029")


def test_a_run_that_has_only_begun_says_so_and_shows_its_config(tmp_path):
    (tmp_path / "params.json").write_text('{"env": "stepopsd/ALFWorld-v0"}')
    html = page_of([tmp_path])
    assert "result.json is missing: no iteration has ended yet." in html
    assert "credit.jsonl is missing: no episode was sampled" in html
    assert "stepopsd/ALFWorld-v0" in html


def test_what_cannot_be_read_is_counted_and_the_rest_is_shown(tmp_path):
    folder = write_run(tmp_path / "run", samples=8)
    for name in ("result.json", "credit.jsonl", "evaluation.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_text('{"torn\n[1]\n' + text + '{"iteration": 3, "tas')
    inspected = read_inspected(folder, "run")
    assert len(inspected.samples) == 8 and len(inspected.trial.results) == 8
    for name in ("result.json", "credit.jsonl", "evaluation.jsonl"):
        assert f"{name}: 3 lines cannot be read and not shown." in inspected.notes
    assert "3 lines cannot be read" in page_of([folder])


def test_records_of_older_and_of_newer_versions(tmp_path):
    folder = write_run(tmp_path / "run", samples=8)
    records = [json.loads(line) for line in (folder / "credit.jsonl").read_text().splitlines()]
    old = {k: v for k, v in records[0].items() if k not in ("schema", "told", "won")}
    for turn in old["turns"]:
        for field in ("prompt", "response", "finish_reason", "told", "behaviour_log_prob"):
            turn.pop(field, None)
    write_lines(folder / "credit.jsonl", [old, records[1], records[2] | {"schema": 9}])
    inspected = read_inspected(folder, "run")
    assert inspected.samples == [old, records[1]]
    notes = " ".join(inspected.notes)
    assert "older version (schema 1)" in notes and "schema 9 are newer than this version" in notes
    assert blocks(page_of([folder]))["e0"] == old


def test_records_without_entropies_are_shown_and_said_to_lack_them(tmp_path):
    folder = write_run(tmp_path / "run", samples=8)
    records = [json.loads(line) for line in (folder / "credit.jsonl").read_text().splitlines()]
    for record in records:
        record["schema"] = 3
        for turn in record["turns"]:
            del turn["entropy"], turn["new_log_prob"]
    write_lines(folder / "credit.jsonl", records)
    inspected = read_inspected(folder, "run")
    assert inspected.samples == records
    (note,) = [note for note in inspected.notes if "older version (schema 3)" in note]
    assert "it has no entropies" in note


def test_no_two_labels_of_an_axis_are_alike():
    labels = charts._labels([0.9985, 0.999, 0.9995, 1.0], charts.share)
    assert labels == ["99.85%", "99.9%", "99.95%", "100%"]
    assert charts._labels([0.0, 0.5, 1.0], charts.plain) == ["0", "0.5", "1"]


def test_a_single_evaluation_has_its_interval_in_the_chart():
    line = charts.Line(x=[0], y=[0.5], low=[0.25], high=[0.75], has_dots=True)
    assert 'stroke-opacity="0.4"' in charts.chart("Success", [line], limits=(0.0, 1.0))


def test_a_nan_becomes_nothing_and_not_a_word_that_no_browser_reads(tmp_path):
    folder = write_run(tmp_path / "run", samples=8)
    text = (folder / "credit.jsonl").read_text().replace('"reward": 0.0', '"reward": NaN')
    (folder / "credit.jsonl").write_text(text)
    assert blocks(page_of([folder]))["e0"]["turns"][0]["reward"] is None


def test_more_than_a_page_holds_is_thinned_out_evenly_and_said(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", samples=64)
    size = (folder / "credit.jsonl").stat().st_size
    monkeypatch.setattr(inspected_files, "SAMPLE_BYTES", size // 2)
    inspected = read_inspected(folder, "run")
    updates = sorted({sample["update"] for sample in inspected.samples})
    assert 1 < len(updates) <= 4 and len({b - a for a, b in pairwise(updates)}) == 1
    assert any("evenly spaced" in note for note in inspected.notes)


def test_a_folder_that_is_no_run_gets_one_line(tmp_path):
    with pytest.raises(ValueError, match="is not a folder") as missing:
        inspected_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="so it is not a run folder") as empty:
        inspected_folders(tmp_path)
    assert "\n" not in str(missing.value) + str(empty.value)


def test_a_page_that_cannot_be_written_says_how_to_put_it_elsewhere(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*--output FILE"):
        write_page([run], tmp_path / "file" / "page.html")
    assert write_page([run], tmp_path / "page.html").stat().st_size < 1_000_000


def test_of_a_read_only_run_the_page_goes_into_the_current_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for others than root
    monkeypatch.chdir(tmp_path)
    before = sorted(run.iterdir())
    assert write_page([run]) == tmp_path / "house.html"
    assert sorted(run.iterdir()) == before


def test_two_runs_are_compared_on_the_tasks_of_both(run, tmp_path):
    other = write_run(tmp_path / "other", samples=16, seed=1)
    html = page_of([run, other])
    rows = [
        {
            row["task_id"]: row["won"]
            for row in map(json.loads, folder.open())
            if row["iteration"] == 8
        }
        for folder in (run / "evaluation.jsonl", other / "evaluation.jsonl")
    ]
    better = sum(rows[1][task] > rows[0][task] for task in rows[0])
    worse = sum(rows[1][task] < rows[0][task] for task in rows[0])
    cells = [f'<td class="n">{number}</td>' for number in (30, better, worse)]
    assert "<td>other</td>" + "".join(cells) in html
    assert blocks(html)["index"]["trials"] == ["house", "other"]


def test_the_page_is_served_anew_at_every_visit(tmp_path):
    folder = write_run(tmp_path / "run", samples=8)
    server = server_of([str(folder)], port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        assert "no episode was sampled" not in urllib.request.urlopen(address).read().decode()
        (folder / "credit.jsonl").unlink()
        assert "no episode was sampled" in urllib.request.urlopen(address).read().decode()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address + "etc/passwd")
    finally:
        server.shutdown()
        server.server_close()


def test_task_scores_stand_under_the_success_where_tasks_are_graded(run, tmp_path):
    assert "task score<" not in page_of([run])
    graded = tmp_path / "graded"
    shutil.copytree(run, graded)
    path = graded / "evaluation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row | {"task_score": 1.0 if row["won"] else 0.5} for row in rows])
    html = page_of([graded])
    cells = re.findall(r"<td>([^<]*task score)</td>", html)
    assert cells[-1] == "all, task score" and len(cells) == len({r["task_type"] for r in rows}) + 1
    last = [row for row in rows if row["iteration"] == max(r["iteration"] for r in rows)]
    mean = sum(1.0 if row["won"] else 0.5 for row in last) / len(last)
    assert f"{100 * mean:.1f} % [" in html[html.index("all, task score") :]
