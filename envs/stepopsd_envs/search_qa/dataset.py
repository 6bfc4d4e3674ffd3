"""Reads questions: rows of `question`, `golden_answers` and `data_source`, FlashRAG's form.

JSON lines, plain or .gz, or parquet (arXiv:2405.13576).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepopsd_envs.search_qa.corpus import read_lines
from stepopsd_envs.search_qa.world import Question

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
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
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}:{number}"
        question = _question({"data_source": source, **row}, where)
        task_id = f"{question.data_source}/{row.get('id') or f'{number:06d}'}"
        if task_id in questions:
            raise DatasetError(f"{where}: the id {task_id!r} was used before. Make ids unique.")
        questions[task_id] = question
    if not questions:
        raise DatasetError(f"{path}: no questions in it.")
    return questions


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise DatasetError(f"{path}: no parquet file ({error}).") from None
        for batch in file.iter_batches():
            yield from batch.to_pylist()
        return
    for number, line in enumerate(read_lines(path, DatasetError), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number}: the line is not a JSON object.")
        yield row


def _question(row: dict[str, Any], where: str) -> Question:
    text, source = row.get("question"), row.get("data_source")
    if not isinstance(text, str) or not text.strip():
        raise DatasetError(f"{where}: question={text!r} is no text. Every row needs a question.")
    if not isinstance(source, str) or not source.strip():
        raise DatasetError(
            f"{where}: data_source={source!r} is no text. Name the benchmark, such as 'nq': "
            "results are reported by it."
        )
    answers = row.get("golden_answers")
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DatasetError(f"{where}: golden_answers={answers!r} is no list of texts.")
    answers = [answer for answer in answers if answer.strip()]
    if not answers:
        raise DatasetError(
            f"{where}: no golden answers, so no answer could be right. Drop the row."
        )
    return Question(text=text, golden_answers=tuple(answers), data_source=source)
