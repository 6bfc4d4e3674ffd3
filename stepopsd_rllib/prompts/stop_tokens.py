"""The tokens with which a model folder says that a response ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What is generated with reads the first; where it is missing, the second.
_FILES = ("generation_config.json", "config.json")


def stop_ids_of_folder(folder: str) -> list[int]:
    """`eos_token_id` of the generation config, or without one of the model's config.

    Args:
        folder: Folder of the model; a name that is no folder has no such tokens.

    Raises:
        ValueError: The file is damaged, or the value is no token id and no list of them.
    """
    for name in _FILES:
        file = Path(folder) / name
        if not folder or not file.is_file():
            continue
        try:
            config: Any = json.loads(file.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{file}: not JSON ({error}). Copy the model's folder again."
            ) from None
        value = config.get("eos_token_id") if isinstance(config, dict) else None
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                raise ValueError(
                    f"{file}: eos_token_id={value!r} is no token id and no list of them. "
                    "Correct it, or delete the key."
                )
        if ids:
            return ids
    return []
