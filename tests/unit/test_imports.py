"""The direction of imports, read from the sources, and what importing costs."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "stepopsd_rllib"
HELP_SECONDS = 3.0  # a plain Python start takes 0.1 s; importing Ray and torch takes seconds
# A part may import what stands before it here, and nothing that stands behind it.
ORDER = (
    "objectives",
    "config_keys",
    "environments",
    "episodes",
    "prompts",
    "models",
    "scoring",
    "teachers",
    "sampling",
    "rollout",
    "connectors",
    "evaluation",
    "report",
    "training",
    "algorithms",
    "tiny",
    "commands",
    # For comparison only: nothing of the package imports it.
    "reference",
)


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
    assert part in ORDER, f"{part} is a new part of the package: say in ORDER where it stands"
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith(PACKAGE + ".")}
    assert (ours & set(ORDER)) <= set(ORDER[: ORDER.index(part) + 1])


@pytest.mark.parametrize(
    "path", sources("envs/stepopsd_envs"), ids=lambda path: str(path.relative_to(ROOT))
)
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
    listing = run_python("-X", "importtime", "-m", "stepopsd_cli", "--help")
    assert time.monotonic() - began < HELP_SECONDS
    assert "tuned example" in listing
    script = (
        "import sys, stepopsd_cli\n"
        "stepopsd_cli.parser()\n"
        "print({'ray', 'torch', 'stepopsd_rllib'} & set(sys.modules))\n"
    )
    assert run_python("-c", script).strip() == "set()"


def test_no_two_modules_import_each_other():
    graph = {}
    for folder in (PACKAGE, "envs/stepopsd_envs"):
        base = ROOT if folder == PACKAGE else ROOT / "envs"
        for path in sources(folder):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            graph[name.removesuffix(".__init__")] = imported_modules(path)
    for name, imported in graph.items():
        # A part of a package is reached through the package, which may import its parts.
        graph[name] = {
            other for other in imported & set(graph) if not f"{name}.".startswith(f"{other}.")
        }
    while leaves := [name for name, imported in graph.items() if not imported]:
        for name in leaves:
            del graph[name]
        for imported in graph.values():
            imported.difference_update(leaves)
    assert not graph, "modules in a circle, or above one"


GENERAL_PARTS = (
    *("objectives", "episodes", "prompts", "models", "scoring", "teachers", "sampling", "rollout"),
    *("connectors", "evaluation", "training", "algorithms"),
)


@pytest.mark.parametrize("part", GENERAL_PARTS)
def test_methods_ask_an_environment_and_never_know_one_by_name(part: str):
    named = re.compile("alfworld|web.?shop|search.?qa|search-r1", re.IGNORECASE)
    for path in sources(f"{PACKAGE}/{part}"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        # What a paper set for which environment is told by `stepopsd keys`, and by nothing else.
        told |= {id(n.value) for n in nodes if isinstance(n, ast.keyword) and n.arg == "paper"}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert id(node) in told or not named.search(node.value), (path, node.lineno)


def test_training_does_not_wait_for_what_only_reports_need():
    script = (
        "import sys, stepopsd_rllib.commands.training_run\n"
        "print({'openai', 'scipy.stats', 'statsmodels', 'matplotlib.figure'} & set(sys.modules))\n"
    )
    assert run_python("-c", script).strip() == "set()"
