"""`log_to`: what may be written, what is refused before Ray starts, and trackers that fail."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

import stepopsd_cli
from stepopsd_rllib.commands import trackers, tuned
from stepopsd_rllib.commands.mlflow_results import numbers
from stepopsd_rllib.commands.trackers import Guarded, parse

TINY = "tuned_examples/grpo/alfworld_tiny.yaml"


def test_a_text_or_a_list_names_trackers_with_settings():
    (one,) = parse("log_to", "wandb:houses")
    assert (one.service, one.experiment, one.settings) == ("wandb", "houses", {})
    _, second = parse("log_to", ["aim:a", "mlflow:my runs,tracking_uri=http://host:5000/a:b"])
    assert second.experiment == "my runs"
    assert second.settings == {"tracking_uri": "http://host:5000/a:b"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wandbb:x", "is no tracker. Write wandb:NAME, mlflow:NAME, comet:NAME, aim:NAME; did you"),
        ("wandb", "names no project. Write wandb:PROJECT."),
        ("wandb: ", "names no project"),
        ("wandb:x,mod=offline", "'mod=offline' is no setting of wandb. Write entity="),
        ("wandb:x,mode=off", "mode is one of online, offline."),
        ("comet:x,online=no", "online is one of true, false."),
        (["wandb:x", "wandb:y"], "wandb is named twice"),
        ({"wandb": "x"}, "is no text. Write wandb:PROJECT"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_fix(text, said):
    with pytest.raises(ValueError, match=r"^log_to=") as refused:
        parse("log_to", text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_package_that_is_missing_is_one_line_before_ray_starts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        trackers, "SERVICES", {"wandb": trackers.Service(module="no_such", pip="w", settings=())}
    )
    monkeypatch.setattr("ray.init", None)
    arguments = ["train", TINY, "--log-to", "wandb:x", "--storage", str(tmp_path / "runs")]
    assert stepopsd_cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "stepopsd: log_to='wandb:x': the package w is not installed. pip install w"
    assert not (tmp_path / "runs").exists()


def test_a_typo_on_the_command_line_names_the_file_and_the_key(capsys):
    assert stepopsd_cli.main(["train", TINY, "--log-to", "wand:x"]) == 2
    assert "grpo_alfworld_tiny.log_to" in (err := capsys.readouterr().err)
    assert "did you mean 'wandb'?" in err


def test_a_file_takes_the_key_as_a_text_or_a_list():
    body = {"run": "GRPO", "env": "stepopsd/ALFWorld-v0", "stop": {"training_iteration": 1}}
    for written in ("aim:x", ["aim:x"]):
        assert tuned.checked("a.yaml", "a", body | {"log_to": written}).log_to == ["aim:x"]
    assert tuned.checked("a.yaml", "a", body).log_to == ()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_without_a_key_is_refused_and_offline_needs_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ValueError, match=r"there is no API key\. Run `wandb login`"):
        trackers.require("log_to", ["wandb:x"])
    trackers.require("log_to", ["wandb:x,mode=offline"])


class Failing(tune.Callback):
    """Takes one result and then no more."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any):
        if self.taken:
            raise ConnectionError("the server\nhas gone")
        self.taken.append(result)


def test_a_tracker_that_fails_is_named_once_and_does_not_end_the_run():
    said: list[str] = []
    tracker = Failing()
    guarded = Guarded(tracker, "mlflow", said.append)
    trial: Any = SimpleNamespace()
    for i in (1, 2, 3):
        result = {"training_iteration": i, "config": {"lr": 1}, "a": {"b": 2, "quantiles": [1, 2]}}
        guarded.on_trial_result(0, [trial], trial, result)
    guarded.on_trial_complete(0, [trial], trial)
    # Neither lists nor the config travel.
    assert tracker.taken == [{"training_iteration": 1, "a": {"b": 2}}]
    (line,) = said
    assert line.startswith("mlflow: ConnectionError: the server has gone. The run goes on")


def test_names_that_mlflow_refuses_are_spelled_otherwise():
    result = {"a": {"pick (hot)/x": 1, "flag": True}, "date": "2026", "config": {"lr": 1.0}}
    assert numbers(result) == {"a/pick _hot_/x": 1.0, "a/flag": 1.0}
