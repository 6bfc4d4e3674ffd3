"""A living run, and the faults that it can be given while it trains."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.fault_house import (
    DIE_AT_START,
    EAT_MEMORY,
    GAME_FAULTS,
    FaultyHouse,
    give_order,
    make_cage,
    withdraw,
)
from stepopsd_rllib import GRPO, GRPOConfig
from stepopsd_rllib.training import checkpoint_files
from stepopsd_rllib.training.placement import sampler_dtype
from stepopsd_rllib.training.weight_sync import learner_weights

GROUPS, GROUP_SIZE = 8, 2
ENV_TIMEOUT_S, SAMPLER_TIMEOUT_S, SAMPLE_TIMEOUT_S = 2.0, 5.0, 15.0
SYNC_TIMEOUT_S = 30.0  # a runner that was started anew loads its model first
STORE_BYTES = 80 * 2**20
"""Of the object store of a Ray that a faulty run is on."""
_HOUR = 3600.0
_JUMP_AFTER_S = 0.3  # within an iteration


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: Injects `at_once` faults and returns how many it saw reported at once.
        at_once: Faults of one injection.
        iterations: That have to pass until the fault has struck.
        told_by: Result of `env_runners`, or the learner's, that counts it; "" for those that are
            told at once, or have no effect at all.
    """

    inject: Callable[[], int]
    at_once: int = 1
    iterations: int = 1
    told_by: str = ""


