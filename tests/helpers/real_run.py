"""One run of Ray Tune, as `stepopsd train` makes it, for all tests that read what a run leaves."""

import importlib.util
import logging
import os
from pathlib import Path

import ray

from stepopsd_rllib.commands import storage, trackers, trials, tuned
from stepopsd_rllib.commands.run_file import TRAIN, Run, planned, write

ITERATIONS = 2
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml", "aim": "aim"}
EXAMPLE = {
    "run": "StepOPSD",
    "env": "stepopsd/ALFWorld-v0",
    "stop": {"training_iteration": ITERATIONS},
    "config": {
        "env_config": {
            "size": "tiny",
            "max_turns": 4,
            "think": "off",
            "instructions": False,
            "show_admissible_commands": False,
        },
        "model": "tiny",
        "sampler": "transformers",
        "max_response_tokens": 16,
        "max_context_tokens": 512,
        "groups_per_step": 2,
        "group_size": 2,
        "hindsight": "peer",
        "hindsight_max_tokens": 128,
        "credit_trace_interval": 1,
        "evaluation_interval": 1,
        "eval_num_tasks": 4,
    },
}


def make_real_run(folder: Path) -> Path:
    """Trains StepOPSD for two iterations; the run folder.

    Every tracker that is installed is told: wandb, Comet and Aim write into the run folder, MLflow
    into `mlruns` beside `runs`.
    """
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # a database needs more than mlflow-skinny
    log_to = {
        "wandb": "wandb:houses,mode=offline",
        "mlflow": f"mlflow:houses,tracking_uri={folder / 'mlruns'}",
        "comet": "comet:houses,online=false",
        "aim": "aim:houses",
    }
    installed = [name for name in TRACKERS if importlib.util.find_spec(TRACKERS[name])]
    example = tuned.checked(
        "houses.yaml", "houses", EXAMPLE | {"log_to": [log_to[name] for name in installed]}
    )
    trackers.require("log_to", example.log_to)
    where = storage.open_storage(str(folder / "runs"))
    name = storage.reserve(where, "houses", "houses")
    todo = Run(kind=TRAIN, trials=planned(example, [""]))
    write(where, name, todo)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    said: list[str] = []
    try:
        ended, _, _ = trials.run_trials(todo, where, name, said.append)
    finally:
        ray.shutdown()
        os.environ.pop("WANDB_MODE", None)
    assert [trial.status for trial in ended] == ["TERMINATED"], said
    assert not [line for line in said if "goes on without it" in line], said
    return folder / "runs" / name
