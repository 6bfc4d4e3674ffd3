"""The direction of imports, read from the sources, and what importing costs."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "stepopsd_rllib"
HELP_SECONDS = 3.0  # a plain Python start takes 0.1 s; importing Ray and torch takes seconds
ALLOWED = {
    "objectives": set(),
    "episodes": set(),
    "failures": set(),
    "intervals": set(),
    "key_checks": set(),
    "report": {"intervals"},
    "prompts": {"episodes"},
    "modules": {"objectives", "episodes", "prompts", "hindsight"},
    "hindsight": {"episodes", "prompts", "key_checks"},
    "rollout": {"episodes", "prompts", "modules", "hindsight"},
    "rescoring": {"episodes", "modules"},
    "evaluation": {"episodes", "intervals"},
    "metric_sums": {"objectives"},
    "connectors": {
        "objectives",
        "episodes",
        "prompts",
        "modules",
        "rollout",
        "hindsight",
        "rescoring",
    },
}
ALLOWED["learner"] = ALLOWED["connectors"] | {"connectors", "metric_sums"}
ALLOWED["algorithms"] = ALLOWED["learner"] | {"learner", "evaluation", "key_checks"}
COMMANDS = {
    "tuned",
    "progress",
    "ray_start",
    "training_run",
    "checkpoints",
    "play",
    "comparison",
    "cli",
}
for _command in COMMANDS:
    ALLOWED[_command] = ALLOWED["algorithms"] | {"algorithms", "failures", "report"} | COMMANDS


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


class _WithoutTypingImports(ast.NodeTransformer):
    """Drops what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(_WithoutTypingImports().visit(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in ALLOWED, f"{part} is a new part of the package: say here what it may import"
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith(PACKAGE + ".")}
    assert ours & set(ALLOWED) <= ALLOWED[part] | {part}


@pytest.mark.parametrize("path", sources("envs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_environments_import_nothing_of_the_package(path: Path):
    assert not any(name.split(".")[0] == PACKAGE for name in imported_modules(path))


def test_objectives_import_nothing_but_torch_and_python():
    allowed = {"torch", PACKAGE, *sys.stdlib_module_names}
    for path in sources(f"{PACKAGE}/objectives"):
        assert {name.split(".")[0] for name in imported_modules(path)} <= allowed, path


def run_python(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_importing_the_package_registers_algorithms_and_loads_no_vllm():
    script = (
        "import sys, stepopsd_rllib\n"
        "from ray.tune.registry import get_trainable_cls\n"
        "assert get_trainable_cls('GRPO') is stepopsd_rllib.GRPO\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'vllm'))\n"
    )
    assert run_python("-c", script).strip() == "[]"


def test_help_answers_before_anything_heavy_is_imported():
    began = time.monotonic()
    listing = run_python("-X", "importtime", "-m", "stepopsd", "--help")
    assert time.monotonic() - began < HELP_SECONDS
    assert "tuned example" in listing
    script = (
        "import sys, stepopsd\n"
        "stepopsd.parser()\n"
        "print({'ray', 'torch', 'stepopsd_rllib'} & set(sys.modules))\n"
    )
    assert run_python("-c", script).strip() == "set()"
