"""Whether the weights in a model's folder are what their files say they are."""

from __future__ import annotations

from pathlib import Path

_POINTER = b"version https://git-lfs"


def require_whole_weights(folder: str | Path) -> None:
    """Refuses weights that were cut, or whose place a Git-LFS pointer takes.

    Reads the headers alone: they say how long a file must be.

    Raises:
        ValueError: A file is damaged; with its name and what brings it back.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as content:
            is_pointer = content.read(len(_POINTER)) == _POINTER
        if is_pointer:
            raise ValueError(
                f"config.model={str(folder)!r}: {file.name} is a Git-LFS pointer, not the weights. "
                "Run `git lfs pull` there."
            )
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"config.model={str(folder)!r}: its weights are damaged ({file.name}: {error}). "
                "Copy or download that file again."
            ) from error
