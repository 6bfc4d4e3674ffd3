"""What stands in a checkpoint beside RLlib's pickles, so that it is whole and stands on its own.

    checkpoint_000003/
      ...                 RLlib's state: pickles, without the policy's weights
      shards/             of sharded learners: AdamW's moments and a teacher, a part a file
      model/              the policy in the Hugging Face format: safetensors, config, tokenizer
      stepopsd.json       which version wrote it, after how many iterations, with which success
      manifest.json       size and SHA-256 of every file above; written last

A folder without a manifest, or with one that does not fit, is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MODEL, DESCRIPTION, MANIFEST = "model", "stepopsd.json", "manifest.json"
FORMAT = 1
PACKAGE = "stepopsd-rllib"
PARTIAL = ".partial"
"""Ends the name of a folder that is being written."""

WEIGHTS = "model.safetensors"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")
_LARGEST_FILE_BYTES = 64 * 2**20
_READ_BYTES = 2**22
_OF_STORAGE = ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
_SETTINGS_NAMED = 3


def package_version() -> str:
    """Version of this package; "0" where it runs from a folder without being installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "0"


def small_files(folder: str | Path) -> dict[str, bytes]:
    """Everything of a model's folder but its weights: config, tokenizer, chat template, licence."""
    return {
        file.name: file.read_bytes()
        for file in sorted(Path(folder).iterdir())
        if file.is_file()
        and not file.name.endswith((*_WEIGHT_SUFFIXES, ".index.json"))
        and file.stat().st_size <= _LARGEST_FILE_BYTES
    }


def write_model(folder: Path, weights: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Writes a model in the Hugging Face format, float32.

    Args:
        folder: Made here.
        weights: Arrays or tensors by the names of the checkpoint format; of tensors that share
            memory (a tied head) the first is written.
        files: What `small_files` read. A generation config is not looked into: an odd one
            is the model's own.
    """
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    config = json.loads(files["config.json"])
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, weight in weights.items():
        tensor = torch.as_tensor(weight).detach()
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            seen.add(place)
            tensors[name] = tensor.cpu().float().contiguous()
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})


def write_manifest(folder: Path) -> None:
    """Writes down size and checksum of every file, as the last one."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    text = json.dumps({"format": FORMAT, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def damage(folder: Path, below: str = "") -> str | None:
    """What is wrong with a checkpoint; None for a whole one.

    Args:
        folder: The checkpoint.
        below: Only files whose name begins so; all by default.
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        expected = {
            str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()
        }
    except FileNotFoundError:
        return f"it was not written to its end (no {MANIFEST})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in expected.items():
        if not name.startswith(below):
            continue
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
        if _sha256(file) != digest:
            return f"{name} has changed (its checksum differs)"
    return None


def of_another_model(folder: Path, own: Mapping[str, bytes]) -> str | None:
    """How the model of a checkpoint differs from the one that a run trains; None for the same.

    Args:
        folder: The checkpoint.
        own: What `small_files` read of the run's model.
    """
    file = folder / MODEL / "config.json"
    found = _architecture(file.read_bytes()) if file.is_file() else None  # LoRA: an adapter alone
    expected = _architecture(own["config.json"])
    if found is None or found == expected:
        return None
    names = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
    texts = (f"{n}={found.get(n)!r}, not {expected.get(n)!r}" for n in names[:_SETTINGS_NAMED])
    return f"it is of another model ({'; '.join(texts)})"


def _architecture(content: bytes) -> dict[str, Any]:
    """A model's settings without those that say how it is stored."""
    settings = json.loads(content)
    return {key: value for key, value in settings.items() if key not in _OF_STORAGE}


def describe(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; {} where it does not."""
    try:
        found = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def put_in_place(written: Path, target: Path) -> None:
    """Gives a folder that was written aside its name; one that is there is replaced."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(written, target)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
