"""Checkpoints: whole or named as damaged, kept by age and score, read where they are trusted."""

import json
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
import torch
from safetensors.torch import load_file

from stepopsd_rllib import GRPOConfig
from stepopsd_rllib.commands import checkpoints
from stepopsd_rllib.commands.kept_checkpoints import find, to_drop
from stepopsd_rllib.models.whole_weights import require_whole_weights
from stepopsd_rllib.training import checkpoint_files as files
from stepopsd_rllib.training.checkpointed_algorithm import require_known_version

LOCAL = pyarrow.fs.LocalFileSystem()


def write_checkpoint(trial: Path, number: int, success: float | None = None) -> Path:
    folder = trial / f"checkpoint_{number:06d}"
    weights = {"a.weight": torch.full((2, 2), float(number))}
    files.write_model(folder / files.MODEL, weights, {"config.json": b'{"torch_dtype": "float16"}'})
    metrics = {} if success is None else {"evaluation/success_rate": success}
    description = {"package": "0.0.1", "iteration": number + 1, "metrics": metrics}
    (folder / files.DESCRIPTION).write_text(json.dumps(description))
    files.write_manifest(folder)
    return folder


@pytest.fixture
def trial(tmp_path):
    folder = tmp_path / "run" / "GRPO_00000"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("")
    (tmp_path / "run" / "run.json").write_text("{}")
    return folder


def test_a_checkpoint_is_whole_until_a_byte_changes(trial):
    folder = write_checkpoint(trial, 0)
    assert files.damage(folder) is None
    weights = folder / files.MODEL / files.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert files.damage(folder) == "model/model.safetensors has changed (its checksum differs)"
    weights.write_bytes(bytes(content[:-3]))
    assert "bytes, not" in str(files.damage(folder))
    weights.unlink()
    assert files.damage(folder) == "model/model.safetensors is missing"
    (folder / files.MANIFEST).write_text("{")
    assert files.damage(folder) == "manifest.json is damaged"
    (folder / files.MANIFEST).unlink()
    assert "not written to its end" in str(files.damage(folder))


def test_a_checkpoint_of_another_model_is_told_by_its_settings(trial):
    folder = write_checkpoint(trial, 0)
    assert files.of_another_model(folder, {"config.json": b'{"dtype": "bfloat16"}'}) is None
    wider = {"config.json": b'{"hidden_size": 96, "num_hidden_layers": 2}'}
    said = "it is of another model (hidden_size=None, not 96; num_hidden_layers=None, not 2)"
    assert files.of_another_model(folder, wider) == said
    (folder / files.MODEL / "config.json").unlink()  # a run with LoRA writes the adapter alone
    assert files.of_another_model(folder, wider) is None


def test_damaged_checkpoints_are_passed_over_by_name(trial, capsys):
    whole, cut = write_checkpoint(trial, 0), write_checkpoint(trial, 1)
    (cut / files.MANIFEST).unlink()
    for path in (trial, trial.parent):
        assert checkpoints.whole_checkpoint(str(path), is_trusted=False) == whole
        assert f"passed over {cut}: it was not written to its end" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is no whole checkpoint: it was not written to its end"):
        checkpoints.whole_checkpoint(str(cut), is_trusted=False)


def test_a_checkpoint_from_elsewhere_is_read_only_with_trust(trial, tmp_path):
    moved = write_checkpoint(trial, 0).rename(tmp_path / "checkpoint_000000")
    (moved / checkpoints.CHECKPOINT_FILE).write_text("{}")
    files.write_manifest(moved)
    with pytest.raises(ValueError, match=r"A checkpoint is code: .* add --trust"):
        checkpoints.export(str(moved), str(tmp_path / "out"))
    assert checkpoints.export(str(moved), str(tmp_path / "out"), is_trusted=True) == 0


def test_export_is_a_copy_that_needs_nothing_of_the_training_machine(trial, tmp_path):
    write_checkpoint(trial, 3)
    assert checkpoints.export(str(trial.parent), str(tmp_path / "out")) == 0
    weights = load_file(tmp_path / "out" / files.WEIGHTS)
    assert weights["a.weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"dtype": "float32"}
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    with pytest.raises(ValueError, match="exists already"):
        checkpoints.export(str(trial.parent), str(tmp_path / "out"))


def test_the_best_and_the_newest_stay(trial):
    for number, success in enumerate([0.1, 0.9, None, 0.5, 0.2]):
        write_checkpoint(trial, number, success)
    found = find(LOCAL, str(trial))
    assert [checkpoint.iteration for checkpoint in found] == [1, 2, 3, 4, 5]

    def dropped(keep, score):
        return [checkpoint.number for checkpoint in to_drop(found, keep, score)]

    assert dropped(None, None) == []
    assert dropped(2, None) == [0, 1, 2]
    assert dropped(2, "evaluation/success_rate") == [0, 2]
    assert dropped(1, "evaluation/success_rate") == [0, 2, 3]


def test_tied_tensors_are_written_once(tmp_path):
    shared = torch.ones(2, 2)
    weights = {"embed.weight": shared, "lm_head.weight": shared, "b": np.zeros(3, np.float32)}
    files.write_model(tmp_path / "m", weights, {"config.json": b"{}"})
    assert sorted(load_file(tmp_path / "m" / files.WEIGHTS)) == ["b", "embed.weight"]


def test_an_odd_generation_config_is_carried_along_as_it_is(tmp_path):
    odd = b'{"do_sample": false, "temperature": 7, "top_k": "many"'
    files.write_model(tmp_path / "m", {}, {"config.json": b"{}", "generation_config.json": odd})
    assert (tmp_path / "m/generation_config.json").read_bytes() == odd


def test_what_a_newer_version_wrote_is_refused_with_both_versions():
    with pytest.raises(ValueError, match=r"was written by stepopsd-rllib 99\.1, this is "):
        require_known_version("run", "99.1")
    require_known_version("run", files.package_version())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x10\x00\x00", "its weights are damaged"),
        (None, "its weights are damaged"),
    ],
)
def test_damaged_model_weights_are_one_line(tmp_path, content, message):
    source = Path(GRPOConfig().model_path()) / files.WEIGHTS
    file = tmp_path / files.WEIGHTS
    file.write_bytes(source.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=message):
        require_whole_weights(tmp_path)
    require_whole_weights(source.parent)
