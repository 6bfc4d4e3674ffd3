"""`log_to`: results sent to W&B, MLflow, Comet or Aim by Ray Tune's own callbacks.

One text names one tracker, what it is to call the experiment, and settings where they are needed:

    wandb:PROJECT                              WANDB_MODE=offline, or wandb:PROJECT,mode=offline
    mlflow:EXPERIMENT,tracking_uri=http://...  without it, MLflow's own default
    comet:PROJECT,online=false
    aim:EXPERIMENT,repo=/shared/aim

Keys and tokens are read where each client reads them (`wandb login`, `MLFLOW_TRACKING_TOKEN`,
`COMET_API_KEY`): no secret stands in a run's files. What a tracker writes on this machine lies in
the run folder. A tracker that fails does not end a run: `result.json` has every value.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from stepopsd_rllib.commands.failures import one_line
from stepopsd_rllib.commands.stop_keys import nearest

_NO_KEY = "No WandB API key found"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A tracker that Ray Tune has a callback for.

    Attributes:
        module: What is imported.
        pip: What pip installs.
        settings: Names that may stand behind the experiment's.
    """

    module: str
    pip: str
    settings: tuple[str, ...]


SERVICES: Mapping[str, Service] = {
    "wandb": Service(module="wandb", pip="wandb", settings=("entity", "group", "mode")),
    # The whole of MLflow wants an older pandas than this package is tested with.
    "mlflow": Service(module="mlflow", pip="mlflow-skinny", settings=("tracking_uri",)),
    "comet": Service(module="comet_ml", pip="comet-ml", settings=("workspace", "online")),
    "aim": Service(module="aim", pip="aim", settings=("repo",)),
}
CHOICES = {"mode": ("online", "offline"), "online": ("true", "false")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One tracker as a person named it.

    Attributes:
        text: The whole text.
        service: Key of `SERVICES`.
        experiment: Project or experiment there.
        settings: What stands behind it.
    """

    text: str
    service: str
    experiment: str
    settings: Mapping[str, str]


def parse(where: str, value: Any) -> list[Target]:
    """The trackers that a text, or a list of texts, names.

    Args:
        where: What messages begin with: an option, or a key of a file.
        value: Of the key `log_to`.

    Raises:
        ValueError: An unknown tracker or setting, or no name for the experiment.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}={value!r}: is no text. Write wandb:PROJECT, or a list of such.")
    targets = [_target(where, text) for text in texts]
    names = [target.service for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}={value!r}: {name} is named twice. Keep one.")
    return targets


def require(where: str, log_to: Sequence[str]) -> None:
    """Says before Ray starts what would keep a tracker from being told.

    Raises:
        ValueError: A package is not installed, there is no key, or a server does not answer.
    """
    for target in parse(where, log_to):
        service = SERVICES[target.service]
        if importlib.util.find_spec(service.module) is None:
            raise ValueError(
                f"{where}={target.text!r}: the package {service.pip} is not installed. "
                f"pip install {service.pip}"
            )
        try:
            with _few_retries():
                _callback(target, Path.cwd()).setup()
                _require_key(target)
        except Exception as error:  # the client's own, of any kind
            reason = one_line(str(error)).rstrip(".")
            if _NO_KEY in reason:
                reason = "there is no API key"
            raise ValueError(
                f"{where}={target.text!r}: {reason}. {_ADVICE[target.service]}"
            ) from error


def callbacks(
    log_to: Sequence[str], folder: Path, write: Callable[[str], None]
) -> list[tune.Callback]:
    """A Tune callback for each tracker.

    Args:
        log_to: As `parse` takes it.
        folder: The run folder, or where a tracker writes if that is not on this machine.
        write: Told when a tracker fails.
    """
    return [
        Guarded(_callback(target, folder), target.service, write)
        for target in parse("log_to", log_to)
    ]


class Guarded(tune.Callback):
    """A tracker's callback that cannot end a run.

    What it raises is said once, and the run goes on without it: the clients try again by
    themselves before they raise.
    """

    def __init__(self, tracker: tune.Callback, name: str, write: Callable[[str], None]):
        """Takes the callback, what it is called, and who is told when it fails."""
        self._tracker: tune.Callback | None = tracker
        self._name = name
        self._write = write

    def setup(self, *args: Any, **info: Any) -> None:
        """Passed on."""
        self._tell("setup", *args, **info)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Passed on."""
        self._tell("on_trial_start", iteration, trials, trial, **info)

    def on_trial_restore(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Passed on."""
        self._tell("on_trial_restore", iteration, trials, trial, **info)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Passed on, without the lists of a result (no tracker draws them) and its config."""
        kept = {key: value for key, value in _without_lists(result).items() if key != "config"}
        self._tell("on_trial_result", iteration, trials, trial, kept, **info)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Passed on."""
        self._tell("on_trial_complete", iteration, trials, trial, **info)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Passed on."""
        self._tell("on_trial_error", iteration, trials, trial, **info)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Passed on."""
        self._tell("on_experiment_end", trials, **info)

    def _tell(self, hook: str, *args: Any, **info: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, hook)(*args, **info)
        except Exception as error:  # a client's own, of any kind: a run is worth more
            self._tracker = None
            self._write(
                f"{self._name}: {type(error).__name__}: {one_line(str(error))}. The run goes on "
                "without it; result.json has every value."
            )


