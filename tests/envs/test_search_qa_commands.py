"""`stepopsd index` and `stepopsd serve-retriever`, run as a user does."""

import gzip
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stepopsd_envs.search_qa.commands import retriever_spec
from stepopsd_envs.search_qa.http_client import HttpRetriever

import stepopsd_cli

ROOT = Path(__file__).parents[2]
START_S = 60.0
PARIS = '{"id": "1", "contents": "\\"Paris\\"\\nParis is the capital of France."}\n'
ROME = '{"id": "2", "contents": "\\"Rome\\"\\nRome is in Italy."}\n'

needs_tantivy = pytest.mark.skipif(
    not any((Path(folder) / "tantivy").is_dir() for folder in sys.path),
    reason="the extra `search` is not installed",
)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with a mistake ends with."""
    assert stepopsd_cli.main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("stepopsd: ")


@needs_tantivy
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PARIS + '{"contents": "Rome"}\n', "corpus.jsonl:2: the line has no id"),
        (PARIS + '{"id": "2"}\n', "corpus.jsonl:2: the line has no contents"),
        (PARIS + ROME + PARIS, "corpus.jsonl:3: the id was already used in line 1"),
        (PARIS + "Rome\n", "corpus.jsonl:2: not JSON"),
        ("", "corpus.jsonl: the corpus is empty"),
        (None, "corpus.jsonl: no such corpus file"),
    ],
)
def test_a_bad_corpus_is_one_line_and_leaves_nothing(content, message, tmp_path: Path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    if content is not None:
        corpus.write_text(content)
    assert message in refusal(capsys, "index", str(corpus))
    assert list(tmp_path.iterdir()) == ([] if content is None else [corpus])
    assert stepopsd_cli.main(["serve-retriever", str(corpus), "--port", "0"]) == 2


@needs_tantivy
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_broken_gzip_file_is_one_line_and_leaves_nothing(is_cut, tmp_path: Path, capsys):
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(PARIS.encode() * 9)[:40] if is_cut else PARIS.encode())
    assert "corpus.jsonl.gz: not a whole gzip file" in refusal(capsys, "index", str(corpus))
    assert list(tmp_path.iterdir()) == [corpus]


@needs_tantivy
def test_an_index_in_the_way_or_out_of_reach_is_one_line(tmp_path: Path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(PARIS)
    assert stepopsd_cli.main(["index", str(corpus)]) == 0
    assert "1 passages indexed" in capsys.readouterr().out
    assert "already there" in refusal(capsys, "index", str(corpus))
    output = str(corpus / "below_a_file")
    assert "cannot be made" in refusal(capsys, "index", str(corpus), "--output", output)


@needs_tantivy
def test_an_index_whose_corpus_has_changed_since_is_refused(tmp_path: Path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(PARIS)
    assert stepopsd_cli.main(["index", str(corpus)]) == 0
    corpus.write_text(PARIS + ROME)
    folder = str(corpus.with_suffix(".tantivy"))
    capsys.readouterr()
    line = refusal(capsys, "serve-retriever", folder, "--port", "0")
    assert "the index of another corpus than" in line and f"`stepopsd index {corpus}`" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "no http:// address, no corpus file and no index folder"),
        (["http://127.0.0.1:1/retrieve"], "no retrieval server answers: http://127.0.0.1:1"),
        (["a", "b", "--set", "corpus=c"], "settings go with one kind, not 2 words"),
        (["dense", "--set", "index=e5.index"], "retriever.corpus is missing: kind='dense' needs"),
        (["dens", "--set", "index=e5.index"], "kind='dens' is none of"),
        (["x", "--port", "99999"], "port=99999: ports go from 0"),
    ],
)
def test_a_mistake_in_serving_is_one_line(arguments, message, capsys):
    assert message in refusal(capsys, "serve-retriever", *arguments)


def test_a_command_line_names_a_retriever_as_a_configuration_does():
    assert retriever_spec(["corpus.jsonl"], []) == "corpus.jsonl"
    assert retriever_spec(["http://a", "http://b"], []) == ["http://a", "http://b"]
    settings = ['urls=["http://a"]', "deadline_s=5", "x=y=z"]
    spec = {"kind": "http", "urls": ["http://a"], "deadline_s": 5, "x": "y=z"}
    assert retriever_spec(["http"], settings) == spec


def test_a_served_corpus_answers_both_dialects_and_ends_with_ctrl_c(tmp_path: Path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(PARIS + ROME)
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(corpus)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdout is not None
    try:
        said = server.stdout.readline()
        assert said.startswith(f"Serving {corpus} at http://127.0.0.1:")
        url = said.split(" at ")[1].split()[0]
        client = HttpRetriever([url], deadline_s=START_S)
        client.check()
        assert [p.id for [p] in client.search(["italy", "France?"], 1)] == ["2", "1"]
        connection = http.client.HTTPConnection(url.split("/")[2])
        body = json.dumps({"query": "italy", "topk": 1, "return_scores": True})
        connection.request("POST", "/retrieve", body)
        [[found]] = json.loads(connection.getresponse().read())["result"]
        assert found["document"]["id"] == "2" and found["score"] > 0
        server.send_signal(signal.SIGINT)
        assert server.wait(START_S) == 0
        assert server.stdout.read() == "heavy modules: []\n"
    finally:
        server.kill()


_SERVE = """
import sys, stepopsd_cli
status = stepopsd_cli.main(["serve-retriever", sys.argv[1], "--port", "0"])
print("heavy modules:", sorted({"ray", "torch", "transformers"} & set(sys.modules)))
sys.exit(status)
"""
