"""Models of the Hugging Face hub: from `owner/name[@revision]` to a folder in the local cache.

The download, its cache, the token and the offline mode are those of `huggingface_hub`
(`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

# What a causal language model and its tokenizer are read from; never Python code.
_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken"]
# Copies in other layouts, which some repositories carry beside the model.
_OTHER_COPIES = ["original/*", "onnx/*", "*/*.onnx", "consolidated*.safetensors"]

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_hub_name(model: str) -> bool:
    """Whether a text has the form `owner/name` or `owner/name@revision`."""
    return _NAME.fullmatch(model) is not None


@functools.cache
def hub_folder(model: str) -> str:
    """The local folder of a model of the hub; downloads what is not there, with a progress bar.

    Args:
        model: `owner/name`, or `owner/name@revision` with a branch, tag or commit.

    Raises:
        ValueError: The model is not on the hub, needs a licence to be accepted, or can neither be
            reached nor found in the cache.
    """
    from huggingface_hub import errors, snapshot_download

    found = _NAME.fullmatch(model)
    assert found is not None, model
    repository, revision = found["repository"], found["revision"]
    asked = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=_FILES, ignore_patterns=_OTHER_COPIES
        )
    except errors.GatedRepoError as error:
        raise ValueError(
            f"config.model={model!r}: the owner gives this model only to those who accept its "
            f"terms. Accept them at https://huggingface.co/{repository} and log in (`hf auth "
            "login`, or HF_TOKEN)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"config.model={model!r}: {repository} has no branch, tag or commit {revision!r}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"config.model={model!r}: neither a folder here nor a model of the Hugging Face hub "
            "that this account can see. Correct the name, or log in (`hf auth login`)."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ValueError(
            f"config.model={model!r}: no such folder, not in the Hugging Face cache, and the hub "
            f"cannot be reached. Where there is a network, run `{asked}` (it fills the cache; with "
            "--local-dir DIR, give model=DIR)."
        ) from error
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"config.model={model!r}: {repository} is no model in the Hugging Face format (it has "
            f"no config.json). If it was downloaded in part, run `{asked}` again."
        )
    return folder


def pinned(model: str) -> str:
    """A hub name with the commit that it means now; any other model as it is.

    A run writes this name down, so that going on with it reads the same weights, and every node
    resolves its own copy of them.
    """
    if Path(model).expanduser().is_dir() or not is_hub_name(model):
        return model
    commit = Path(hub_folder(model)).name  # huggingface_hub keeps a snapshot under its commit
    return f"{model.partition('@')[0]}@{commit}"
