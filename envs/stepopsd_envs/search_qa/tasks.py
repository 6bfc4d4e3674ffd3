"""Where Search-QA gets its questions: generated worlds, or files of rows."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from stepopsd_envs.search_qa.bm25 import BM25Index
from stepopsd_envs.search_qa.dataset import SUFFIXES, read_questions
from stepopsd_envs.search_qa.questions import world_questions
from stepopsd_envs.search_qa.retriever import Retriever
from stepopsd_envs.search_qa.world import LEVELS, Question, World
from stepopsd_envs.text_env import SPLITS, nearest, require_choice

_FIRST_WORLD = {"train": 0, "valid_seen": 100_000, "valid_unseen": 200_000}
"""Numbers of the worlds of a split start here, so that no world is in two splits."""

_CACHED_WORLDS = 96
_TASK_ID = re.compile(r"(?P<level>\w+)-w(?P<world>\d{6})-q(?P<question>\d{4})")


class TaskIdError(ValueError):
    """A task id that names no task."""


class TaskSource(Protocol):
    """The tasks of all splits, and the question of each."""

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        ...

    def question(self, task_id: str) -> Question:
        """Returns the question of an id."""
        ...

    def retriever(self, task_id: str) -> Retriever | None:
        """Returns the retriever over the world of the question, or None if it has none."""
        ...


class GeneratedWorld(NamedTuple):
    """A world with what is asked of it and the index over its passages."""

    world: World
    questions: tuple[Question, ...]
    retriever: BM25Index


@functools.lru_cache(maxsize=_CACHED_WORLDS)
def generated_world(level: str, number: int) -> GeneratedWorld:
    """Generates a world; the worlds of a process are shared between environments."""
    seed = f"{level}/{number}"
    world = World(LEVELS[level], seed)
    return GeneratedWorld(world, world_questions(world, seed), BM25Index(world.passages))


class GeneratedTasks:
    """Questions about generated worlds; needs no file."""

    def __init__(self, level: str):
        """Picks the level, one of `world.LEVELS`."""
        require_choice("level", level, tuple(LEVELS))
        self._level = level
        self._ids = {
            split: tuple(
                f"{level}-w{_FIRST_WORLD[split] + world:06d}-q{question:04d}"
                for world in range(LEVELS[level].worlds[split])
                for question in range(LEVELS[level].questions)
            )
            for split in SPLITS
        }

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        require_choice("split", split, SPLITS)
        return self._ids[split]

    def question(self, task_id: str) -> Question:
        """Returns the question of an id."""
        world, question = self._parse(task_id)
        return generated_world(self._level, world).questions[question]

    def retriever(self, task_id: str) -> Retriever:
        """Returns the index over the passages of the question's world."""
        return generated_world(self._level, self._parse(task_id)[0]).retriever

    def _parse(self, task_id: str) -> tuple[int, int]:
        match = _TASK_ID.fullmatch(task_id)
        if match and match["level"] == self._level:
            world, question = int(match["world"]), int(match["question"])
            counts = LEVELS[self._level].worlds
            is_known = any(0 <= world - _FIRST_WORLD[split] < counts[split] for split in SPLITS)
            if is_known and question < LEVELS[self._level].questions:
                return world, question
        raise TaskIdError(
            f"task={task_id!r} is no task of the generated level {self._level!r}. "
            f"One is {self._ids['train'][0]!r}."
        )


class RowTasks:
    """Questions read from files; they bring no passages."""

    def __init__(self, data: str | Path | Mapping[str, str | Sequence[str]]):
        """Reads the questions.

        Args:
            data: A folder that holds `<split>.jsonl` (or .jsonl.gz, .parquet), or the file, or
                several files, of each split.
        """
        files = _files_of_folder(Path(data)) if isinstance(data, str | Path) else _files(data)
        self._questions: dict[str, Question] = {}
        self._ids: dict[str, tuple[str, ...]] = {}
        for split, paths in files.items():
            ids: list[str] = []
            for path in paths:
                questions = read_questions(path)
                for task_id in questions:
                    if task_id in self._questions:
                        raise TaskIdError(
                            f"{path}: the task {task_id!r} is also in another file. A question "
                            "may be in one split only."
                        )
                self._questions.update(questions)
                ids.extend(questions)
            self._ids[split] = tuple(sorted(ids))

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        require_choice("split", split, SPLITS)
        if split not in self._ids:
            raise TaskIdError(
                f"split={split!r}: the data have no such split, only {', '.join(self._ids)}. "
                f"Add the file under data[{split!r}]."
            )
        return self._ids[split]

    def question(self, task_id: str) -> Question:
        """Returns the question of an id."""
        if task_id not in self._questions:
            raise TaskIdError(
                f"task={task_id!r} is not in the data.{nearest(task_id, list(self._questions))}"
            )
        return self._questions[task_id]

    def retriever(self, task_id: str) -> None:
        """None: rows bring no passages."""
        del task_id


def task_source(data: str | Path | Mapping[str, str | Sequence[str]], level: str) -> TaskSource:
    """Returns the tasks that the environment's keys `data` and `level` name."""
    if data == "generated":
        return GeneratedTasks(level)
    return _row_tasks(json.dumps(data if isinstance(data, Mapping) else str(data), default=list))


@functools.lru_cache(maxsize=4)
def _row_tasks(data: str) -> RowTasks:
    """Reads files once a process; the key is JSON because mappings do not hash."""
    return RowTasks(json.loads(data))


def _files_of_folder(folder: Path) -> dict[str, list[Path]]:
    files = {
        split: [path]
        for split in SPLITS
        for suffix in SUFFIXES
        if (path := folder / f"{split}{suffix}").is_file()
    }
    if not files:
        raise TaskIdError(
            f"data={str(folder)!r} is neither 'generated' nor a folder that holds one of "
            f"{', '.join(f'{split}.jsonl' for split in SPLITS)} (or .jsonl.gz, .parquet)."
        )
    return files


def _files(data: Mapping[str, str | Sequence[str]]) -> dict[str, list[Path]]:
    for split in data:
        require_choice("data: split", split, SPLITS)
    return {
        split: [Path(path) for path in ([paths] if isinstance(paths, str) else paths)]
        for split, paths in data.items()
    }


def write_world(level: str, number: int, folder: str | Path) -> tuple[Path, Path]:
    """Writes a generated world as questions and corpus, to be served and read like real data.

    Args:
        level: One of `world.LEVELS`.
        number: Number of the world.
        folder: Made if it is not there.

    Returns:
        The files `questions.jsonl` and `corpus.jsonl`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = generated_world(level, number)
    rows = [
        {
            "id": f"{level}-w{number:06d}-q{index:04d}",
            "question": question.text,
            "golden_answers": list(question.golden_answers),
            "data_source": question.data_source,
        }
        for index, question in enumerate(made.questions)
    ]
    passages = [{"id": passage.id, "contents": passage.contents} for passage in made.world.passages]
    written = []
    for name, lines in (("questions.jsonl", rows), ("corpus.jsonl", passages)):
        path = folder / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        written.append(path)
    return written[0], written[1]
