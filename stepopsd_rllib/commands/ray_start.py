"""Starts Ray for one command, or joins the cluster that the command runs in."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import ray
from ray._common.utils import get_ray_address_file
from ray._private.services import find_bootstrap_address
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import PlacementGroupFactory

# With runner and learner in one process the store holds episodes only, some megabytes a step.
ONE_PROCESS_STORE_BYTES = 256 * 1024**2
ADDRESS = "RAY_ADDRESS"
LOCAL = "local"
"""In RAY_ADDRESS: a Ray of the command's own, whatever runs on the machine."""
_CONNECT_SECONDS = 2.0


def quiet_ray() -> None:
    """Leaves to the command what Ray would print: a banner, warnings, failed trials' tracebacks."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def cluster_address() -> str | None:
    """The cluster that a command joins: RAY_ADDRESS, or one started on this machine; else None.

    `ray start` leaves its address on the machine. Another user's, and one at which nobody answers
    any more, is passed over.
    """
    named = os.environ.get(ADDRESS)
    if named:
        return None if named == LOCAL else named
    if ray.is_initialized():  # a notebook that started its own
        return "auto"
    with suppress(OSError):
        is_own = os.stat(get_ray_address_file(None)).st_uid == os.getuid()
        found = find_bootstrap_address(None) if is_own else None
        return found if found and _answers(found) else None
    return None


@contextmanager
def running_ray(
    algorithm: type[Algorithm], configs: Iterable[AlgorithmConfig], *, dashboard: bool = False
) -> Iterator[None]:
    """Calls `ray.init` as the place demands; ends at the end what it began.

    Inside `ray job submit`, with RAY_ADDRESS set, or after `ray start` on this machine, the cluster
    and the job's runtime environment stand already, and Ray refuses to be given either again.
    Otherwise a local Ray is started that has at least as many CPU slots as the largest trial asks
    for: slots are for scheduling, and two runners on one core are slow but sound.

    Raises:
        ValueError: This machine has fewer GPUs than a trial asks for, or the cluster cannot be
            joined, or Ray was not up in time.
    """
    configs = list(configs)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune moves a trial into its own folder, where the relative paths of an example (its model, its
    # data) lead nowhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    asked = {
        resource: max(_requested(algorithm, config, resource) for config in configs)
        for resource in ("CPU", "GPU")
    }
    was_running = ray.is_initialized()
    address = cluster_address()
    try:
        if address is None:
            _start(configs, asked, dashboard=dashboard)
        else:
            _join(address, asked)
        yield
    finally:
        if not was_running:
            ray.shutdown()


def _start(
    configs: Iterable[AlgorithmConfig], asked: Mapping[str, float], *, dashboard: bool
) -> None:
    is_one_process = all(
        config.num_env_runners == 0 and config.num_learners == 0 for config in configs
    )
    try:
        ray.init(
            address=LOCAL,
            num_cpus=max(os.cpu_count() or 1, math.ceil(asked["CPU"])),
            object_store_memory=ONE_PROCESS_STORE_BYTES if is_one_process else None,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray has no class for it
        if "timed out during startup" not in str(error):
            raise
        raise ValueError(
            "Ray was not up after 30 s, its own limit: this machine is too busy. Try again when it "
            f"is less so, or start Ray before (`ray start --head`) and join it: {ADDRESS}=auto."
        ) from error
    found = ray.cluster_resources().get("GPU", 0.0)
    if asked["GPU"] > found:
        raise ValueError(
            f"a trial asks for {asked['GPU']:g} GPUs (num_gpus_per_learner, "
            f"num_gpus_per_env_runner), and Ray sees {found:g} on this machine. Choose an example "
            "for the CPU, or lower the keys."
        )


def _join(address: str, asked: Mapping[str, float]) -> None:
    print(f"ray         joins the cluster at {address} ({ADDRESS}={LOCAL} starts its own)")
    if not ray.is_initialized():
        try:
            # Ray takes the user's token by itself where it finds the cluster by itself.
            where = address if os.environ.get(ADDRESS) else "auto"
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{ADDRESS}={address}: the Ray cluster cannot be joined ({reason}). Start it, "
                "correct the address, give its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH), "
                f"or set {ADDRESS}={LOCAL} for a Ray of this command's own."
            ) from error
    found = ray.cluster_resources()
    for resource, amount in asked.items():
        if amount > found.get(resource, 0.0):  # nodes may come and go
            print(
                f"ray         has {found.get(resource, 0.0):g} {resource}s, a trial asks for "
                f"{amount:g}: it waits until a node brings them"
            )
    sys.stdout.flush()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _requested(algorithm: type[Algorithm], config: AlgorithmConfig, resource: str) -> float:
    """How much of a resource one trial of the config asks for."""
    # The configs of a comparison belong to several algorithms.
    request = (config.algo_class or algorithm).default_resource_request(config)
    assert isinstance(request, PlacementGroupFactory), "RLlib asks for placement groups"
    return request.required_resources.get(resource, 0.0)
