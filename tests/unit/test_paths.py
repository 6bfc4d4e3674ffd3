"""Paths of an example no longer depend on where it was started."""

import pytest

from stepopsd_rllib.commands.paths import expanded, with_absolute_paths
from stepopsd_rllib.commands.tuned import checked, configs

BODY = {"run": "GRPO", "env": "stepopsd/ALFWorld-v0", "stop": {"training_iteration": 1}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "corpus.jsonl").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path / "folder"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("folder", "folder"),
        ("./folder", "folder"),
        ("../x", "../x"),
        ("~/folder", "folder"),
        ("$HOME/folder", "folder"),
        ("${MODELS}", "folder"),
        ("$MODELS/a b", "folder/a b"),
    ],
)
def test_a_path_becomes_absolute(here, written, meant):
    config = {"model": written, "env_config": {"data": written}}
    found = with_absolute_paths(config, "f")
    absolute = str((here / meant).resolve())
    assert found == {"model": absolute, "env_config": {"data": absolute}}


@pytest.mark.parametrize(
    "word",
    ["tiny", "generated", "owner/name", "alfworld_brief", "http://a:1/x", "s3://b/x", "", None, 3],
)
def test_what_names_no_file_here_stays(here, word):
    config = {"model": word, "skills": word, "env_config": {"data": word, "size": word}}
    assert with_absolute_paths(config, "f") == config


def test_a_word_that_a_folder_bears_too_stays_a_word(here):
    (here / "tiny").mkdir()
    assert with_absolute_paths({"model": "tiny"}, "f") == {"model": "tiny"}


def test_grids_lists_and_mappings_are_followed(here):
    config = {
        "model": {"grid_search": ["folder", "tiny"]},
        "env_config": {
            "retriever": {"kind": "bm25", "corpus": "corpus.jsonl"},
            "data": {"train": ["corpus.jsonl"]},
        },
    }
    found = with_absolute_paths(config, "f")
    corpus = str(here / "corpus.jsonl")
    assert found["model"] == {"grid_search": [str(here / "folder"), "tiny"]}
    assert found["env_config"]["retriever"] == {"kind": "bm25", "corpus": corpus}
    assert found["env_config"]["data"] == {"train": [corpus]}


def test_a_variable_that_is_not_set_is_named(here):
    with pytest.raises(ValueError, match=r"f: config\.model='\$NOWHERE/x': the variable"):
        with_absolute_paths({"model": "$NOWHERE/x"}, "f")
    with pytest.raises(ValueError, match="there is no such home folder"):
        expanded("~nobody_of_that_name/x", "--storage")


def test_an_example_is_checked_with_its_absolute_paths(here):
    with pytest.raises(ValueError, match=str(here / "folder")):
        configs(checked("f", "mine", {**BODY, "config": {"model": "folder"}}))


def test_off_without_quotes_is_the_word_off_for_think():
    from stepopsd_envs.alfworld.env import ALFWorldEnv

    assert ALFWorldEnv(think=False, instructions=False)._think == "off"
    with pytest.raises(ValueError, match=r"size=False is none of .* write the word in quotes\."):
        ALFWorldEnv(size=False)  # type: ignore[arg-type]


def test_paths_in_a_jobs_own_folder_stay_relative(tmp_path, monkeypatch):
    """A later job has the same files at another place."""
    job = tmp_path / "ray/runtime_resources/working_dir_files/_ray_pkg_1"
    (job / "skills").mkdir(parents=True)
    outside = tmp_path / "data"
    outside.mkdir()
    monkeypatch.chdir(job)
    written = {"skills": "skills", "env_config": {"data": str(outside), "map": "./skills/a.json"}}
    assert with_absolute_paths(written, "x.yaml") == {
        "skills": "./skills",
        "env_config": {"data": str(outside), "map": "./skills/a.json"},
    }
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths({"skills": "./data"}, "x.yaml") == {"skills": str(outside)}
