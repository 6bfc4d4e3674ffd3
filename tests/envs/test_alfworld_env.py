"""ALFWorld as an environment: contract, rewards, ends, task lists, and every refusal."""

import json
import os
import shutil
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
import stepopsd_envs
from gymnasium.utils.env_checker import check_env
from stepopsd_envs.alfworld import tasks as task_lists
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.alfworld.expert import ExploringExpert, response_text
from stepopsd_envs.alfworld.generator import TASK_TYPES, TaskIdError, write_games
from stepopsd_envs.checks import check_text_env
from stepopsd_envs.text_env import HistoryTurn

from tests.helpers.textworld import needs_textworld

OFFICIAL = Path(
    os.environ.get("STEPOPSD_ALFWORLD_GAMES")
    or Path(__file__).parents[3] / "shared" / "data" / "alfworld_real"
)
needs_official_games = pytest.mark.skipif(
    not OFFICIAL.is_dir(),
    reason=f"no official games in {OFFICIAL}; name a folder in STEPOPSD_ALFWORLD_GAMES",
)
TASK = "generated-v1/tiny/train/pick_heat_then_place_in_recep/000007"
RESPONSES = tuple(
    response_text(command, thought="?")
    for command in ("look", "go to microwave 1", "open microwave 1")
)


def env_of(**config) -> ALFWorldEnv:
    env = gym.make("stepopsd/ALFWorld-v0", **config)
    assert isinstance(env, ALFWorldEnv)
    return env