class FaultyRun:
    """GRPO on tiny houses with two env runners.

    Args:
        folder: For orders and checkpoints.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.orders = folder / "orders"
        self.orders.mkdir(exist_ok=True)
        self.algorithm = GRPO(config=self._config())
        self._held: list[Any] = []
        self.last: Mapping[str, Any] = {}
        self.kinds = self._kinds()

    def train(self) -> Mapping[str, Any]:
        """One iteration; a full object store and a clock that went wrong last that long."""
        try:
            return self.algorithm.train()
        finally:
            self._held.clear()
            self._set_clocks(0.0)

    def train_with_stale_weights(self) -> Mapping[str, Any]:
        """An iteration in which a runner has the weights before the last update, unknown to all.

        What such an iteration shows is what wrong weights look like.
        """
        stale = learner_weights(
            self.algorithm.learner_group,
            as_reference=True,
            dtype=sampler_dtype(self.algorithm.config),
        )
        self.train()
        version = self.algorithm._num_updates
        self._on_a_runner(lambda runner: runner.load_weights(ray.get(stale).tensors(), version))
        return self.train()

    def is_whole(self) -> bool:
        """Whether both runners are in service."""
        return self.algorithm.env_runner_group.num_healthy_remote_env_runners() == 2

    def close(self) -> None:
        """Ends the run."""
        withdraw(self.orders)
        self.algorithm.stop()

    def _config(self, *, num_runners: int = 2, model: str = "tiny") -> GRPOConfig:
        config = GRPOConfig().environment(
            FaultyHouse,
            env_config={
                "orders": str(self.orders),
                "size": "tiny",
                "think": "off",
                "instructions": False,
                "show_admissible_commands": False,
                "max_turns": 3,
            },
        )
        config.agent(
            model=model,
            sampler="transformers",
            group_size=GROUP_SIZE,
            groups_per_step=GROUPS,
            max_response_tokens=8,
            max_context_tokens=512,
            eval_num_tasks=1,
            env_timeout_s=ENV_TIMEOUT_S,
            sampler_timeout_s=SAMPLER_TIMEOUT_S,
            weight_sync_timeout_s=SYNC_TIMEOUT_S,
            max_sampler_difference=None,
            min_groups_fraction=0.25,
        )
        config.training(lr=1e-4, kl_coeff=0.0, entropy_coeff=0.01)
        return config.env_runners(
            num_env_runners=num_runners,
            sample_timeout_s=SAMPLE_TIMEOUT_S,
        )

    def _kinds(self) -> dict[str, Kind]:
        dead = partial(Kind, iterations=2, told_by="runners_restarted_lifetime")
        kinds = {
            "kill -9 of a runner while sampling": dead(partial(self._signal, signal.SIGKILL)),
            "kill -9 of a runner while loading weights": dead(self._kill_while_loading),
            "kill -9 of a runner while starting": dead(self._kill_while_starting),
            "SIGSTOP of a runner, longer than the timeout": dead(
                partial(self._signal, signal.SIGSTOP)
            ),
            "out-of-memory kill of a runner": dead(partial(self._order, EAT_MEMORY, 1)),
            "engine raises in step": dead(partial(self._spoil_engine, "raises")),
            "engine hangs in step": dead(partial(self._spoil_engine, "hangs")),
            "NaN loss": Kind(self._spoil_loss, told_by="updates_left_out_lifetime"),
            "object store full": Kind(self._fill_store),
            "clock jumps an hour ahead": Kind(partial(self._set_clocks, _HOUR)),
            "clock jumps an hour back": Kind(partial(self._set_clocks, -_HOUR)),
            "checkpoint cut in half": Kind(partial(self._load_damaged, _cut), 4),
            "checkpoint with a bit flipped": Kind(partial(self._load_damaged, _flip), 4),
            "checkpoint of another model": Kind(self._load_another_model),
        }
        if not make_cage():
            print("no control group can be made here: no out-of-memory kills")
            del kinds["out-of-memory kill of a runner"]
        for fault in GAME_FAULTS:
            kinds[fault] = Kind(partial(self._order, fault, 5), 5, told_by="status")
        return kinds

    def _on_runners(self, call: Callable[[Any], Any], *indices: int) -> list[Any]:
        group = self.algorithm.env_runner_group
        chosen = list(indices) or group.healthy_env_runner_ids()
        return group.foreach_env_runner(
            call, local_env_runner=False, remote_worker_ids=chosen, timeout_seconds=SAMPLE_TIMEOUT_S
        )

    def _on_a_runner(self, call: Callable[[Any], Any]) -> Any:
        index = random.choice(self.algorithm.env_runner_group.healthy_env_runner_ids())
        return self._on_runners(call, index)[0]

    def _order(self, order: str, count: int) -> int:
        give_order(self.orders, order, count)
        return 0

    def _signal(self, number: int) -> int:
        pid = self._on_a_runner(lambda runner: os.getpid())

        def send() -> None:
            time.sleep(random.uniform(0.05, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        threading.Thread(target=send, daemon=True).start()
        return 0

    def _kill_while_loading(self) -> int:
        def spoil(runner: Any) -> None:
            runner.load_weights = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

        self._on_a_runner(spoil)
        return 0

    def _kill_while_starting(self) -> int:
        self._order(DIE_AT_START, 1)
        return self._signal(signal.SIGKILL)

    def _spoil_engine(self, how: str) -> int:
        def spoil(runner: Any) -> None:
            engine = runner._sampler._sampler

            def step() -> Any:
                del engine.step
                if how == "hangs":
                    time.sleep(_HOUR)
                raise RuntimeError("the kernel is gone")

            engine.step = step

        self._on_a_runner(spoil)
        return 0

    def _spoil_loss(self) -> int:
        learner = self.algorithm.learner_group._learner
        sound = learner.compute_loss_for_module

        def nan_loss(**arguments: Any) -> Any:
            del learner.compute_loss_for_module
            return sound(**arguments) * math.nan

        learner.compute_loss_for_module = nan_loss
        return 0

    def _fill_store(self) -> int:
        piece = np.zeros(STORE_BYTES // 4, dtype=np.uint8)
        self._held = [ray.put(piece) for _ in range(8)]
        return 0

    def _set_clocks(self, seconds: float) -> int:
        """Lets wall clocks of the driver and its runners go wrong; 0 sets them right."""
        if seconds or time.time is not _SOUND_TIME:
            set_clock(seconds)
            self._on_runners(lambda _: set_clock(seconds))
        return 0

    def _load_damaged(self, damage: Callable[[Path], None]) -> int:
        return sum(self._is_refused(self._damaged(damage)) for _ in range(4))

    def _damaged(self, damage: Callable[[Path], None]) -> Path:
        sound, damaged = self._folder / "sound", self._folder / "damaged"
        if not sound.exists():
            self.algorithm.save_to_path(str(sound))
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(sound, damaged)
        files = sorted(f for f in damaged.rglob("*") if f.is_file() and f.stat().st_size > 1)
        damage(random.choice(files))
        return damaged

    def _load_another_model(self) -> int:
        other = self._folder / "of_another_model"
        if not other.exists():
            model = self._folder / "another_model"
            _write_another_model(Path(self.algorithm.config.model_path()), model)
            algorithm = GRPO(config=self._config(num_runners=0, model=str(model)))
            algorithm.save_to_path(str(other))
            algorithm.stop()
        return int(self._is_refused(other))

    def _is_refused(self, checkpoint: Path) -> bool:
        """Whether it is, by a line that a user reads, with the run as it was before."""
        before = self._fingerprint()
        try:
            self.algorithm.load_checkpoint(str(checkpoint))
        except ValueError:
            return self._fingerprint() == before
        return False

    def _fingerprint(self) -> str:
        """Of weights and counters."""
        digest = hashlib.sha256(
            repr((self.algorithm._num_updates, self.algorithm.iteration)).encode()
        )
        for name, weight in self.algorithm.learner_group._learner.sampler_weights().items():
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()


_SOUND_TIME = time.time


def set_clock(seconds: float) -> None:
    """Lets the wall clock of this process alone jump in a moment; 0 sets it right."""
    jumps_at = time.monotonic() + _JUMP_AFTER_S
    time.time = (
        (lambda: _SOUND_TIME() + (seconds if time.monotonic() > jumps_at else 0.0))
        if seconds
        else _SOUND_TIME
    )


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def _write_another_model(tiny: Path, folder: Path) -> None:
    """The embedded model's tokenizer with a narrower model, its weights as drawn."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    for name, content in checkpoint_files.small_files(tiny).items():
        (folder / name).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] //= 2
    (folder / "config.json").write_text(json.dumps(config))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
