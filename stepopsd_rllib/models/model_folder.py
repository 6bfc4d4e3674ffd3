"""Where a model lies: a user's folder, or the embedded model of an environment."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

EMBEDDED_MODEL = "tiny"
_EMBEDDED_MODEL_FOLDERS = {"ALFWorld": "alfworld", "SearchQA": "search_qa"}


def model_folder(model: str, env: str) -> str:
    """Folder of a model in the Hugging Face format.

    Args:
        model: A folder, or "tiny" for the embedded model.
        env: Id of the environment that an embedded model was made for.

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
    for name, folder in _EMBEDDED_MODEL_FOLDERS.items():
        if name in env:
            path = importlib.resources.files("stepopsd_rllib") / "tiny" / "weights" / folder
            if path.is_dir():
                return str(path)
    raise ValueError(
        f"config.model='tiny': there is no embedded model for env={env!r}, only for "
        f"{', '.join(_EMBEDDED_MODEL_FOLDERS)}. Give the folder of a Hugging Face model."
    )
