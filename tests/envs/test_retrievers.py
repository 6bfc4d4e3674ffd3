"""Retrievers over a corpus: BM25 in the process, tantivy on disk, and both served over HTTP."""

import http.client
import json
import math
import pickle
import threading
from pathlib import Path

import pytest
from stepopsd_envs.bm25 import words
from stepopsd_envs.search_qa.bm25 import BM25Index
from stepopsd_envs.search_qa.commands import index_corpus
from stepopsd_envs.search_qa.corpus import CorpusError
from stepopsd_envs.search_qa.dense import DenseRetriever
from stepopsd_envs.search_qa.http_client import HttpRetriever
from stepopsd_envs.search_qa.open_retriever import open_retriever
from stepopsd_envs.search_qa.retriever import Passage, RetrievalError
from stepopsd_envs.search_qa.server import RetrievalServer
from stepopsd_envs.search_qa.tasks import generated_world, write_world

TEXTS = ("the cat sat on a mat", "a dog and a cat and a cat", "birds fly", "a dog barks")
QUERIES = ("cat", "dog cat", 'AND ( : "broken', "", "ünknown 中文")


def passages(*texts: str) -> list[Passage]:
    return [Passage(id=f"p{i}", contents=text) for i, text in enumerate(texts)]


def ids(found: list[Passage]) -> list[str]:
    return [passage.id for passage in found]


def naive_score(query: str, text: str, corpus: tuple[str, ...]) -> float:
    """Okapi BM25 as in the module's equation, by loops."""
    documents = [words(other) for other in corpus]
    document, mean = words(text), sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in words(query):
        holders = sum(word in other for other in documents)
        idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        frequency = document.count(word)
        total += idf * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
    return total


@pytest.mark.parametrize("query", ["cat", "dog cat", "cat cat", "mat birds", "the fly"])
def test_bm25_scores_are_those_of_the_equation(query: str):
    found = BM25Index(passages(*TEXTS)).search([query], 4)[0]
    expected = {f"p{i}": naive_score(query, text, TEXTS) for i, text in enumerate(TEXTS)}
    assert {p.id for p in found} == {name for name, score in expected.items() if score > 0}
    for passage in found:
        assert passage.score == pytest.approx(expected[passage.id], rel=1e-12)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


def test_equal_scores_come_in_corpus_order():
    index = BM25Index(passages(*["same words"] * 50))
    assert ids(index.search(["words"], 3)[0]) == ["p0", "p1", "p2"]


def test_a_query_without_a_match_gets_the_first_passages_with_score_0():
    found = BM25Index(passages(*TEXTS)).search(["nothing like it", ""], 2)
    assert [ids(one) for one in found] == [["p0", "p1"]] * 2
    assert {passage.score for one in found for passage in one} == {0.0}


def test_bm25_survives_pickling():
    index = generated_world("one_hop", 0).retriever
    copy = pickle.loads(pickle.dumps(index))
    assert copy.search(["mayor"], 5) == index.search(["mayor"], 5)


@pytest.fixture
def world_files(tmp_path: Path) -> tuple[Path, Path]:
    return write_world("one_hop", 0, tmp_path / "world")


def test_index_command_builds_what_open_retriever_reads(world_files, tmp_path: Path):
    pytest.importorskip("tantivy", reason="the extra `search` is not installed")
    lines: list[str] = []
    folder = index_corpus(str(world_files[1]), report=lines.append)
    assert folder == world_files[1].with_suffix(".tantivy") and "passages indexed" in lines[-1]
    index = open_retriever(str(folder))
    questions = generated_world("one_hop", 0).questions
    for question in questions[:60]:
        subject = question.lookups[0].subject
        [found] = index.search([f"{subject} {question.text}"], 3)
        assert any(question.golden_answers[0] in passage.contents for passage in found)
    for found in index.search(QUERIES, 3):
        assert len(found) >= 1 and all(passage.contents for passage in found)


def test_two_builds_give_the_same_answers(world_files, tmp_path: Path):
    pytest.importorskip("tantivy", reason="the extra `search` is not installed")
    opened = []
    for name in ("a", "b"):
        folder = index_corpus(str(world_files[1]), output=str(tmp_path / name), report=str)
        opened.append(open_retriever(str(folder)))
    queries = [question.text for question in generated_world("one_hop", 0).questions]
    first, second = ([ids(found) for found in retriever.search(queries, 3)] for retriever in opened)
    assert first == second


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path):
    pytest.importorskip("tantivy", reason="the extra `search` is not installed")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "x"}\n{"id": "1", "contents": "y"}\n')
    with pytest.raises(CorpusError, match="already used in line 1"):
        index_corpus(str(corpus), output=str(tmp_path / "index"), report=str)
    assert list(tmp_path.iterdir()) == [corpus]


