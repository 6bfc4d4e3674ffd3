"""The fast ALFWorld engine against the real one, and on published games."""

import os
import sys
from pathlib import Path

import pytest
from stepopsd_envs.alfworld import textworld_engine
from stepopsd_envs.alfworld.comparison import compare_engines
from stepopsd_envs.alfworld.engine import Engine, EngineReply, FastEngine
from stepopsd_envs.alfworld.game import load_game
from stepopsd_envs.alfworld.generator import write_games
from stepopsd_envs.alfworld.textworld_engine import TextWorldEngine

from tests.helpers.textworld import needs_textworld

OFFICIAL = Path(
    os.environ.get(
        "STEPOPSD_ALFWORLD_OFFICIAL",
        Path(__file__).resolve().parents[3] / "shared" / "data" / "alfworld_real",
    )
)
PUBLISHED_GAMES = sorted(OFFICIAL.glob("json_2.1.1/**/game.tw-pddl"))

needs_published_games = pytest.mark.skipif(
    not PUBLISHED_GAMES,
    reason=f"no published games in {OFFICIAL} (set STEPOPSD_ALFWORLD_OFFICIAL)",
)


@needs_published_games
def test_every_published_walkthrough_wins():
    for path in PUBLISHED_GAMES:
        game = load_game(path)
        engine = FastEngine(game)
        assert path.parts[-3].startswith(game.task_type)
        assert [engine.step(command).won for command in game.walkthrough or ()][-1], path


@needs_textworld
@needs_published_games
@pytest.mark.parametrize("index", [4])
def test_a_published_game_reads_the_same_on_the_real_engine(index):
    path = PUBLISHED_GAMES[index % len(PUBLISHED_GAMES)]
    check_same(path, TextWorldEngine(path), steps=60, seed=index)


@needs_textworld
@pytest.mark.parametrize("task", ["tiny/train/look_at_obj_in_light/000000"])
def test_a_generated_game_reads_the_same_on_the_real_engine(tmp_path, task):
    (path,) = write_games(tmp_path, [f"generated-v1/{task}"])
    check_same(path, TextWorldEngine(path), steps=80, seed=0)


def check_same(path: Path, real: Engine, *, steps: int, seed: int) -> None:
    game = load_game(path)
    result = compare_engines(game, FastEngine(game), real, steps=steps, seed=seed)
    assert result.difference is None
    assert result.steps == steps
    assert result.verbs["take"] and result.verbs["go"] and result.verbs[""]


def test_the_comparison_notices_a_difference(tmp_path):
    (path,) = write_games(tmp_path, ["generated-v1/tiny/train/pick_and_place_simple/000000"])
    game = load_game(path)

    class Liar(FastEngine):
        def step(self, command: str) -> EngineReply:
            reply = super().step(command)
            return reply._replace(text=reply.text.replace("You pick up", "You grab"))

    result = compare_engines(game, FastEngine(game), Liar(game), steps=500, seed=0)
    assert result.difference is not None
    assert result.difference.startswith(f"{path}: text after (reset), ")
    assert "You grab" in result.difference


@needs_textworld
def test_the_real_engine_leaves_its_process_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    arguments = ["program", "--flag"]
    monkeypatch.setattr(sys, "argv", arguments)
    paths = write_games(
        tmp_path,
        [f"generated-v1/tiny/train/pick_and_place_simple/{index:06d}" for index in (0, 1)],
    )
    for path in paths:
        engine = TextWorldEngine(path)
        assert engine.reset().text == load_game(path).intro
        engine.close()
    assert sys.argv is arguments
    assert "ALFWORLD_DATA" not in os.environ


def test_without_textworld_the_error_names_the_extra(monkeypatch, tmp_path):
    (path,) = write_games(tmp_path, ["generated-v1/tiny/train/pick_and_place_simple/000000"])
    monkeypatch.setattr(textworld_engine, "FIRST_BROKEN_PYTHON", (9,))
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(ImportError, match=r"stepopsd-rllib\[textworld\]"):
        TextWorldEngine(path)


def test_a_python_that_textworld_does_not_run_on_is_named(monkeypatch, tmp_path):
    (path,) = write_games(tmp_path, ["generated-v1/tiny/train/pick_and_place_simple/000000"])
    monkeypatch.setattr(textworld_engine, "FIRST_BROKEN_PYTHON", (3, 11))
    with pytest.raises(ImportError, match=r"Use Python 3\.12 or 3\.11, or engine=\"fast\""):
        TextWorldEngine(path)
