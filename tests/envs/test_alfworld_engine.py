"""The fast ALFWorld engine on its own: what it plays, shares and refuses."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from stepopsd_envs.alfworld.engine import NOTHING_HAPPENS, EngineReply, FastEngine
from stepopsd_envs.alfworld.game import Game, GameError, load_game, parse_game
from stepopsd_envs.alfworld.generator import generate_game
from stepopsd_envs.alfworld.known_texts import TaskType

TASK = "generated-v1/small/train/pick_heat_then_place_in_recep/000003"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return generate_game(TASK).data


@pytest.fixture
def game(data) -> Game:
    return parse_game(data, "a game")


def with_problem(data: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    assert old in data["pddl_problem"]
    return data | {"pddl_problem": data["pddl_problem"].replace(old, new, 1)}


def play(engine: FastEngine, commands: tuple[str, ...]) -> list[EngineReply]:
    return [engine.reset(), *map(engine.step, commands)]


@pytest.mark.parametrize("task_type", TaskType.__args__)
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_the_walkthrough_of_a_generated_game_wins_with_its_last_command(size, task_type):
    generated = generate_game(f"generated-v1/{size}/valid_seen/{task_type}/000001")
    game = generated.game
    assert game.task_type == task_type
    assert game.intro.endswith(f"Your task is to: {game.goal_sentence}")
    assert game.walkthrough
    won = [reply.won for reply in play(FastEngine(game), game.walkthrough)]
    assert won == [False] * len(game.walkthrough) + [True]


def test_one_game_played_twice_gives_one_transcript(game):
    assert play(FastEngine(game), game.walkthrough) == play(FastEngine(game), game.walkthrough)


def test_reset_forgets_everything_that_was_done(game):
    engine = FastEngine(game)
    first = play(engine, game.walkthrough)
    assert play(engine, game.walkthrough) == first


def test_engines_that_share_a_game_do_not_disturb_one_another(game):
    alone = play(FastEngine(game), game.walkthrough)
    engine, other = FastEngine(game), FastEngine(game)
    together = [engine.reset()]
    for command in game.walkthrough:
        together.append(engine.step(command))
        for disturbance in other.step("inventory").admissible_commands[:3]:
            other.step(disturbance)
    assert together == alone


def test_a_game_cannot_be_changed(game):
    with pytest.raises(dataclasses.FrozenInstanceError):
        game.intro = "another"
    for field in dataclasses.fields(game):
        assert not isinstance(getattr(game, field.name), list | dict | set)
    hash(game)


def test_a_game_and_an_engine_in_the_middle_of_it_survive_pickling(game):
    assert pickle.loads(pickle.dumps(game)) == game
    engine = FastEngine(game)
    middle = len(game.walkthrough) // 2
    play(engine, game.walkthrough[:middle])
    copy = pickle.loads(pickle.dumps(engine))
    for command in game.walkthrough[middle:]:
        assert copy.step(command) == engine.step(command)
    assert copy.step("look").won


@pytest.mark.parametrize("change", [str.upper, lambda c: c[:-1], lambda c: c.replace(" ", "  ", 1)])
def test_only_an_admissible_command_does_something(game, change):
    engine = FastEngine(game)
    before = engine.reset()
    command = before.admissible_commands[0]
    reply = engine.step(change(command))
    assert reply == EngineReply(NOTHING_HAPPENS, before.admissible_commands, won=False)
    assert engine.step(f" {command}\n").text != NOTHING_HAPPENS


def test_admissible_commands_are_sorted_and_each_does_something(game):
    for command in FastEngine(game).reset().admissible_commands:
        engine = FastEngine(game)
        engine.reset()
        reply = engine.step(command)
        assert reply.text != NOTHING_HAPPENS
        assert list(reply.admissible_commands) == sorted(set(reply.admissible_commands))


def test_upper_case_and_comments_in_the_problem_do_not_matter(data, game):
    shouted = data | {"pddl_problem": "; a comment (\n" + data["pddl_problem"].upper()}
    assert parse_game(shouted, "a game") == game


def test_a_goal_sentence_may_be_any_plain_text(data, game):
    sentence = "Warm it, then (please) put it away: it's 50% yours!"
    grammar = data["grammar"].replace(game.goal_sentence, sentence)
    assert parse_game(data | {"grammar": grammar}, "a game").goal_sentence == sentence


REFUSALS = {
    "old grammar": (
        lambda d: d | {"grammar": d["grammar"].replace("move {o} to {r}", "put {o} in/on {r}")},
        'alfworld < 0.4 ("put X in/on R"',
    ),
    "unknown grammar": (
        lambda d: d | {"grammar": d["grammar"].replace("You arrive at", "You come to")},
        "does not know its texts",
    ),
    "no goal sentence": (
        lambda d: d | {"grammar": d["grammar"].replace(sentence_of(d), "UNKNOWN GOAL.")},
        "'UNKNOWN GOAL.', which is empty, a placeholder",
    ),
    "unknown domain": (
        lambda d: d | {"pddl_domain": d["pddl_domain"].replace("(isHot ?o)", "(isCool ?o)")},
        "does not know its rules",
    ),
    "unknown goal": (
        lambda d: with_problem(d, "(isHot ?o)", "(isSliced ?o)"),
        "belongs to none of ALFWorld's six task types",
    ),
    "goal for which something is missing": (
        lambda d: (
            d
            | {"pddl_problem": d["pddl_problem"].replace("(heatable ", "(coolable ")}
            | {"pddl_problem": without_facts(d["pddl_problem"], "heatable")}
        ),
        "can never be won",
    ),
    "unsolvable": (lambda d: d | {"solvable": False}, "solvable=false"),
    "cut off": (
        lambda d: d | {"pddl_problem": d["pddl_problem"][:-200]},
        "brackets are never closed",
    ),
    "a section missing": (
        lambda d: with_problem(d, "(:domain alfred)", ""),
        "section `:domain` is missing",
    ),
    "unknown fact": (
        lambda d: with_problem(d, "(:init", "(:init (holds agent1 agent1)"),
        "`holds`, with which no ALFWorld game starts",
    ),
    "undeclared id": (
        lambda d: with_problem(d, "(:init", "(:init (opened nowhere_bar_1)"),
        "(nowhere_bar_1: undeclared), which takes (receptacle)",
    ),
    "two starts": (
        lambda d: with_problem(d, "(:init", f"(:init (atLocation agent1 {some_location(d)})"),
        "2 facts `atlocation` of `agent1`",
    ),
    "no problem": (lambda d: d | {"pddl_problem": None}, "pddl_problem=None is no text"),
    "no walkthrough list": (lambda d: d | {"walkthrough": "look"}, "is no list of commands"),
    "no object": (lambda d: [d], "a list in place of a JSON object"),
}


def sentence_of(data: dict[str, Any]) -> str:
    return data["grammar"].split("Your task is to: ")[1].split('"')[0]


def without_facts(problem: str, predicate: str) -> str:
    head, goal = problem.split("(:goal")
    kept = [line for line in head.splitlines() if f"({predicate} " not in line]
    assert len(kept) < len(head.splitlines())
    return "\n".join(kept) + "(:goal" + goal


def some_location(data: dict[str, Any]) -> str:
    return data["pddl_problem"].split("(receptacleAtLocation ")[1].split(")")[0].split()[1]


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_engine_does_not_know_is_refused_in_one_line(data, name, tmp_path):
    change, message = REFUSALS[name]
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps(change(data)))
    with pytest.raises(GameError) as error:
        load_game(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text and text.endswith(".")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"pddl_domain": "(define'])
def test_a_file_that_is_not_json_is_refused(content, tmp_path):
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(GameError, match=r"game\.tw-pddl: (not JSON|is UTF-16)"):
        load_game(path)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(GameError, match=r"^nowhere/game.tw-pddl: cannot be read .No such file"):
        load_game(Path("nowhere") / "game.tw-pddl")
