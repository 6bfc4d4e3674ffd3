"""`ray job submit` as the page says, on a cluster with tokens: from a clone, and beside a wheel."""

from __future__ import annotations

import json
import re
import shlex
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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
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


def documented(containing: str) -> str:
    """The block of the page on running that submits a job with these words."""
    page = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)
    (found,) = [b.rstrip() for b in blocks if "ray job submit" in b and containing in b]
    return found


FIRST, FURTHER = documented("--name first"), documented("--resume")


@dataclass
class Jobs:
    """A cluster, and how a user speaks to it."""

    folder: Path
    variables: dict[str, str]
    address: str

    def type(self, text: str, where: Path, **environment: str) -> str:
        """What a shell prints to these commands."""
        done = subprocess.run(
            ["bash", "-c", text],
            env=self.variables | {"RAY_API_SERVER_ADDRESS": self.address} | environment,
            cwd=where,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        return done.stdout + done.stderr

    def ray_job(self, *words: str, **environment: str) -> str:
        return self.type(shlex.join(["ray", "job", *words]), self.folder, **environment)

    def submit(
        self, block: str, replaced: dict[str, str], *more: str, where: Path, wait: bool = True
    ) -> str:
        """Types a block of the page in a folder, with a reader's own words in it."""
        cluster = {"http://HEAD:8265": self.address, "~/.ray/auth_token": f"{self.folder}/token"}
        # The block of a further job is typed in the same shell, after the first one's exports.
        for written, own in ((cluster if block == FIRST else {}) | replaced).items():
            assert written in block, f"docs/running.md no longer says {written}"
            block = block.replace(written, own)
        if not wait:
            block = block.replace("ray job submit", "ray job submit --no-wait")
        for _ in range(60):
            printed = self.type(f"{block} {shlex.join(more)}", where)
            if NOT_YET not in printed:
                break
            time.sleep(2)  # the cluster has just been started
        return printed

    def wait_for(self, text: str, job: str, seconds: float = 900.0) -> str:
        end = time.monotonic() + seconds
        while text not in (log := self.ray_job("logs", job)) and time.monotonic() < end:
            time.sleep(1)
        assert text in log, log
        return log


def job_of(printed: str) -> str:
    """The number of a job that was submitted."""
    found = re.search(r"Job '(\w+)' submitted successfully", printed)
    assert found, printed
    return found[1]


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
    python = folder / "venv/bin/python"
    # Everything else is that of this interpreter, but for its editable installation.
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = python.with_name("ray")
    command.write_text(f'#!/bin/sh\nexec {python} -m ray.scripts.scripts "$@"\n')
    command.chmod(0o755)
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(wheel, cwd=ROOT, check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*pip, *map(str, folder.glob("*.whl"))], check=True)
    (folder / "token").write_text("0123456789abcdef" * 4)
    port, agent = free_ports(2)  # the agent's port is fixed else: one cluster a machine
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "PYTHONPATH": "",
    }
    dashboard = ["--include-dashboard=true", f"--dashboard-port={port}", "--num-cpus=3"]
    dashboard.append(f"--dashboard-agent-listen-port={agent}")
    with started_ray(*dashboard, python=str(python), **environment) as variables:
        yield Jobs(folder, variables, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone in which somebody has installed what a gigabyte of wheels holds."""
    folder = tmp_path_factory.mktemp("clone") / "stepopsd_rllib"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").mkdir()
    with (folder / ".venv/torch.so").open("wb") as file:
        file.truncate(2**30)
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's folder: an own environment, own skills, an example that names both."""
    folder = tmp_path / "project"
    folder.mkdir()
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


def test_a_job_without_the_token_is_refused(jobs):
    assert "token" in jobs.ray_job("list", RAY_AUTH_MODE="disabled").lower()


def test_results_in_the_jobs_own_folder_are_refused(jobs, project):
    own = {"FILE.yaml": "own.yaml", "/shared/runs": "runs"}
    log = jobs.submit(FIRST, own, where=project)
    assert "Ray deletes after the job" in log and "Traceback" not in log
    assert "exit code 2" in log


def test_two_jobs_beside_each_other_are_stopped_and_gone_on_with(jobs, clone, project, tmp_path):
    runs = str(tmp_path / "runs")
    endless = settings("stop.training_iteration=100000", "checkpoint_freq=0")
    example = {"FILE.yaml": "tuned_examples/grpo/alfworld_tiny.yaml", "/shared/runs": runs}
    a = job_of(jobs.submit(FIRST, example, *endless, where=clone, wait=False))
    jobs.wait_for("iteration      1/", a)
    own = {"FILE.yaml": "own.yaml", "/shared/runs": runs, "--name first": "--name own"}
    short = settings("stop.training_iteration=2", "checkpoint_freq=1", "keep_checkpoints_num=5")
    log = jobs.submit(FIRST, own, *short, where=project)
    assert "iteration 2/2" in log and "succeeded" in log, log  # followed to its end
    assert checkpoints(tmp_path / "runs/own") == [1, 2]
    assert "RUNNING" in jobs.ray_job("status", a), "the first one trained on beside it"

    jobs.wait_for("iteration      2/", a)
    jobs.ray_job("stop", a)
    log = jobs.wait_for("go on       stepopsd train --resume", a)
    assert "SIGTERM: ending after this iteration, with a checkpoint" in log
    (done,) = checkpoints(tmp_path / "runs/first")
    assert "was stopped" in jobs.ray_job("status", a)

    # Both folders have moved on meanwhile: what Ray unpacks on the nodes is another package.
    for folder, name, iterations in ((clone, "first", done), (project, "own", 2)):
        (folder / "notes.txt").write_text("read the curves\n")
        further = ["--set", f"stop.training_iteration={iterations + 1}"]
        run = {"/shared/runs/first": f"{runs}/{name}"}
        log = jobs.submit(FURTHER, run, *further, where=folder)
        assert f"after {iterations + 1} iterations" in log and "succeeded" in log, log
        assert max(checkpoints(tmp_path / "runs" / name)) == iterations + 1
