"""Where a model lies: a user's folder, or the embedded model of an environment."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from stepopsd_envs.text_env import TextEnv

EMBEDDED_MODEL = "tiny"


def model_folder(model: str, env: type[TextEnv]) -> str:
    """Folder of a model in the Hugging Face format.

    Args:
        model: A folder, or "tiny" for the embedded model.
        env: Class of the environment, which names its embedded model.

    Raises:
        ValueError: There is no such folder, or no embedded model for the environment.
    """
    if model != EMBEDDED_MODEL:
        if not (Path(model) / "config.json").is_file():
            raise ValueError(
                f"config.model={model!r}: no Hugging Face model there (no config.json in that "
                "folder). Download the model and give its folder, or use model='tiny'."
            )
        return model
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