def _without_lists(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_lists(value) if isinstance(value, Mapping) else value
        for key, value in result.items()
        if not isinstance(value, (list, tuple))
    }


def _target(where: str, text: str) -> Target:
    service, colon, rest = text.partition(":")
    if service not in SERVICES:
        raise ValueError(
            f"{where}={text!r}: is no tracker. Write "
            f"{', '.join(f'{name}:NAME' for name in SERVICES)}{nearest(service, SERVICES) or '.'}"
        )
    experiment, *pairs = rest.split(",")
    if not colon or not experiment.strip():
        raise ValueError(f"{where}={text!r}: names no project. Write {service}:PROJECT.")
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        known = SERVICES[service].settings
        if not equals or key not in known:
            raise ValueError(
                f"{where}={text!r}: {pair!r} is no setting of {service}. "
                f"Write {', '.join(f'{name}=...' for name in known)}{nearest(key, known) or '.'}"
            )
        if value not in CHOICES.get(key, (value,)):
            raise ValueError(f"{where}={text!r}: {key} is one of {', '.join(CHOICES[key])}.")
        settings[key] = value
    return Target(text=text, service=service, experiment=experiment.strip(), settings=settings)


@contextmanager
def _few_retries() -> Iterator[None]:
    """A server that does not answer is noticed in seconds; during a run the client is patient."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RETRIES]
        else:
            os.environ[_RETRIES] = before


def _require_key(target: Target) -> None:
    """Refuses Comet without a key: its callback asks for one when a trial starts."""
    if target.service == "comet" and target.settings.get("online") != "false":
        comet_config = importlib.import_module("comet_ml.config")
        if comet_config.get_api_key(None, comet_config.get_config()) is None:
            raise ValueError("there is no API key")


_ADVICE = {
    "wandb": "Run `wandb login`, or write wandb:PROJECT,mode=offline.",
    "mlflow": "Check tracking_uri (MLFLOW_TRACKING_URI where it is not written).",
    "comet": "Set COMET_API_KEY, or write comet:PROJECT,online=false.",
    "aim": "Check repo.",
}


def _callback(target: Target, folder: Path) -> tune.Callback:
    return _MAKE[target.service](target, folder)


def _wandb(target: Target, folder: Path) -> tune.Callback:
    from stepopsd_rllib.commands.wandb_results import WandbResults

    mode = target.settings.get("mode", os.environ.get("WANDB_MODE", "online"))
    # Ray's callback asks for a key unless the variable says that none is needed.
    os.environ["WANDB_MODE"] = mode
    settings: dict[str, Any] = {**target.settings, "mode": mode, "dir": str(folder)}
    return WandbResults(project=target.experiment, **settings)


def _mlflow(target: Target, folder: Path) -> tune.Callback:
    from stepopsd_rllib.commands.mlflow_results import MLflowResults

    return MLflowResults(
        target.settings.get("tracking_uri"),
        experiment_name=target.experiment,
        tags={"run_folder": str(folder)},
    )


def _comet(target: Target, folder: Path) -> tune.Callback:
    from ray.air.integrations.comet import CometLoggerCallback

    # Results, and not the code of whoever trains; no page of statistics in the terminal.
    settings: dict[str, Any] = {**target.settings, "log_code": False, "display_summary_level": 0}
    online = settings.pop("online", "true") == "true"
    if not online:
        settings["offline_directory"] = str(folder / "comet")
    return CometLoggerCallback(
        online=online, tags=[folder.name], project_name=target.experiment, **settings
    )


def _aim(target: Target, folder: Path) -> tune.Callback:
    from ray.tune.logger.aim import AimLoggerCallback

    return AimLoggerCallback(
        repo=target.settings.get("repo", str(folder)), experiment_name=target.experiment
    )


_MAKE: Mapping[str, Callable[[Target, Path], tune.Callback]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "comet": _comet,
    "aim": _aim,
}
