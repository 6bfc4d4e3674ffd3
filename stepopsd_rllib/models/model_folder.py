"""Where a model lies: a user's folder, the hub's cache, or what the package brings."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.models.hub import hub_folder, is_hub_name
from stepopsd_rllib.models.smollm2 import SMOLLM2, smollm2_folder

EMBEDDED_MODEL = "tiny"


def model_folder(model: str, env: type[TextEnv]) -> str:
    """Folder of a model in the Hugging Face format.

    Args:
        model: A folder (`~` is the home folder), a name of the hub, `owner/name[@revision]`,
            "smollm2", or "tiny" for the embedded model.
        env: Class of the environment, which names its embedded model.

    Raises:
        ValueError: There is no such model, or no embedded one for the environment.
    """
    if model == SMOLLM2:
        return smollm2_folder()
    if model != EMBEDDED_MODEL:
        return _folder(model)
    if env.embedded_model is None:
        raise ValueError(
            f"config.model='tiny': {env.__name__} names no embedded model. Set "
            f"{env.__name__}.embedded_model, or give the folder of a Hugging Face model."
        )
    packaged = importlib.resources.files("stepopsd_rllib") / "tiny" / "weights"
    for path in (Path(env.embedded_model), Path(str(packaged)) / env.embedded_model):
        if (path / "config.json").is_file():
            return str(path)
    raise ValueError(
        f"config.model='tiny': {env.__name__}.embedded_model={str(env.embedded_model)!r} is "
        "neither the folder of a model nor the name of a packaged one."
    )


def _folder(model: str) -> str:
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return str(path)
    if not path.exists() and is_hub_name(model):
        return hub_folder(model)
    raise ValueError(
        f"config.model={model!r}: no Hugging Face model there (no config.json in that folder). "
        "Give the folder of one, a name of the Hugging Face hub (owner/name), or use model='tiny'."
    )
