"""Files of text as people have them: read as they were meant, or refused in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepopsd_envs.text_files import (
    json_line,
    json_lines,
    parse_json,
    read_json,
    read_text,
    text_pieces,
    whole_characters,
)

from stepopsd_rllib.teachers.skills import SkillLibraryError, load_library

ROWS = [{"id": "1", "text": "é \u2028 日本"}, {"id": 2, "text": 'a "b"\n\\u2028'}]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


def encoded(encoding: str) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS).encode(encoding)


@pytest.mark.parametrize(
    "data",
    [
        encoded("utf-8"),
        encoded("utf-8-sig"),
        encoded("utf-8").replace(b"\n", b"\r\n"),
        encoded("utf-8").rstrip(b"\n"),
        b"\n" + encoded("utf-8").replace(b"\n", b"\n  \n\t\n"),
        "".join(f"{json.dumps(row)}\n" for row in ROWS).encode(),
        "".join(map(json_line, ROWS)).encode(),
    ],
)
def test_lines_are_read_however_they_were_saved(tmp_path: Path, data: bytes):
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert [row for _, row in json_lines(tmp_path / "rows.jsonl")] == ROWS
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(data))
    assert list(json_lines(tmp_path / "rows.jsonl.gz")) == list(json_lines(tmp_path / "rows.jsonl"))


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\ufeff")), size=st.integers(1, 9)
)
def test_a_large_file_is_the_sum_of_its_pieces(tmp_path_factory, text: str, size: int):
    path = tmp_path_factory.mktemp("pieces") / "text"
    path.write_bytes(text.encode("utf-8-sig"))
    assert "".join(text_pieces(path, size=size)) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (("x" * 50 + "é" * 30).encode() + b"\xe9x", "not UTF-8 (byte 0xe9 at position 110). Save"),
        (("x" * 99 + "日").encode()[:-1], "not UTF-8 (byte 0xe6 at position 99). Save"),
        ("[1]".encode("utf-16"), "is UTF-16. Save"),
        (POINTER, "is a Git-LFS pointer"),
        (None, "cannot be read (No such file or directory)."),
    ],
)
@pytest.mark.parametrize("size", [64, 100, 4096])
def test_a_large_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, data, message, size):
    path = tmp_path / "large"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError) as refusal:
        list(text_pieces(path, size=size))
    assert str(refusal.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refusal.value)


def test_rows_are_numbered_as_an_editor_numbers_lines(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert list(json_lines(tmp_path / "rows.jsonl")) == [(2, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": "café"}\n'.encode("latin-1"), ":1: not UTF-8 (byte 0xe9 at position 10). Save"),
        (b'{"a": 1}\n{"a": "\xed\xa0\xbd"}\n', ":2: not UTF-8 (byte 0xed at position 7). Save"),
        ('{"a": 1}\n'.encode("utf-16"), ":1: is UTF-16. Save the file as UTF-8"),
        ('{"a": 1}\n'.encode("utf-16-le"), ":1: holds zero bytes. Save the file as UTF-8"),
        (b'{"a": 1}\n' + bytes(40), ":2: holds zero bytes"),
        (POINTER, ": is a Git-LFS pointer, not the file itself. Run `git lfs pull`"),
        (b'{"a": 1}\n{"a": 2, "b', ":2: not JSON (Unterminated string"),
        (b'{"a": 1}\n{"a": 2, "b": "c', "It may have been cut off: copy it again."),
        (b'{"a": 1}\r{"a": 2}\r', ":1: not JSON (Extra data"),
        (b'{"a": 1, "b": 2, "a": 3}\n', ":1: the key 'a' stands twice in one object"),
        (b'{"x": {"a": 1, "a": 1}}\n', ":1: the key 'a' stands twice in one object"),
        (b"[" * 100_000, ":1: not JSON that can be read (nested too deeply)"),
        (b"1" * 5_000, ":1: not JSON (Exceeds the limit"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line_with_its_row(tmp_path: Path, data, message):
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(ValueError) as refusal:
        list(json_lines(tmp_path / "rows.jsonl"))
    said = str(refusal.value)
    assert said.startswith(str(tmp_path / "rows.jsonl")) and message in said and "\n" not in said


def test_a_file_that_is_not_there_or_not_whole_is_refused_with_its_name(tmp_path: Path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(encoded("utf-8"))[:-20])
    for name, message in (("rows.jsonl.gz", "not a whole gzip file"), ("", "cannot be read (Is a")):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            list(json_lines(tmp_path / name))
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
            read(tmp_path / "none")


def test_halves_of_surrogate_pairs_are_read_as_unknown_characters():
    assert parse_json(rb'["\ud83d\ude00", "\ud83d", {"\udc00": "x\uDFFF"}]', "x") == [
        "\U0001f600",
        "\ufffd",
        {"\ufffd": "x\ufffd"},
    ]
    assert parse_json(rb'["\\ud83d"]', "x") == [r"\ud83d"]


def test_a_message_may_say_a_key_twice():
    assert parse_json(b'{"a": 1, "a": 2}', "reply", is_file=False) == {"a": 2}


GENERAL = "# Everywhere\n\n## Look first {#look}\nPrinciple: Look.\nWhen to apply: Always.\n"


@pytest.mark.parametrize("save", [lambda text: text, lambda text: text.replace("\n", "\r\n")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_skill_file_keeps_its_heading_however_it_was_saved(tmp_path: Path, save, encoding):
    (tmp_path / "general.md").write_bytes(save(GENERAL).encode(encoding))
    [skill] = load_library(tmp_path).general.skills
    assert load_library(tmp_path).general.heading == "Everywhere"
    assert (skill.skill_id, skill.when_to_apply) == ("look", "Always.")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("general.md", GENERAL.replace("Look.", "Café.").encode("latin-1"), "not UTF-8 (byte 0xe9"),
        ("general.md", GENERAL.encode("utf-16"), "is UTF-16. Save the file as UTF-8"),
        ("general.md", POINTER, "is a Git-LFS pointer"),
        ("bank.json", b'{"general": []', "not JSON"),
        ("bank.json", b'{"general": [], "general": []}', "the key 'general' stands twice"),
        ("bank.json", b'{"general": {"a": 1}}', "not a list of objects"),
        ("bank.json", b'{"general": ["look"]}', "not a list of objects"),
        ("bank.json", b'{"general": [], "categories": []}', "its categories are a list"),
    ],
)
def test_a_skill_file_that_is_none_is_refused_in_one_line(tmp_path: Path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SkillLibraryError) as refusal:
        load_library(tmp_path if name.endswith(".md") else tmp_path / name)
    said = str(refusal.value)
    assert said.startswith(str(tmp_path / name)) and message in said and "\n" not in said


@given(rows=st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=12), max_size=3)))
def test_rows_are_read_back_exactly_as_they_were_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(map(json_line, rows)), encoding="utf-8", newline="")
    assert [row for _, row in json_lines(path)] == rows


@given(text=st.text(st.characters(codec=None), max_size=20))
def test_any_text_can_be_written_and_comes_back_with_whole_characters(text):
    assert parse_json(json_line(text).encode(), "x") == whole_characters(text)
    whole_characters(text).encode()
    assert whole_characters(whole_characters(text)) == whole_characters(text)


@given(data=st.binary(max_size=60) | st.binary(max_size=20).map(lambda some: b'{"a": "' + some))
def test_any_bytes_are_read_or_refused_in_one_line(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(data)
    for read in (lambda: list(json_lines(path)), lambda: read_json(path), lambda: read_text(path)):
        try:
            read()
        except ValueError as refusal:
            assert str(refusal).startswith(str(path)) and "\n" not in str(refusal)
