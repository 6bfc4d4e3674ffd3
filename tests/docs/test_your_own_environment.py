"""docs/your_own_environment.md, followed in a fresh project with `envs`, `utils` and `tests`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your_own_environment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
GAME = "".join(block for block in BLOCKS if block.startswith("# my_game.py"))
REST = [block for block in BLOCKS if not block.startswith("# my_game.py")]
[YAML] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
SECONDS = 300


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody else, whose packages have the usual names."""
    for name in ("envs", "utils", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWN = {name!r}\n")
    (tmp_path / "my_game.py").write_text(GAME, encoding="utf-8")
    return tmp_path


def run(project: Path, *arguments: str, typed: str = "") -> str:
    """What a command in the project prints; this checkout stands behind the project's modules."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (project, ROOT / "envs", ROOT))),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_block_runs_in_order_and_the_game_is_learnt(project: Path):
    own = "import envs, utils, tests\nassert (envs.OWN, utils.OWN) == ('envs', 'utils')\n"
    (project / "page.py").write_text("\n\n".join([own, *REST, own]), encoding="utf-8")
    printed = run(project, "page.py")
    rates = [int(rate) for rate in re.findall(r"success (\d+)%", printed)]
    assert len(rates) == 3
    assert 10 <= rates[0] <= 45, "about a quarter, as the page says"
    assert rates[-1] > rates[0]


def test_the_game_has_about_fifty_lines():
    lines = [line for line in GAME.splitlines() if line.strip() and not line.startswith("#")]
    assert 45 <= len(lines) <= 60


def test_the_yaml_file_trains_the_class_that_it_names(project: Path):
    (project / "my_game.py").write_text(
        f"{GAME}\n\nTreasureEnv.embedded_model = 'alfworld'\n", encoding="utf-8"
    )
    (project / "treasure.yaml").write_text(
        YAML.replace("/models/Qwen2.5-0.5B-Instruct", "tiny"), encoding="utf-8"
    )
    quick = ("--set", "sampler=transformers", "--set", "stop.training_iteration=1")
    printed = run(project, "-m", "stepopsd_cli", "train", "treasure.yaml", *quick)
    assert "my_game:TreasureEnv" in printed


def test_a_person_plays_the_game_with_bare_commands(project: Path):
    printed = run(
        project, "-m", "stepopsd_cli", "play", "my_game:TreasureEnv", typed="go to moon\nquit\n"
    )
    assert "Something shines on the" in printed and "Nothing happens." in printed


def test_stepopsd_envs_needs_neither_ray_nor_torch(tmp_path: Path):
    (tmp_path / "my_game.py").write_text(GAME, encoding="utf-8")
    script = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "torch", "transformers", "vllm", "stepopsd_rllib"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
import gymnasium
import stepopsd_envs
from my_game import TreasureEnv
stepopsd_envs.check_text_env(TreasureEnv())
for name in ("ALFWorld", "SearchQA"):
    env = gymnasium.make(f"stepopsd/{name}-v0")
    env.reset(seed=0)
    env.step("hello")
print(sorted(sys.modules.keys() & {"ray", "torch", "transformers"}))
"""
    assert run(tmp_path, "-c", script).strip() == "[]"
