"""Starts Ray for one command, or joins the cluster that the command runs in."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import PlacementGroupFactory

# With runner and learner in one process the store holds episodes only, some megabytes a step.
ONE_PROCESS_STORE_BYTES = 256 * 1024**2


def quiet_ray() -> None:
    """Leaves to the command what Ray would print: a banner, warnings, failed trials' tracebacks."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def start_ray(
    algorithm: type[Algorithm], configs: Iterable[AlgorithmConfig], *, dashboard: bool = False
) -> None:
    """Calls `ray.init` as the place demands.

    Inside `ray job submit`, or with RAY_ADDRESS set, the cluster and the job's runtime
    environment stand already, and Ray refuses to be given either again. Otherwise a local Ray is
    started that has at least as many CPU slots as the largest trial asks for: slots are for
    scheduling, and two runners on one core are slow but sound.

    Raises:
        ValueError: A local machine has fewer GPUs than a trial asks for.
    """
    configs = list(configs)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune moves a trial into its own folder, where the relative paths of an example (its model, its
    # data) lead nowhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    cpus = max(_requested(algorithm, config, "CPU") for config in configs)
    gpus = max(_requested(algorithm, config, "GPU") for config in configs)
    is_one_process = all(
        config.num_env_runners == 0 and config.num_learners == 0 for config in configs
    )
    ray.init(
        num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
        object_store_memory=ONE_PROCESS_STORE_BYTES if is_one_process else None,
        include_dashboard=dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    found = ray.cluster_resources().get("GPU", 0.0)
    if gpus > found:
        raise ValueError(
            f"a trial asks for {gpus:g} GPUs (num_gpus_per_learner, num_gpus_per_env_runner), and "
            f"Ray sees {found:g} on this machine. Choose an example for the CPU, or lower the keys."
        )


def _requested(algorithm: type[Algorithm], config: AlgorithmConfig, resource: str) -> float:
    """How much of a resource one trial of the config asks for."""
    # The configs of a comparison belong to several algorithms.
    request = (config.algo_class or algorithm).default_resource_request(config)
    assert isinstance(request, PlacementGroupFactory), "RLlib asks for placement groups"
    return request.required_resources.get(resource, 0.0)
