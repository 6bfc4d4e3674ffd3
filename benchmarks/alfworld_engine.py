"""Speed, memory and truth of the fast ALFWorld engine. Times are those of the processor.

python benchmarks/alfworld_engine.py                    speed and memory, fast and real engine
python benchmarks/alfworld_engine.py --differential     the two engines side by side (minutes)
python benchmarks/alfworld_engine.py --walkthroughs     all walkthroughs of the published set

Published games are read from --official (a folder with json_2.1.1; STEPOPSD_ALFWORLD_OFFICIAL) and,
packed, from --archive (json_2.1.1.tar.xz; STEPOPSD_ALFWORLD_ARCHIVE).
"""

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stepopsd_envs.alfworld.comparison import compare_engines
from stepopsd_envs.alfworld.engine import Engine, FastEngine
from stepopsd_envs.alfworld.game import Game, load_game, parse_game
from stepopsd_envs.alfworld.generator import generated_tasks, write_games
from stepopsd_envs.alfworld.textworld_engine import TextWorldEngine

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MICROSECOND, MEGABYTE = 1e-6, 2**20
ENVIRONMENTS = 128
STEPS_A_GAME = 40
REAL_ENGINE_GAMES = 5


def main() -> None:
    options = parse_arguments()
    if options.walkthroughs:
        sys.exit(play_walkthroughs(Path(options.archive)))
    official = sorted(Path(options.official).glob("json_2.1.1/**/game.tw-pddl"))
    if not official:
        sys.exit(f"--official={options.official}: no json_2.1.1/**/game.tw-pddl in it.")
    if options.differential:
        sys.exit(compare(official, steps=options.steps, seed=options.seed))
    measure_many(official)  # first, while the process is small
    measure_speed(official)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--differential", action="store_true", help="compare with the real engine")
    mode.add_argument("--walkthroughs", action="store_true", help="play the packed official set")
    parser.add_argument("--steps", type=int, default=3000, help="commands to compare")
    parser.add_argument("--seed", type=int, default=0, help="of the comparison")
    data = {
        "official": ("STEPOPSD_ALFWORLD_OFFICIAL", SHARED_DATA / "alfworld_real"),
        "archive": (
            "STEPOPSD_ALFWORLD_ARCHIVE",
            SHARED_DATA / "alfworld_official" / "json_2.1.1.tar.xz",
        ),
    }
    for name, (variable, default) in data.items():
        parser.add_argument(f"--{name}", default=os.environ.get(variable, default), help="data")
    return parser.parse_args()


