"""Reads questions: rows of `question`, `golden_answers` and `data_source`, FlashRAG's form.

JSON lines, plain or .gz, or parquet (arXiv:2405.13576).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepopsd_envs.search_qa.corpus import identifier
from stepopsd_envs.search_qa.world import Question
from stepopsd_envs.text_files import json_lines, refuse_pointer

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_SHOWN_CHARACTERS = 200
_SPLIT_NAMES = ("train", "dev", "test", "valid", "validation", "valid_seen", "valid_unseen")


class DatasetError(ValueError):
    """A file of questions cannot be used; the message names file and row."""


def read_questions(path: str | Path) -> dict[str, Question]:
    """Returns the questions of a file by task id, in file order.

    The task id is `<data_source>/<id>`, or `<data_source>/<row number>` for rows without id. Rows
    without a data source get the name of the file, or of its folder if the file is named after a
    split: FlashRAG's `nq/test.jsonl` holds the source "nq".

    Raises:
        DatasetError: A row lacks something, an id repeats, or there is no row.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file of questions.")
    if not path.name.endswith(SUFFIXES):
        raise DatasetError(f"{path}: unknown kind of file. Known are {', '.join(SUFFIXES)}.")
    stem = path.name.partition(".")[0]
    source = path.absolute().parent.name if stem in _SPLIT_NAMES else stem
    questions: dict[str, Question] = {}
    for number, row in _rows(path):
        where = f"{path}:{number}"
        question = _question(row, where, source)
        task_id = f"{question.data_source}/{identifier(row.get('id')) or f'{number:06d}'}"
        if task_id in questions:
            raise DatasetError(f"{where}: the id {task_id!r} was used before. Make ids unique.")
        questions[task_id] = question
    if not questions:
        raise DatasetError(f"{path}: no questions in it.")
    return questions


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields row numbers, from 1 (in text: those of the lines), and rows."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
        return
    for number, row in json_lines(path, DatasetError):
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number}: the line is not a JSON object.")
        yield number, row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    with path.open("rb") as file:
        refuse_pointer(file.read(256), str(path), DatasetError)
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        reason = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        raise DatasetError(
            f"{path}: no whole parquet file, or damaged behind row {number} ({reason}). Copy it "
            "again."
        ) from None


def _question(row: dict[str, Any], where: str, default_source: str) -> Question:
    text, source = row.get("question"), row.get("data_source")
    source = default_source if source is None else source
    if not isinstance(text, str) or not text.strip():
        raise DatasetError(f"{where}: question={text!r} is no text. Every row needs a question.")
    if not isinstance(source, str) or not source.strip():
        raise DatasetError(
            f"{where}: data_source={source!r} is no text. Name the benchmark, such as 'nq': "
            "results are reported by it."
        )
    answers = _answers(row.get("golden_answers"))
    if answers is None:
        raise DatasetError(
            f"{where}: golden_answers={row.get('golden_answers')!r} is no list of texts."
        )
    if not answers:
        raise DatasetError(
            f"{where}: no golden answers, so no answer could be right. Drop the row."
        )
    return Question(text=text, golden_answers=tuple(answers), data_source=source)


def _answers(value: Any) -> list[str] | None:
    """Golden answers as texts, blank and missing ones left out; None for what is no such list."""
    values = value if isinstance(value, list) else [value]
    answers = []
    for answer in values:
        is_missing = answer is None or (isinstance(answer, float) and not math.isfinite(answer))
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
            return None
        if not is_missing and (text := answer if isinstance(answer, str) else identifier(answer)):
            answers.append(text)
    return [answer for answer in answers if answer.strip()]