def play_expert(env: ALFWorldEnv, seed: int, task: str | None = None) -> list:
    options = None if task is None else {"task": task}
    observation, info = env.reset(seed=seed, options=options)
    transcript: list = [(observation, info)]
    expert = ExploringExpert(seed=seed)
    ended = False
    while not ended:
        command = expert.act(observation, info["admissible_commands"])
        observation, reward, terminated, truncated, info = env.step(
            response_text(command, thought="Next.")
        )
        transcript.append((observation, reward, terminated, truncated, info))
        ended = terminated or truncated
    return transcript


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with two games a split; the task types of a split differ."""
    for split in ("train", "valid_seen", "valid_unseen"):
        for task_type in ("pick_and_place_simple", "look_at_obj_in_light"):
            write_games(tmp_path, [f"generated-v1/tiny/{split}/{task_type}/000001"])
    return tmp_path


def game_folders(root: Path, split: str) -> list[Path]:
    return sorted(file.parent for file in (root / "json_2.1.1" / split).rglob("game.tw-pddl"))


@pytest.mark.parametrize("config", [{}, {"size": "full", "instructions": False, "think": "off"}])
def test_gymnasium_and_our_own_checker_find_nothing(config):
    env = env_of(max_turns=6, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    check_text_env(env)
    check_text_env(env, RESPONSES)


@needs_official_games
def test_official_games_pass_both_checkers():
    env = env_of(data=OFFICIAL, max_turns=6)
    check_env(env)
    check_text_env(env, RESPONSES)
    for split, number in (("train", 18), ("valid_seen", 6), ("valid_unseen", 6)):
        tasks = env.tasks(split)
        assert len(tasks) == number
        assert {env.reset(options={"task": task})[1]["task_type"] for task in tasks} == set(
            TASK_TYPES
        )


def test_one_seed_gives_one_transcript_and_another_seed_another():
    transcripts = [play_expert(env_of(), seed) for seed in (4, 4, 5)]
    assert transcripts[0] == transcripts[1] != transcripts[2]
    env = env_of()
    play_expert(env, 9)
    assert play_expert(env, 4) == transcripts[0]


def test_a_win_terminates_with_the_scaled_reward_and_nothing_before_is_rewarded():
    transcript = play_expert(env_of(reward_scale=10), 0, TASK)
    _, reward, terminated, truncated, info = transcript[-1]
    assert (reward, terminated, truncated, info["won"]) == (10.0, True, False, True)
    assert all(step[1] == 0.0 and not step[4]["won"] for step in transcript[1:-1])
    assert info["task_id"] == TASK and info["task_type"] == "pick_heat_then_place_in_recep"


def test_the_turn_limit_truncates_unless_the_last_turn_wins():
    turns = len(play_expert(env_of(), 0, TASK)) - 1
    won_at_limit = play_expert(env_of(max_turns=turns), 0, TASK)
    assert won_at_limit[-1][2:4] == (True, False)
    cut = play_expert(env_of(max_turns=turns - 1), 0, TASK)
    assert len(cut) == turns and cut[-1][1:4] == (0.0, False, True)


def test_info_says_what_was_executed_and_what_is_possible():
    env = env_of()
    observation, info = env.reset(options={"task": TASK})
    assert info["action"] == "" and info["turn"] == 0 and info["anchor"] == observation
    assert observation.endswith(f"Your task is to: {info['task']}")
    observation, _, _, _, info = env.step("<think>x</think><action> Go To Microwave 1 </action>")
    assert info["action"] == "go to microwave 1" and info["is_action_valid"]
    assert observation.startswith("You arrive at microwave 1.") and info["anchor"] == observation
    assert info["turn"] == 1 and "open microwave 1" in info["admissible_commands"]


def test_a_badly_formed_response_is_still_executed_and_an_inadmissible_one_is_valid():
    env = env_of()
    env.reset(options={"task": TASK})
    observation, _, _, _, info = env.step("<action>go to microwave 1</action>")
    assert observation.startswith("You arrive at microwave 1.") and not info["is_action_valid"]
    observation, _, _, _, info = env.step("<think>x</think><action>fly</action>")
    assert observation == "Nothing happens." and info["is_action_valid"]


@pytest.mark.parametrize(("think", "is_valid"), [("required", 0), ("optional", 1), ("off", 1)])
def test_the_think_mode_decides_whether_a_bare_action_is_valid(think, is_valid):
    env = env_of(think=think)
    env.reset(options={"task": TASK})
    assert env.step("<action>look</action>")[4]["is_action_valid"] == bool(is_valid)


def test_messages_with_instructions_and_without():
    history = [HistoryTurn(index=0, observation="before", action="look")]
    env = env_of()
    observation, info = env.reset(options={"task": TASK})
    first = env.first_message(observation, info)
    assert observation in first and "<think>" in first and "\n 'go to microwave 1'\n" in first
    later, _, _, _, info = env.step(RESPONSES[0])
    assert env.append_message(later, info).startswith(later)
    assert "'go to microwave 1'" in env.append_message(later, info)
    window = env.window_message(history, later, info)
    assert info["task"] in window and "[Observation 1: 'before', Action 1: 'look']" in window
    assert "step 2" in window and "<action>" in window

    bare = env_of(instructions=False)
    observation, info = bare.reset(options={"task": TASK})
    assert bare.first_message(observation, info) == observation
    assert bare.append_message(observation, info) == observation
    assert "<action>" not in bare.window_message(history, observation, info)
    listed = env_of(instructions=False, show_admissible_commands=True)
    assert "'look'" in listed.first_message(observation, info)
    hidden = env_of(show_admissible_commands=False)
    assert "'look'" not in hidden.first_message(observation, info)


def test_a_step_outside_an_episode_is_refused():
    env = env_of(max_turns=1)
    with pytest.raises(RuntimeError, match="Call reset first"):
        env.step("look")
    env.reset(seed=0)
    env.step("look")
    with pytest.raises(RuntimeError, match="Call reset first"):
        env.step("look")


def test_games_are_parsed_once_and_the_cache_is_bounded():
    first, second = env_of(), env_of()
    for env in (first, second):
        env.reset(options={"task": TASK})
    assert first.game is second.game
    bound = task_lists._generated_game.cache_info().maxsize
    assert bound is not None and bound <= 1000
    for task in first.tasks("train")[: bound + 10]:
        first.reset(options={"task": task})
    assert task_lists._generated_game.cache_info().currsize == bound


def test_task_types_restrict_every_split_of_either_source(data_root):
    wanted = ["look_at_obj_in_light", "pick_two_obj_and_place"]
    env = env_of(task_type=wanted)
    assert {task.split("/")[3] for task in env.tasks("valid_seen")} == set(wanted)
    assert len(env.tasks("train")) == 2000
    official = env_of(data=data_root, task_type="look_at_obj_in_light")
    assert ["look_at_obj_in_light" in task for task in official.tasks("train")] == [True]


def test_official_tasks_are_paths_below_the_data_root(data_root, monkeypatch):
    by_path = env_of(data=str(data_root))
    monkeypatch.setenv("ALFWORLD_DATA", str(data_root))
    by_name = env_of(data="official")
    for split in ("train", "valid_seen", "valid_unseen"):
        tasks = by_path.tasks(split)
        assert tasks == by_name.tasks(split)
        assert [data_root / task for task in tasks] == [
            folder / "game.tw-pddl" for folder in game_folders(data_root, split)
        ]
    assert play_expert(by_path, 1, by_path.tasks("train")[0])[-1][4]["won"]


def test_unsolvable_movable_and_sliced_games_are_left_out(data_root):
    good = game_folders(data_root, "train")
    for name, change in (
        ("pick_and_place_simple-A-None-B-1", {"solvable": False}),
        ("pick_and_place_simple-A-None-B-2", {"solvable": None}),
        ("pick_and_place_simple-AppleSliced-None-B-3", {}),
        ("pick_and_place_with_movable_recep-A-Cup-B-4", {}),
    ):
        copy = data_root / "json_2.1.1" / "train" / name / "trial_1"
        shutil.copytree(good[1], copy)
        data = json.loads((copy / "game.tw-pddl").read_text()) | change
        data["note"] = 'text with "solvable": true inside ' + "x" * 9000
        data = {key: value for key, value in data.items() if value is not None}
        (copy / "game.tw-pddl").write_text(json.dumps(data))
    tasks = env_of(data=data_root).tasks("train")
    assert [data_root / task for task in tasks] == [folder / "game.tw-pddl" for folder in good]


def test_games_that_cannot_be_read_are_counted_by_reason_before_anything_is_played(
    data_root, caplog
):
    good = game_folders(data_root, "train")
    whole = (good[1] / "game.tw-pddl").read_bytes()
    unmarked = {key: value for key, value in json.loads(whole).items() if key != "solvable"}
    for number, content in enumerate(
        [
            whole[: len(whole) // 2],
            whole[:-2],
            b"",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            json.dumps(unmarked).encode(),
            json.dumps(unmarked | {"solvable": False}).encode(),
        ]
    ):
        folder = data_root / "json_2.1.1" / "train" / f"pick_and_place_simple-A-None-B-{number}/t"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_bytes(content)
    for _ in range(2):
        assert len(env_of(data=data_root).tasks("train")) == len(good)
    [said] = caplog.messages
    assert f"{len(good)} games, 6 left out" in said and "pick_and_place_simple-A-None-B-0" in said
    for reason in (
        "3 cut off or damaged",
        "1 that are Git-LFS pointers",
        "1 without the key 'solvable'",
        "1 not marked solvable",
    ):
        assert reason in said


def test_what_alfworld_itself_leaves_out_is_no_damage(data_root, caplog):
    env_of(data=data_root, task_type="look_at_obj_in_light").tasks("train")
    assert not caplog.messages


def test_think_off_is_understood_as_yaml_reads_it():
    assert "think" not in env_of(think=False, instructions=True).reset(seed=1)[0]
    env = env_of(think=False)
    env.reset(seed=1)
    assert env.step("<action>look</action>")[4]["is_action_valid"]
    with pytest.raises(ValueError, match=r"think=True is none of .* write the word in quotes"):
        env_of(think=True)


def test_a_split_without_playable_games_says_what_is_wrong(data_root):
    for folder in game_folders(data_root, "valid_seen"):
        data = json.loads((folder / "game.tw-pddl").read_text())
        (folder / "game.tw-pddl").write_text(json.dumps(data | {"solvable": False}))
    shutil.rmtree(data_root / "json_2.1.1" / "valid_unseen")
    env = env_of(data=data_root)
    with pytest.raises(ValueError, match=r"valid_seen has no playable game \(2 not marked solvabl"):
        env.tasks("valid_seen")
    with pytest.raises(FileNotFoundError, match=r"valid_unseen does not exist"):
        env.tasks("valid_unseen")
    two = env_of(data=data_root, task_type="pick_two_obj_and_place")
    with pytest.raises(ValueError, match=r"2 of other task types"):
        two.tasks("train")


@pytest.mark.parametrize(
    ("config", "error", "complaint"),
    [
        ({"size": "tinny"}, ValueError, "size='tinny' is none of .* Did you mean 'tiny'"),
        ({"engine": "textwrld"}, ValueError, "engine='textwrld'.* Did you mean 'textworld'"),
        ({"think": "maybe"}, ValueError, "think='maybe' is none of 'required', 'optional', 'off'"),
        ({"task_type": "pick_heat"}, ValueError, "task_type='pick_heat' is none of"),
        ({"task_type": []}, ValueError, "leaves no task"),
        ({"siez": "tiny"}, ValueError, "siez='tiny': ALFWorldEnv has no such key. .* 'size'"),
        ({"instructions": "false"}, ValueError, "instructions='false' must be true or false"),
        ({"show_admissible_commands": 1}, ValueError, "show_admissible_commands=1 must be true"),
        ({"max_turns": 0}, ValueError, "max_turns=0 must be a whole number above 0"),
        ({"max_turns": "50"}, ValueError, "max_turns='50' must be a whole number"),
        ({"reward_scale": "1e1"}, ValueError, "reward_scale='1e1' must be a number above 0"),
        ({"data": "oficial"}, FileNotFoundError, "data='oficial'.* Did you mean 'official'"),
        ({"data": "/no/such/folder"}, FileNotFoundError, "nor a folder that exists"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_key_and_value(config, error, complaint):
    with pytest.raises(error, match=complaint):
        env_of(**config)


def test_a_data_root_that_is_missing_or_empty_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"gone.*does not exist"):
        env_of(data="official")
    with pytest.raises(FileNotFoundError, match="holds no ALFWorld games"):
        env_of(data=tmp_path)


def test_wrong_tasks_and_splits_are_refused(data_root):
    env = env_of(data=data_root)
    task = env.tasks("train")[0]
    for wrong in ("", f"/{task}", f"x/../{task}", "json_2.1.1/train", task.replace("trial", "t")):
        with pytest.raises(TaskIdError, match="task="):
            env.reset(options={"task": wrong})
    with pytest.raises(ValueError, match=r"split='valid_sen' .* Did you mean 'valid_seen'"):
        env.tasks("valid_sen")


def test_a_damaged_game_is_refused_by_name(data_root):
    env = env_of(data=data_root)
    task = env.tasks("train")[0]
    (data_root / task).write_text('{"pddl_domain": "x", "solvable": true')
    with pytest.raises(ValueError, match=task):
        env.reset(options={"task": task})


@needs_textworld
def test_the_original_engine_gives_the_same_transcript():
    fast, original = (
        play_expert(env_of(engine=engine), 2, TASK) for engine in ("fast", "textworld")
    )
    assert fast == original and fast[-1][4]["won"]


def test_a_group_of_environments_shares_one_game_but_not_its_state():
    first, second = env_of(), env_of()
    for env in (first, second):
        env.reset(options={"task": TASK})
    first.step(RESPONSES[1])
    before = second.step(RESPONSES[0])[0]
    assert before.startswith("You are in the middle of a room.")
    assert stepopsd_envs.TextEnv in ALFWorldEnv.__mro__