def compare(official: Sequence[Path], *, steps: int, seed: int) -> int:
    """Compares the engines on official and generated games in turn; 1 if they differ."""
    with tempfile.TemporaryDirectory() as folder:
        generated = write_games(folder, sample_of_generated_tasks(seed))
        paths = [*official, *generated]
        steps_a_game = -(-steps // len(paths))
        verbs: Counter[str] = Counter()
        played = wins = 0
        differences: list[str] = []
        began = time.process_time()
        for path in paths:
            real = TextWorldEngine(path)
            game = load_game(path)
            result = compare_engines(game, FastEngine(game), real, steps=steps_a_game, seed=seed)
            real.close()
            played, wins, verbs = played + result.steps, wins + result.wins, verbs + result.verbs
            print(f"{played} steps, {len(differences)} differences", end="\r", file=sys.stderr)
            if result.difference:
                differences.append(result.difference)
                print(f"DIFFERENCE {result.difference}", flush=True)
    executed = ", ".join(f"{verb or '(nothing happens)'} {n}" for verb, n in verbs.most_common())
    print(f"{played} steps on {len(official)} published and {len(generated)} generated games:")
    print(executed)
    print(f"episodes won: {wins}; {time.process_time() - began:.0f} s")
    print(f"differences in text, admissible commands or won: {len(differences)}")
    return bool(differences)


def sample_of_generated_tasks(seed: int) -> list[str]:
    """One task of every size and task type, of any split."""
    rng = random.Random(seed)
    tasks = {
        (task.split("/")[1], task.split("/")[3]): task
        for size in ("tiny", "small", "full")
        for split in ("train", "valid_seen", "valid_unseen")
        for task in rng.sample(generated_tasks(size, split), k=60)
    }
    return [tasks[key] for key in sorted(tasks)]


def play_walkthroughs(archive: Path) -> int:
    """Plays every published game to its end; 1 if one is not won."""
    lost: list[str] = []
    games = 0
    began = time.process_time()
    playing = 0.0
    memory: list[float] = []
    for data, name in archived_games(archive):
        start = time.process_time()
        game = parse_game(data, name)
        engine = FastEngine(game)
        won = [engine.step(command).won for command in game.walkthrough or ()]
        playing += time.process_time() - start
        if not won or not won[-1]:
            lost.append(name)
        games += 1
        if games % 500 == 0:
            gc.collect()
            memory.append(resident_memory())
    print(
        f"{games - len(lost)} of {games} walkthroughs win; parsed and played in {playing:.1f} s CPU"
    )
    print(f"with unpacking and JSON {time.process_time() - began:.1f} s CPU")
    megabytes = ", ".join(f"{m:.1f}" for m in memory)
    print(f"memory of the process after every 500 different games, MB: {megabytes}")
    return bool(lost) or not games


def archived_games(archive: Path) -> Iterator[tuple[dict[str, object], str]]:
    with tarfile.open(archive, "r|xz") as files:
        for member in files:
            content = files.extractfile(member) if member.name.endswith("game.tw-pddl") else None
            if content is not None:
                yield json.load(content), member.name
            files.members.clear()  # type: ignore[attr-defined]  # else it remembers every member


def measure_speed(official: Sequence[Path]) -> None:
    """Median times of one engine, and how many times slower the real one is."""
    fast = {
        "load": [seconds(lambda path=path: load_game(path)) for path in official for _ in range(5)],
        **times_of([(FastEngine(game), game) for game in map(load_game, official)], episodes=20),
    }
    real_games = official[:: max(1, len(official) // REAL_ENGINE_GAMES)][:REAL_ENGINE_GAMES]
    real: dict[str, list[float]] = {"load": []}
    engines: list[tuple[Engine, Game]] = []
    for path in real_games:
        began = time.process_time()
        engine = TextWorldEngine(path)
        real["load"].append(time.process_time() - began)
        engines.append((engine, load_game(path)))
    real |= times_of(engines, episodes=1)
    print(
        f"{'median':<10}{'fast':>12}{'real':>14}{'ratio':>10}   ({len(official)} published games)"
    )
    for what, times in fast.items():
        quick, slow = statistics.median(times), statistics.median(real[what])
        print(
            f"{what:<10}{quick / MICROSECOND:>9.1f} us{slow * 1e3:>11.1f} ms{slow / quick:>10.0f}"
        )


def times_of(engines: Sequence[tuple[Engine, Game]], *, episodes: int) -> dict[str, list[float]]:
    rng = random.Random(0)
    resets: list[float] = []
    steps: list[float] = []
    for engine, _ in engines:
        for _ in range(episodes):
            resets.append(seconds(engine.reset))
            commands = engine.reset().admissible_commands
            for _ in range(STEPS_A_GAME):
                command = rng.choice(commands)
                began = time.process_time()
                commands = engine.step(command).admissible_commands
                steps.append(time.process_time() - began)
    return {"reset": resets, "step": steps}


def measure_many(official: Sequence[Path]) -> None:
    """Turn time and memory of many environments in one process, each with a game of its own."""
    before = resident_memory()
    games = [load_game(official[i % len(official)]) for i in range(ENVIRONMENTS)]
    engines = [FastEngine(game) for game in games]
    reset_all = seconds(lambda: [engine.reset() for engine in engines])
    rng = random.Random(0)
    commands = [engine.reset().admissible_commands for engine in engines]
    turns: list[float] = []
    for _ in range(200):
        chosen = [rng.choice(possible) for possible in commands]
        began = time.process_time()
        replies = [engine.step(command) for engine, command in zip(engines, chosen, strict=True)]
        turns.append(time.process_time() - began)
        commands = [reply.admissible_commands for reply in replies]
    grown = resident_memory() - before
    print(
        f"{ENVIRONMENTS} environments, each with its own parsed game: turn "
        f"{statistics.median(turns) * 1e3:.2f} ms, reset of all {reset_all * 1e3:.2f} ms, "
        f"{grown:.1f} MB (process {before + grown:.1f} MB)"
    )


def seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def resident_memory() -> float:
    """Memory of this process, MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


if __name__ == "__main__":
    main()
