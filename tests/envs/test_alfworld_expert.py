"""The experts: one follows the walkthrough, one searches, and both win."""

import statistics
from typing import NamedTuple

import pytest
from stepopsd_envs.alfworld.engine import FastEngine
from stepopsd_envs.alfworld.expert import (
    ExploringExpert,
    Goal,
    ScriptedExpert,
    read_goal,
    response_text,
)
from stepopsd_envs.alfworld.game import Game
from stepopsd_envs.alfworld.generator import TASK_TYPES, generate_game
from stepopsd_envs.alfworld.protocol import project_action
from stepopsd_envs.alfworld.sizes import SIZES

MAX_TURNS = 50

ROOM = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. "
    "Looking quickly around you, you see a cabinet 1, a desk 1, a drawer 1, and a shelf 1.\n\n"
    "Your task is to: "
)
WALKS = tuple(f"go to {name} 1" for name in ("cabinet", "desk", "drawer", "shelf"))


class Episode(NamedTuple):
    won: bool
    commands: list[str]
    texts: list[str]

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in (*self.commands, *self.texts))


def play(game: Game, expert: ScriptedExpert | ExploringExpert, turns: int = MAX_TURNS) -> Episode:
    engine = FastEngine(game)
    reply = engine.reset()
    episode = Episode(False, [], [reply.text])
    for _ in range(turns):
        command = expert.act(reply.text, reply.admissible_commands)
        assert command in reply.admissible_commands
        reply = engine.step(command)
        episode.commands.append(command)
        episode.texts.append(reply.text)
        if reply.won:
            return episode._replace(won=True)
    return episode


def games(size: str, split: str = "train", number: int = 8) -> list[Game]:
    return [
        generate_game(f"generated-v1/{size}/{split}/{task_type}/{index:06d}").game
        for task_type in TASK_TYPES
        for index in range(number)
    ]


@pytest.mark.parametrize(
    ("sentence", "goal"),
    [
        ("put a mug in desk.", Goal(object="mug", receptacle="desk")),
        ("put some mug on desk.", Goal(object="mug", receptacle="desk")),
        ("look at cd under the desklamp.", Goal(object="cd", lamp="desklamp")),
        ("examine the cd with the desklamp.", Goal(object="cd", lamp="desklamp")),
        ("put a hot egg in fridge.", Goal(object="egg", receptacle="fridge", treatment="heat")),
        (
            "cool some pan and put it in cabinet.",
            Goal(object="pan", receptacle="cabinet", treatment="cool"),
        ),
        (
            "clean some pan and put it in cabinet.",
            Goal(object="pan", receptacle="cabinet", treatment="clean"),
        ),
        ("find two pen and put them in drawer.", Goal(object="pen", receptacle="drawer", count=2)),
    ],
)
def test_a_task_sentence_is_understood(sentence, goal):
    assert read_goal(sentence) == goal


@pytest.mark.parametrize("sentence", ["", "put a hot slice of apple in fridge.", "Wash the mug."])
def test_a_sentence_of_another_form_is_refused(sentence):
    with pytest.raises(ValueError, match="in none of the forms that alfworld writes"):
        read_goal(sentence)


@pytest.mark.parametrize("size", SIZES)
def test_the_scripted_expert_wins_every_game(size):
    for game in games(size):
        assert game.walkthrough is not None
        episode = play(game, ScriptedExpert(game.walkthrough))
        assert episode.won and tuple(episode.commands) == game.walkthrough


@pytest.mark.parametrize(("size", "least_success"), [("tiny", 1.0), ("small", 1.0), ("full", 0.9)])
@pytest.mark.parametrize("split", ["train", "valid_unseen"])
def test_the_exploring_expert_wins_almost_every_game(size, split, least_success):
    episodes = [
        play(game, ExploringExpert(seed=seed)) for seed, game in enumerate(games(size, split))
    ]
    assert sum(episode.won for episode in episodes) >= least_success * len(episodes)


def test_tiny_episodes_are_short_enough_for_a_tiny_model():
    episodes = [
        play(game, ExploringExpert(seed=seed)) for seed, game in enumerate(games("tiny", number=20))
    ]
    lengths = sorted(len(episode.commands) for episode in episodes)
    assert 5 <= statistics.median(lengths) <= 14 and lengths[-1] <= 20
    assert statistics.mean(episode.words for episode in episodes) <= 250
    assert max(episode.words for episode in episodes) <= 450


