"""`ray job submit` on a cluster with tokens: from a clone, and from a project beside the wheel."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.ray_clusters import started_ray

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
GRACE = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}'
NOT_YET = "No available agent to submit job"
SMALL = (
    "groups_per_step=2",
    "group_size=2",
    "env_config.max_turns=4",
    "sampler=transformers",
    "evaluation_interval=null",
)
OWN_GAME = """
from stepopsd_envs.alfworld.env import ALFWorldEnv


class OwnHouse(ALFWorldEnv):
    '''A user's own environment: only the job's working directory has it.'''
"""


@dataclass
class Jobs:
    """A cluster, and how a user speaks to it."""

    python: str
    variables: dict[str, str]
    address: str

    def call(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        command = [self.python, "-m", "ray.scripts.scripts", "job", *words]
        return subprocess.run(
            command,
            env=self.variables | {"RAY_ADDRESS": self.address} | environment,
            capture_output=True,
            text=True,
            timeout=1000,
        )

    def submit(self, folder: Path, *words: str, job: str, wait: bool = True) -> str:
        """Submits `stepopsd`, as the documentation says; returns what was printed."""
        options = ["--submission-id", job, "--working-dir", str(folder)]
        options += ["--runtime-env-json", GRACE, *([] if wait else ["--no-wait"])]
        for _ in range(60):
            done = self.call("submit", *options, "--", "python", "-m", "stepopsd_cli", *words)
            if NOT_YET not in done.stderr:
                break
            time.sleep(2)  # the cluster has just been started
        return done.stdout + done.stderr

    def wait_for(self, text: str, job: str, seconds: float = 480.0) -> str:
        end = time.monotonic() + seconds
        while text not in (log := self.call("logs", job).stdout) and time.monotonic() < end:
            time.sleep(1)
        assert text in log, log
        return log


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Iterator[Jobs]:
    """A cluster with tokens whose Python has the wheel, and no clone."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True
    )
    python = str(folder / "venv/bin/python")
    # Everything else is that of this interpreter, but for its editable installation.
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(wheel, cwd=ROOT, check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    subprocess.run([*pip, *map(str, folder.glob("*.whl"))], check=True)
    (folder / "token").write_text("0123456789abcdef" * 4)
    port, agent = free_ports(2)  # the agent's port is fixed else: one cluster a machine
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "PATH": f"{folder / 'venv/bin'}:/usr/bin:/bin",
        "PYTHONPATH": "",
    }
    dashboard = ["--include-dashboard=true", f"--dashboard-port={port}", "--num-cpus=3"]
    dashboard.append(f"--dashboard-agent-listen-port={agent}")
    with started_ray(*dashboard, python=python, **environment) as variables:
        yield Jobs(python, variables, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone in which somebody has installed what a gigabyte of wheels holds."""
    folder = tmp_path_factory.mktemp("clone") / "stepopsd_rllib"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").mkdir()
    with (folder / ".venv/torch.so").open("wb") as file:
        file.truncate(2**30)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A user's folder: an own environment, own skills, an example that names both."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "own_game.py").write_text(OWN_GAME)
    shutil.copytree(ROOT / "envs/stepopsd_envs/alfworld/skills/brief", folder / "my_skills")
    example = (ROOT / "tuned_examples/skill_grpo/alfworld_tiny.yaml").read_text()
    example = example.replace("stepopsd/ALFWorld-v0", "own_game:OwnHouse")
    (folder / "own.yaml").write_text(example.replace("skills: alfworld_brief", "skills: my_skills"))
    return folder


def settings(*more: str) -> list[str]:
    return [word for text in (*SMALL, *more) for word in ("--set", text)]


def checkpoints(run: Path) -> list[int]:
    """After how many iterations the checkpoints of a run were written."""
    return sorted(json.loads(f.read_text())["iteration"] for f in run.glob("*/*/stepopsd.json"))


def test_a_job_without_the_token_is_refused(jobs, clone):
    done = jobs.call("list", RAY_AUTH_MODE="disabled")
    assert done.returncode != 0 and "token" in (done.stdout + done.stderr).lower()


def test_results_in_the_jobs_own_folder_are_refused(jobs, project):
    log = jobs.submit(project, "train", "own.yaml", "--storage", "runs", job="lost")
    assert "Ray deletes after the job" in log and "Traceback" not in log
    assert "exit code 2" in log


def test_two_jobs_beside_each_other_one_stopped_and_gone_on_with(jobs, clone, project, tmp_path):
    storage = ["--storage", str(tmp_path)]
    endless = settings("stop.training_iteration=100000", "checkpoint_freq=0")
    example = "tuned_examples/grpo/alfworld_tiny.yaml"
    jobs.submit(clone, "train", example, *endless, *storage, "--name", "a", job="a", wait=False)
    jobs.wait_for("iteration      1/", "a")
    own = settings("stop.training_iteration=2", "checkpoint_freq=1", "keep_checkpoints_num=5")
    log = jobs.submit(project, "train", "own.yaml", *own, *storage, "--name", "b", job="b")
    assert "iteration      2/2" in log and "succeeded" in log, log  # followed to its end
    assert checkpoints(tmp_path / "b") == [1, 2]
    assert "RUNNING" in jobs.call("status", "a").stdout, "the first one trained on beside it"

    jobs.wait_for("iteration      2/", "a")
    jobs.call("stop", "a")
    log = jobs.wait_for("go on       stepopsd train --resume", "a")
    assert "SIGTERM: ending after this iteration, with a checkpoint" in log
    (done,) = checkpoints(tmp_path / "a")
    assert "STOPPED" in jobs.call("status", "a").stdout

    # The clone has moved on meanwhile: its package, and so its folder on the nodes, is another.
    (clone / "notes.txt").write_text("read the curves\n")
    further = ["--set", f"stop.training_iteration={done + 1}"]
    log = jobs.submit(clone, "train", "--resume", str(tmp_path / "a"), *further, job="a2")
    assert f"after {done + 1} iterations" in log and "succeeded" in log, log


def test_a_run_of_a_projects_own_files_goes_on_from_a_changed_project(jobs, project, tmp_path):
    storage = ["--storage", str(tmp_path)]
    one = settings("stop.training_iteration=1")
    log = jobs.submit(project, "train", "own.yaml", *one, *storage, "--name", "c", job="c")
    assert "succeeded" in log, log
    (project / "notes.txt").write_text("read the curves\n")
    further = ["--set", "stop.training_iteration=2"]
    log = jobs.submit(project, "train", "--resume", str(tmp_path / "c"), *further, job="c2")
    assert "after 2 iterations" in log and "succeeded" in log, log
