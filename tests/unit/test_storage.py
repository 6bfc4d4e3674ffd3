"""Where run folders go, and what is said before Ray starts where they cannot."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from stepopsd_rllib.commands import storage, tuned
from stepopsd_rllib.commands.storage import open_storage, release, reserve

ROOT = Path(__file__).parents[2]
BODY = {"run": "GRPO", "env": "stepopsd/ALFWorld-v0", "stop": {"training_iteration": 1}}


@pytest.fixture
def fake_address(tmp_path, monkeypatch):
    """`fake://bucket/...` as another file system than the local one; its files lie below a path."""
    real = pyarrow.fs.FileSystem.from_uri
    folder = tmp_path / "cloud"
    folder.mkdir()
    inside = DirFileSystem(str(folder), fsspec.filesystem("file", auto_mkdir=True))
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(inside))

    def from_uri(uri):
        return (filesystem, uri[7:]) if uri.startswith("fake://") else real(uri)

    opener = type("FileSystem", (), {"from_uri": staticmethod(from_uri)})
    monkeypatch.setattr(storage.pyarrow.fs, "FileSystem", opener)
    return folder


def test_a_folder_is_absolute_with_home_variables_and_blanks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHERE", "a b")
    monkeypatch.chdir(tmp_path)
    for text, meant in (
        ("runs", "runs"),
        ("~/runs", "runs"),
        ("$HOME/$WHERE", "a b"),
        (f"file://{tmp_path}/x", "x"),
    ):
        opened = open_storage(text)
        assert opened.location == opened.path == str(tmp_path / meant)
        assert opened.is_local


def test_an_address_goes_to_the_file_system_that_opens_it(fake_address):
    opened = open_storage("fake://bucket/runs")
    assert (opened.location, opened.path, opened.is_local) == (
        "fake://bucket/runs",
        "bucket/runs",
        False,
    )
    name = reserve(opened, "a", "x")
    assert opened.run(name) == "fake://bucket/runs/a"
    assert (fake_address / "bucket/runs/a").is_dir()
    with pytest.raises(ValueError, match="fake://bucket/runs/a exists already"):
        reserve(opened, "a", "x")
    release(opened, "a")
    assert not (fake_address / "bucket/runs/a").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3:/bucket/runs", "write s3://bucket/runs"),
        ("gs:bucket", "write gs://bucket"),
        ("nofs://x/y", "cannot be opened"),
        ("", "names nothing"),
        ("$NOT_SET_ANYWHERE/x", "is not set"),
        ("/tmp/ray/s/runtime_resources/working_dir_files/_ray_pkg_1/runs", "Ray deletes after the"),
    ],
)
def test_a_storage_that_cannot_be_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as refusal:
        open_storage(text)
    assert "\n" not in str(refusal.value)


def test_tune_is_told_an_address_as_it_is(fake_address, monkeypatch, tmp_path):
    example = tuned.checked("f", "mine", {**BODY, "config": {"model": "tiny"}})
    monkeypatch.setenv("HOME", str(tmp_path))
    told = [
        tuned.tuner(example, storage=text)._local_tuner._run_config.storage_path
        for text in ("fake://my-bucket/runs", "~/runs")
    ]
    assert told == ["fake://my-bucket/runs", str(tmp_path / "runs")]


@pytest.mark.parametrize("name", ["a/b", "..", ".", ""])
def test_a_name_is_that_of_one_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is not the name of one folder"):
        reserve(open_storage(str(tmp_path)), name, "x")


def test_two_runs_at_once_get_two_names(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.time, "strftime", lambda _form: "now")
    opened = open_storage(str(tmp_path))
    assert [reserve(opened, None, "q2.5") for _ in range(3)] == [
        "q2.5_now",
        "q2.5_now_2",
        "q2.5_now_3",
    ]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for text in (file, file / "below", "/proc/runs"):
        with pytest.raises(ValueError, match=r"--storage .*: cannot be written \(.+\)") as refusal:
            reserve(open_storage(str(text)), "a", "x")
        assert "\n" not in str(refusal.value)
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(storage.os, "statvfs", lambda _path: full)
    with pytest.raises(ValueError, match="0 MB are free"):
        reserve(open_storage(str(tmp_path)), "a", "x")


def test_a_mistake_leaves_no_run_folder_and_starts_no_ray(tmp_path):
    """Of the kinds that only the first trial used to find."""
    wrong = [
        ["--set", "max_context_tokens=20", "--set", "max_response_tokens=8"],
        ["--set", "env_config.size=huge"],
        ["--set", "eval_split=nowhere"],
        ["--set", "env_config.data=/no/such/games"],
    ]
    script = (
        "import sys, ray, stepopsd_cli\n"
        "ray.init = lambda *a, **k: sys.exit('Ray was started')\n"
        "for extra in eval(sys.argv[1]):\n"
        f"    file = {str(ROOT / 'tuned_examples/grpo/alfworld_tiny.yaml')!r}\n"
        "    assert stepopsd_cli.main(['train', file, '--name', 'a', *extra]) == 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, repr(wrong)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("stepopsd: ")]
    assert len(lines) == len(wrong)
    assert not (tmp_path / "runs").exists()
