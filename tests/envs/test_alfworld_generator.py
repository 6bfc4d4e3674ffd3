"""Generated games: the same everywhere, winnable, small where small is meant, rooms kept apart."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stepopsd_envs.alfworld.engine import FastEngine
from stepopsd_envs.alfworld.game import load_game
from stepopsd_envs.alfworld.generator import (
    TASK_TYPES,
    GeneratedGame,
    TaskIdError,
    generate_game,
    generated_tasks,
    write_games,
)
from stepopsd_envs.alfworld.household import APPLIANCES
from stepopsd_envs.alfworld.sizes import SIZES
from stepopsd_envs.text_env import SPLITS

from tests.helpers.textworld import needs_textworld

ROOT = Path(__file__).parents[2]
SAMPLE = [
    f"generated-v1/{size}/{split}/{task_type}/{index:06d}"
    for size in SIZES
    for split in SPLITS
    for task_type in TASK_TYPES
    for index in range(6)
]

DIGESTS = """
import hashlib, json, sys
from stepopsd_envs.alfworld.generator import generate_game
for task_id in sys.stdin.read().split():
    game = generate_game(task_id)
    text = json.dumps([game.data, game.trajectory, game.folder])
    print(hashlib.sha256(text.encode()).hexdigest())
"""

PLAY_WITH_ALFWORLD = """
import json, sys
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv
config = {
    "dataset": {"data_path": sys.argv[1], "num_train_games": -1},
    "env": {"task_types": [1, 2, 3, 4, 5, 6], "goal_desc_human_anns_prob": 0.0,
            "domain_randomization": False, "expert_type": "handcoded"},
    "general": {"training_method": "dqn"},
    "rl": {"training": {"max_nb_steps_per_episode": 50}},
}
collection = AlfredTWEnv(config, train_eval="train")
env = collection.init_env(batch_size=1)
results = {}
for _ in collection.game_files:
    _, infos = env.reset()
    file = infos["extra.gamefile"][0]
    verdicts = [infos["won"][0]]
    for command in json.load(open(file))["walkthrough"]:
        assert command in infos["admissible_commands"][0], command
        _, _, _, infos = env.step([command])
        verdicts.append(infos["won"][0])
    results[file] = verdicts