def test_the_index_of_another_corpus_is_refused(world_files, tmp_path: Path):
    pytest.importorskip("tantivy", reason="the extra `search` is not installed")
    folder = index_corpus(str(world_files[1]), output=str(tmp_path / "index"), report=str)
    other = write_world("easy", 1, tmp_path / "other")[1]
    spec = {"kind": "tantivy", "folder": str(folder), "corpus": str(other)}
    with pytest.raises(ValueError, match="the index of another corpus than") as caught:
        open_retriever(spec)
    assert "\n" not in str(caught.value)
    open_retriever({**spec, "corpus": str(world_files[1])})
    with pytest.raises(ValueError, match="already there"):
        index_corpus(str(other), output=str(folder), report=str)
    with pytest.raises(ValueError, match="no index made by `stepopsd index`"):
        open_retriever(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/file", "no http:// address, no corpus file and no index folder"),
        ({"kind": "htp", "urls": []}, "kind='htp' is none of.*Did you mean 'http'"),
        ({"kind": "http", "urls": []}, "name at least one server"),
        ({"kind": "http", "urls": ["x:1"]}, "an address begins with http://"),
        ({"kind": "http", "urls": ["http://x"], "dedline_s": 1}, "Did you mean 'deadline_s'"),
        ({"kind": "bm25", "corpus": "x", "k": 1}, "retriever.k=1: 'bm25' has no such key"),
    ],
)
def test_bad_retriever_settings_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        open_retriever(spec)


def test_dense_retrieval_names_its_extra_where_faiss_is_missing(tmp_path: Path):
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"stepopsd-rllib\[dense\]"):
            DenseRetriever("x", corpus="y", encoder="z")
    else:
        with pytest.raises(CorpusError, match="no such file"):
            DenseRetriever("x", corpus="y", encoder="z")


@pytest.fixture
def server():
    served = RetrievalServer(BM25Index(passages(*TEXTS)), port=0)
    served.start()
    yield served
    served.shutdown()
    served.server_close()


def post(server: RetrievalServer, body: bytes, path: str = "/retrieve") -> tuple[int, dict]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=10)
    connection.request("POST", path, body)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content


def test_server_speaks_both_dialects_with_and_without_scores(server: RetrievalServer):
    status, both = post(server, b'{"queries": ["cat", "birds"], "topk": 1, "return_scores": true}')
    assert status == 200
    assert [row[0]["document"]["id"] for row in both["result"]] == ["p1", "p2"]
    assert both["result"][0][0]["score"] > 0
    status, one = post(server, b'{"query": "birds", "topk": 1}')
    assert one == {"result": [[{"id": "p2", "contents": "birds fly"}]]}


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"queries": "x"}', b'{"query": "x", "topk": -1}']
)
def test_server_refuses_requests_in_neither_dialect(server: RetrievalServer, body: bytes):
    status, content = post(server, body)
    assert status == 422 and content["error"]
    assert post(server, b'{"query": "x"}', path="/other")[0] == 404


def test_client_gets_what_the_index_gives(server: RetrievalServer):
    client = HttpRetriever([server.url])
    client.check()
    expected = BM25Index(passages(*TEXTS)).search(QUERIES, 2)
    assert client.search(QUERIES, 2) == expected
    client.close()


def test_equal_queries_are_asked_once_and_kept(server: RetrievalServer):
    client = HttpRetriever([server.url], batch_window_s=0.05)
    barrier = threading.Barrier(16)

    def ask(number: int) -> None:
        barrier.wait()
        client.search([f"cat {number % 4}"], 2)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.counts.queries_sent == 4
    assert client.counts.requests < 4
    client.search(["cat   1 "], 2)
    assert client.batch_counts.cache_hits == 1 and client.counts.queries_sent == 4
    assert client.batch_counts.shared == 12


def test_a_server_that_is_none_is_named_at_the_start(server: RetrievalServer):
    wrong = server.url.replace("/retrieve", "/elsewhere")
    with pytest.raises(RetrievalError, match=r"speaks neither dialect.*http_404") as caught:
        HttpRetriever([wrong], deadline_s=2).check()
    assert "\n" not in str(caught.value) and wrong in str(caught.value)
