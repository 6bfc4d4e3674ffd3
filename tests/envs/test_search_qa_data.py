"""Questions and corpora from files: genuine rows, and one clear line for every bad one."""

import gzip
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from stepopsd_envs.search_qa.bm25 import BM25Index
from stepopsd_envs.search_qa.corpus import CorpusError, corpus_fingerprint, read_corpus
from stepopsd_envs.search_qa.dataset import DatasetError, read_questions
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.scoring import exact_match
from stepopsd_envs.search_qa.tasks import RowTasks, TaskIdError, generated_world, write_world

REAL = Path(
    os.environ.get("STEPOPSD_SEARCHQA_REAL")
    or Path(__file__).resolve().parents[3] / "shared" / "data" / "searchqa_real"
)
needs_real_rows = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no genuine rows: STEPOPSD_SEARCHQA_REAL or {REAL} must hold them"
)
SOURCES = ("2wikimultihopqa", "bamboogle", "hotpotqa", "musique", "nq", "popqa", "triviaqa")
GOOD_ROW = {"id": "1", "question": "who", "golden_answers": ["a"], "data_source": "nq"}


def write_lines(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@needs_real_rows
@pytest.mark.parametrize("source", SOURCES)
def test_genuine_rows_load_and_their_gold_answers_score(source: str):
    questions = read_questions(REAL / f"{source}.jsonl")
    assert len(questions) == (75 if source == "bamboogle" else 200)
    for question in questions.values():
        assert question.data_source == source
        for answer in question.golden_answers:
            assert exact_match(answer, question.golden_answers)
            assert exact_match(f" The {answer.lower()}. ", [answer])
        assert not exact_match("no such answer in any row", question.golden_answers)


@needs_real_rows
def test_genuine_rows_bring_unicode_and_many_gold_answers():
    questions = [q for source in SOURCES for q in read_questions(REAL / f"{source}.jsonl").values()]
    assert len(questions) == 1275
    assert any(not question.text.isascii() for question in questions)
    assert max(len(question.golden_answers) for question in questions) > 10


@needs_real_rows
@pytest.mark.parametrize(("source", "least_share"), [("nq", 0.9), ("hotpotqa", 0.6)])
def test_genuine_passages_are_found_by_the_question(source: str, least_share: float):
    """The shares that an independent BM25 reached, .93 and .65 over all rows, less a margin."""
    index = BM25Index(list(read_corpus(REAL / "corpus.jsonl")))
    rows = [json.loads(line) for line in (REAL / f"{source}.jsonl").open(encoding="utf-8")]
    rows = [row for row in rows if row["supporting_passages"]]
    found = 0
    for row in rows:
        passages = index.search([row["question"]], 3)[0]
        text = " ".join(passage.contents for passage in passages).lower()
        found += any(answer.lower() in text for answer in row["golden_answers"])
    assert found / len(rows) >= least_share


@needs_real_rows
def test_a_genuine_question_is_played_from_file_to_reward():
    env = SearchQAEnv(
        data={"valid_unseen": [str(REAL / f"{source}.jsonl") for source in SOURCES]},
        retriever=str(REAL / "corpus.jsonl"),
    )
    tasks = env.tasks("valid_unseen")
    assert len(tasks) == 1275 and list(tasks) == sorted(tasks)
    env.reset(options={"task": "nq/nq_shared_0"})
    observation = env.step("<search>first nobel prize in physics</search>")[0]
    assert "Wilhelm Conrad Röntgen" in observation
    assert env.step("<answer>Wilhelm Conrad Röntgen</answer>")[1] == 1.0


def test_parquet_and_packed_lines_hold_the_same_questions(tmp_path: Path):
    rows = [{**GOOD_ROW, "id": str(i), "golden_answers": ["é", "b"]} for i in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    plain = read_questions(write_lines(tmp_path / "rows.jsonl", *rows))
    assert read_questions(tmp_path / "rows.parquet") == plain
    assert read_questions(tmp_path / "rows.jsonl.gz") == plain
    assert list(plain) == ["nq/0", "nq/1", "nq/2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD_ROW, "golden_answers": []}, ":2: no golden answers"),
        ({**GOOD_ROW, "golden_answers": ["  "]}, ":2: no golden answers"),
        ({**GOOD_ROW, "golden_answers": None}, ":2: no golden answers"),
        ({**GOOD_ROW, "golden_answers": [None, float("nan")]}, ":2: no golden answers"),
        (
            {**GOOD_ROW, "golden_answers": [True]},
            r":2: golden_answers=\[True\] is no list of texts",
        ),
        ({**GOOD_ROW, "golden_answers": {"a": 1}}, ":2: golden_answers={'a': 1} is no list"),
        ({**GOOD_ROW, "question": " "}, ":2: question=' ' is no text"),
        ({**GOOD_ROW, "data_source": 7}, ":2: data_source=7 is no text"),
        ({**GOOD_ROW, "id": "0"}, ":2: the id 'nq/0' was used before"),
        ("{broken", ":2: not JSON"),
        ("[1]", ":2: the line is not a JSON object"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row, message):
    path = write_lines(tmp_path / "rows.jsonl", {**GOOD_ROW, "id": "0"}, row)
    with pytest.raises(DatasetError, match=message) as caught:
        read_questions(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source"), [("nq/test.jsonl", "nq"), ("any/bamboogle.jsonl", "bamboogle")]
)
def test_rows_without_a_data_source_get_it_from_the_path(tmp_path: Path, name: str, source: str):
    row = {key: value for key, value in GOOD_ROW.items() if key != "data_source"}
    path = tmp_path / name
    path.parent.mkdir()
    [(task_id, question)] = read_questions(write_lines(path, row)).items()
    assert (task_id, question.data_source) == (f"{source}/1", source)


def test_small_oddities_of_rows_are_read_as_they_were_meant(tmp_path: Path):
    odd = [
        {"id": 0},
        {"id": None},
        {"id": 7.0, "data_source": None},
        {"id": "", "golden_answers": [1969, 2.0, None, " "]},
        {"id": "05", "golden_answers": "one"},
        {"id": True, "golden_answers": 3},
    ]
    folder = tmp_path / "nq"
    folder.mkdir()
    lines = [json.dumps({**GOOD_ROW, **row}) for row in odd]
    path = write_lines(folder / "test.jsonl", "", *lines, "  ", "")
    read = read_questions(path)
    assert list(read) == ["nq/0", "nq/000003", "nq/7", "nq/000005", "nq/05", "nq/000007"]
    answers = [question.golden_answers for question in read.values()]
    assert answers[3:] == [("1969", "2"), ("one",), ("3",)]


def test_corpus_ids_are_texts_whatever_they_were(tmp_path: Path):
    rows = [{"id": number, "contents": "t"} for number in (0, 7.0, "7.5", 12)]
    path = write_lines(tmp_path / "c.jsonl", rows[0], "", *rows[1:], "", "")
    assert [passage.id for passage in read_corpus(path)] == ["0", "7", "7.5", "12"]
    with pytest.raises(CorpusError, match=r":4: the id was already used in line 2 "):
        list(read_corpus(write_lines(path, "", rows[0], rows[1], {**rows[0], "id": "0"})))
    for value in (None, True, [], float("nan"), " "):
        with pytest.raises(CorpusError, match=":1: the line has no id"):
            list(read_corpus(write_lines(path, {"id": value, "contents": "t"})))


@pytest.mark.parametrize("size", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("damage", ["cut", "zeros", "pointer"])
def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path, damage: str, size: float):
    path = tmp_path / "rows.parquet"
    rows = [{**GOOD_ROW, "id": str(i), "question": f"{i} é " * 40} for i in range(4_000)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, data_page_size=4096)
    data = path.read_bytes()
    at = int(size * len(data))
    path.write_bytes(
        {
            "cut": data[:at],
            "zeros": data[:at] + bytes(200) + data[at + 200 :],
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        }[damage]
    )
    with pytest.raises(DatasetError, match=r"Copy it again|git lfs pull") as caught:
        read_questions(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_world_is_read_back_as_it_was_written(tmp_path: Path):
    made = generated_world("easy", 5)
    questions, corpus = write_world("easy", 5, tmp_path)
    assert list(read_corpus(corpus)) == list(made.world.passages)
    read = list(read_questions(questions).values())
    assert [(q.text, q.golden_answers, q.data_source) for q in read] == [
        (q.text, q.golden_answers, q.data_source) for q in made.questions
    ]


def test_files_that_are_no_data_are_refused(tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    for name, message in (
        ("x.parquet", "no whole parquet file"),
        ("x.csv", "no such file"),
        ("empty.jsonl", "no questions in it"),
    ):
        write_lines(tmp_path / "empty.jsonl")
        with pytest.raises(DatasetError, match=message):
            read_questions(tmp_path / name)


def test_a_question_in_two_splits_is_refused(tmp_path: Path):
    path = str(write_lines(tmp_path / "rows.jsonl", GOOD_ROW))
    with pytest.raises(TaskIdError, match="'nq/1' is also in another file"):
        RowTasks({"train": path, "valid_seen": path})


def test_a_split_without_file_is_refused_by_name(tmp_path: Path):
    tasks = RowTasks({"train": str(write_lines(tmp_path / "rows.jsonl", GOOD_ROW))})
    with pytest.raises(TaskIdError, match="split='valid_seen': the data have no such split"):
        tasks.tasks("valid_seen")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"contents": "x"}, ":2: the line has no id"),
        ({"id": "2"}, ":2: the line has no contents"),
        ({"id": "2", "contents": " "}, ":2: the line has no contents"),
        ({"id": "1", "contents": "x"}, ":2: the id was already used in line 1"),
        ("{", ":2: not JSON"),
    ],
)
def test_a_bad_corpus_line_is_named_with_file_and_line(tmp_path: Path, line, message):
    path = write_lines(tmp_path / "corpus.jsonl", {"id": "1", "contents": "a"}, line)
    with pytest.raises(CorpusError, match=message) as caught:
        list(read_corpus(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_corpus_takes_title_and_text_apart_and_refuses_nothing_at_all(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"id": 3, "title": "T", "text": "body"})
    [passage] = read_corpus(path)
    assert (passage.id, passage.contents) == ("3", '"T"\nbody')
    with pytest.raises(CorpusError, match="the corpus is empty"):
        list(read_corpus(write_lines(tmp_path / "b.jsonl")))
    with pytest.raises(CorpusError, match="no such corpus file"):
        list(read_corpus(tmp_path / "c.jsonl"))


def test_fingerprint_changes_with_the_content(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"id": 3, "contents": "body"})
    before = corpus_fingerprint(path)
    write_lines(path, {"id": 3, "contents": "bodz"})
    assert corpus_fingerprint(path) != before


def test_a_written_world_is_read_back_like_real_data(tmp_path: Path):
    questions, corpus = write_world("easy", 3, tmp_path)
    env = SearchQAEnv(data={"train": str(questions)}, retriever=str(corpus), top_k=1)
    assert len(env.tasks("train")) == 80
    observation, _ = env.reset(options={"task": env.tasks("train")[0]})
    evidence = env.step(f"<search>{observation}</search>")[0]
    assert env.question.golden_answers[0] in evidence