def test_it_searches_where_it_cannot_know_better():
    """With full knowledge the same games take fewer commands: the expert does not peek."""
    tiny = games("tiny", number=20)
    explored = [len(play(game, ExploringExpert(seed=0)).commands) for game in tiny]
    scripted = [len(game.walkthrough or ()) for game in tiny]
    assert all(long >= short for long, short in zip(explored, scripted, strict=True))
    assert statistics.mean(explored) > 1.25 * statistics.mean(scripted)


def test_it_looks_at_surfaces_first_and_last_where_the_object_belongs():
    for seed in range(10):
        expert = ExploringExpert(seed=seed)
        first = expert.act(ROOM + "put a mug in desk.", WALKS)
        assert first == "go to shelf 1"
        after_shelf = "You arrive at shelf 1. On the shelf 1, you see nothing."
        second = expert.act(after_shelf, WALKS[:3])
        assert second in ("go to cabinet 1", "go to drawer 1")


def test_the_order_among_types_differs_with_the_seed_and_only_with_it():
    def order(seed: int) -> list[str]:
        return [ExploringExpert(seed=seed).act(ROOM + "put a mug in shelf.", WALKS)]

    def first_closed(seed: int) -> str:
        expert = ExploringExpert(seed=seed)
        expert.act(ROOM + "put a mug in shelf.", WALKS)
        return expert.act("You arrive at desk 1. On the desk 1, you see nothing.", WALKS)

    assert order(1) == order(1) == ["go to desk 1"]
    assert {first_closed(seed) for seed in range(20)} == {"go to cabinet 1", "go to drawer 1"}
    assert [first_closed(seed) for seed in range(9)] == [first_closed(seed) for seed in range(9)]


def test_it_takes_what_it_saw_before_without_searching_again():
    expert = ExploringExpert(seed=0)
    expert.act(ROOM + "look at pen under the desklamp.", WALKS)
    seen = "You arrive at shelf 1. On the shelf 1, you see a desklamp 1, and a pen 1."
    admissible = (*WALKS[:3], "take pen 1 from shelf 1", "use desklamp 1")
    assert expert.act(seen, admissible) == "take pen 1 from shelf 1"
    taken = "You pick up the pen 1 from the shelf 1."
    assert expert.act(taken, (*WALKS[:3], "use desklamp 1")) == "use desklamp 1"


def test_it_takes_what_lies_before_it_rather_than_the_same_thing_elsewhere():
    expert = ExploringExpert(seed=0)
    expert.act(ROOM + "put a pen in drawer.", WALKS)
    expert.act("You arrive at desk 1. On the desk 1, you see a pen 1.", WALKS)
    here = "You arrive at shelf 1. On the shelf 1, you see a pen 2."
    assert expert.act(here, (*WALKS[:3], "take pen 2 from shelf 1")) == "take pen 2 from shelf 1"


def test_it_heats_again_what_was_cooled_after_heating():
    expert = ExploringExpert(seed=0)
    room = ROOM.replace("a desk 1", "a fridge 1, a microwave 1")
    heat = "heat egg 1 with microwave 1"
    expert.act(room + "put a hot egg in drawer.", WALKS)
    expert.act("You arrive at shelf 1. On the shelf 1, you see a egg 1.", WALKS)
    expert.act("You pick up the egg 1 from the shelf 1.", (*WALKS, heat))
    heated = expert.act("You heat the egg 1 using the microwave 1.", (*WALKS, heat))
    assert heated == "go to drawer 1"
    assert expert.act("You cool the egg 1 using the fridge 1.", (*WALKS, heat)) == heat


@pytest.mark.parametrize("size", SIZES)
def test_it_finds_back_from_random_commands(size):
    for seed, game in enumerate(games(size)):
        noisy = play(game, ExploringExpert(seed=seed, noise=0.3), turns=250)
        assert noisy.won, (game.source, noisy.commands)


def test_noise_makes_the_commands_differ():
    game = games("tiny", number=1)[0]
    plain, noisy = (
        play(game, ExploringExpert(seed=1, noise=noise), turns=200).commands for noise in (0, 0.6)
    )
    assert plain != noisy


@pytest.mark.parametrize("noise", [-0.1, 1.5])
def test_noise_must_be_a_probability(noise):
    with pytest.raises(ValueError, match="is no probability"):
        ExploringExpert(seed=0, noise=noise)


def test_a_response_carries_the_command_in_the_format():
    assert project_action(response_text("look", thought="I look.")) == ("look", True)
    assert project_action(response_text("look"), think="off") == ("look", True)
    assert not project_action(response_text("look")).is_valid