print("RESULTS " + json.dumps(results))
"""


def run_python(code: str, *arguments: str, text: str = "", **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def scene_of(generated: GeneratedGame) -> int:
    return generated.trajectory["scene"]["scene_num"]


@pytest.fixture(scope="module")
def sample() -> list[GeneratedGame]:
    return [generate_game(task_id) for task_id in SAMPLE]


def test_an_id_gives_the_same_game_in_every_process_and_for_every_hash_seed():
    task_ids = SAMPLE[::17]
    digests = {
        run_python(DIGESTS, text=" ".join(task_ids), PYTHONHASHSEED=seed) for seed in ("0", "1")
    }
    here = "\n".join(
        hashlib.sha256(json.dumps([game.data, game.trajectory, game.folder]).encode()).hexdigest()
        for game in map(generate_game, task_ids)
    )
    assert digests == {here + "\n"}
    assert len(set(here.split())) == len(task_ids)


def test_walkthroughs_are_admissible_and_win_only_at_their_end(sample):
    for generated in sample:
        engine = FastEngine(generated.game)
        reply = engine.reset()
        for command in generated.data["walkthrough"]:
            assert not reply.won, generated.task_id
            assert command in reply.admissible_commands, (generated.task_id, command)
            reply = engine.step(command)
        assert reply.won, generated.task_id
        assert generated.game.walkthrough == tuple(generated.data["walkthrough"])


def test_names_shown_agree_with_the_types_of_the_goal_in_the_room_with_a_mislabelled_bathtub():
    rooms = [
        generate_game(f"generated-v1/tiny/train/pick_clean_then_place_in_recep/{index:06d}")
        for index in range(300)
    ]
    games = [room.game for room in rooms if scene_of(room) == 420]
    assert games
    for game in games:
        assert "sinkbasin 1" in game.receptacle_names
        assert not any(name.startswith("bathtub") for name in game.receptacle_names)


def test_a_game_is_of_the_task_type_and_split_of_its_id(sample):
    for generated in sample:
        _, _, split, task_type, _ = generated.task_id.split("/")
        assert generated.game.task_type == task_type
        assert generated.trajectory["task_type"] == task_type
        assert generated.folder.startswith(f"json_2.1.1/{split}/{task_type}-")


def test_validation_rooms_are_seen_or_unseen_as_the_split_says(sample):
    scenes = {
        split: {scene_of(game) for game in sample if f"/{split}/" in game.task_id}
        for split in SPLITS
    }
    assert scenes["train"].isdisjoint(scenes["valid_unseen"])
    assert scenes["valid_seen"].isdisjoint(scenes["valid_unseen"])
    assert scenes["valid_unseen"] <= {9, 10, 29, 215, 219, 226, 308, 315, 325, 404, 424, 425}
    assert len(scenes["valid_unseen"]) >= 8


def test_games_of_every_size_and_split_can_be_written_into_one_folder(sample):
    trials = {game.folder.rpartition("/")[2] for game in sample}
    assert len(trials) == len(sample) / len(TASK_TYPES)
    assert len({game.folder for game in sample}) == len(sample)


def test_no_validation_game_is_a_training_game():
    def contents(split: str) -> set[str]:
        problems = (
            generate_game(f"generated-v1/tiny/{split}/{task_type}/{index:06d}").data["pddl_problem"]
            for task_type in TASK_TYPES
            for index in range(24)
        )
        return {problem.partition(":objects")[2] for problem in problems}

    games = [contents(split) for split in SPLITS]
    assert [len(contents) for contents in games] == [144, 144, 144]
    assert len(set.union(*games)) == 3 * 144


def test_tiny_games_are_tiny_and_full_games_are_as_large_as_the_room(sample):
    number = {
        size: [len(game.game.receptacle_names) for game in sample if f"/{size}/" in game.task_id]
        for size in SIZES
    }
    assert max(number["tiny"]) <= 8 and sum(number["tiny"]) / len(number["tiny"]) >= 6
    assert max(number["small"]) <= 13
    assert max(number["full"]) >= 30
    for generated in sample:
        if "/tiny/" in generated.task_id:
            assert len(generated.game.object_names) <= 8
            assert len(generated.game.intro.split()) <= 60
            assert len(generated.data["walkthrough"]) <= 11


def test_some_goals_of_every_size_hide_in_closed_receptacles(sample):
    for size in SIZES:
        hidden = [
            any(command.startswith("open") for command in game.data["walkthrough"])
            for game in sample
            if f"/{size}/" in game.task_id
        ]
        assert 0.15 < sum(hidden) / len(hidden) < 0.75, size


def test_what_is_to_be_placed_never_starts_where_it_belongs(sample):
    for generated in sample:
        parameters = generated.trajectory["pddl_params"]
        inside = [
            line.split()[1:]
            for line in generated.data["pddl_problem"].splitlines()
            if "(inReceptacle" in line and "exists" not in line and "?" not in line
        ]
        assert inside
        for thing, place in inside:
            starts_at_goal = thing.startswith(parameters["object_target"] + "_") and (
                place.startswith(parameters["parent_target"] + "_")
            )
            assert not (parameters["parent_target"] and starts_at_goal), generated.task_id


def test_appliances_of_a_task_are_in_the_room(sample):
    for generated in sample:
        if generated.game.task_type in APPLIANCES:
            appliance = APPLIANCES[generated.game.task_type][1].lower()
            assert f"{appliance} 1" in generated.game.receptacle_names


def test_task_ids_are_sorted_and_each_stands_in_one_split():
    ids = {split: generated_tasks("tiny", split) for split in SPLITS}
    for split, tasks in ids.items():
        assert list(tasks) == sorted(set(tasks))
        assert {task.split("/")[3] for task in tasks} == set(TASK_TYPES)
        assert all(f"/tiny/{split}/" in task for task in tasks)
    assert len(ids["train"]) == 6000 and len(ids["valid_unseen"]) == 144


@pytest.mark.parametrize(
    ("task_id", "complaint"),
    [
        ("", "is no generated task. One reads 'generated-v1/tiny/train/"),
        ("generated-v0/tiny/train/look_at_obj_in_light/000000", "is no generated task"),
        ("generated-v1/tiney/train/look_at_obj_in_light/000000", "Did you mean 'tiny'?"),
        ("generated-v1/tiny/valid/look_at_obj_in_light/000000", "split='valid' is none of"),
        ("generated-v1/tiny/train/look_at_obj/000000", "Did you mean 'look_at_obj_in_light'?"),
        ("generated-v1/tiny/train/look_at_obj_in_light/1", "index '1' must be six digits"),
        ("generated-v1/tiny/train/look_at_obj_in_light/-00001", "must be six digits"),
    ],
)
def test_a_wrong_id_is_refused_with_the_part_that_is_wrong(task_id, complaint):
    with pytest.raises(TaskIdError, match=complaint.replace("?", r"\?")):
        generate_game(task_id)


def test_generating_imports_no_alfworld_and_makes_no_folder(tmp_path):
    code = (
        "import sys, os, stepopsd_envs.alfworld.generator as g\n"
        "g.generate_game('generated-v1/tiny/train/look_at_obj_in_light/000000')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('alfworld', 'textworld')],\n"
        "      'ALFWORLD_DATA' in os.environ)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ALFWORLD_DATA"}
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=True,
    ).stdout
    assert output.strip() == "[] False"
    assert list(tmp_path.iterdir()) == []


def test_written_games_are_read_back_as_generated(tmp_path):
    task_ids = SAMPLE[::40]
    paths = write_games(tmp_path, task_ids)
    assert len(set(paths)) == len(task_ids)
    for task_id, path in zip(task_ids, paths, strict=True):
        generated, loaded = generate_game(task_id).game, load_game(path)
        assert (loaded.intro, loaded.walkthrough) == (generated.intro, generated.walkthrough)
        assert {file.name for file in path.parent.iterdir()} == {
            "game.tw-pddl",
            "initial_state.pddl",
            "traj_data.json",
        }
    assert {file.name for file in (tmp_path / "logic").iterdir()} == {"alfred.pddl", "alfred.twl2"}


@needs_textworld
def test_unmodified_alfworld_loads_and_wins_generated_games(tmp_path):
    task_ids = [f"generated-v1/tiny/train/{task_type}/000003" for task_type in TASK_TYPES]
    task_ids.append("generated-v1/small/train/pick_two_obj_and_place/000004")
    paths = write_games(tmp_path, task_ids)
    output = run_python(PLAY_WITH_ALFWORLD, str(tmp_path), ALFWORLD_DATA=str(tmp_path))
    results = json.loads(output.partition("RESULTS ")[2])
    assert set(results) == set(map(str, paths))
    for file, verdicts in results.items():
        assert verdicts[-1] and not any(verdicts[:-1]), file
