"""Speed, memory and players of WebShop. Times are those of the processor.

    python benchmarks/webshop.py                              generated shops
    python benchmarks/webshop.py --data FOLDER                official files, too
    python benchmarks/webshop.py --products 1180000           a large shop on disk alone (minutes)

A step is `env.step` with the message that follows it; players are mixed: a quarter of the episodes
by an expert, the rest at random.
"""

import argparse
import gc
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from stepopsd_envs.webshop import tasks
from stepopsd_envs.webshop.disk_shop import DiskShop, open_disk_shop
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.expert import FirstHitBuyer, ReadingShopper
from stepopsd_envs.webshop.generator import write_large_shop
from stepopsd_envs.webshop.official import find_files

MILLISECOND, MEGABYTE, GIGABYTE = 1e-3, 2**20, 1e9
ENVIRONMENTS = 128
STEPS = 20_000
EPISODES = 300
SEARCHES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="a folder with the official files")
    parser.add_argument("--products", type=int, help="size of a large shop to make and search")
    options = parser.parse_args()
    if options.products:
        measure_large(options.products)
        return
    measure_many()
    for size in ("tiny", "small", "full"):
        measure(f"generated, {size}", lambda size=size: WebShopEnv(size=size))
    if options.data:
        measure(options.data, lambda: WebShopEnv(data=options.data))


def resident_mb() -> float:
    """Memory of the process in MB, now and not at its peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def measure_many() -> None:
    """What 128 environments take beyond the shop that they share."""
    first = WebShopEnv(size="full")
    names = first.tasks("train")
    first.reset(options={"task": names[0]})
    gc.collect()
    tracemalloc.start()
    envs = [WebShopEnv(size="full") for _ in range(ENVIRONMENTS)]
    rng = random.Random(0)
    for env in envs:
        env.reset(options={"task": rng.choice(names)})
        env.step(f"<action>search[{env.goal.query}]</action>")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{ENVIRONMENTS} environments: {taken / MEGABYTE:.1f} MB beyond the catalogue")


def measure(name: str, make: Callable[[], WebShopEnv]) -> None:
    started = time.process_time()
    env = make()
    names = env.tasks("train")
    seconds = time.process_time() - started
    print(f"\n{name}: {len(names)} training goals in {seconds:.2f} s")
    per_step, per_reset = speed(env, names, random.Random(0))
    print(f"  {per_step / MILLISECOND:.3f} ms a step, {per_reset / MILLISECOND:.3f} ms a reset")
    players(make, names)


def speed(env: WebShopEnv, names: tuple[str, ...], rng: random.Random) -> tuple[float, float]:
    """Seconds a step and a reset; the median of ten parts, so that a neighbour does not count."""
    steps: list[float] = []
    resets: list[float] = []
    for _ in range(10):
        taken = reset_seconds = 0.0
        count = episodes = 0
        while count < STEPS / 10:
            started = time.process_time()
            observation, info = env.reset(options={"task": rng.choice(names)})
            reset_seconds += time.process_time() - started
            episodes += 1
            expert = ReadingShopper(env.goal) if rng.random() < 0.25 else None
            is_over = False
            while not is_over:
                action = choose(env, observation, info, expert, rng)
                started = time.process_time()
                observation, _, terminated, truncated, info = env.step(action)
                env.append_message(observation, info)
                taken += time.process_time() - started
                count += 1
                is_over = terminated or truncated
        steps.append(taken / count)
        resets.append(reset_seconds / episodes)
    return median(steps), median(resets)


def choose(
    env: WebShopEnv,
    observation: str,
    info: dict[str, Any],
    expert: ReadingShopper | None,
    rng: random.Random,
) -> str:
    if expert is not None:
        return f"<action>{expert.act(observation, env.clickables, info['action'])}</action>"
    if rng.random() < 0.2 or len(env.clickables) <= 1:
        words = info["instruction"].split()
        return f"<action>search[{' '.join(rng.sample(words, min(6, len(words))))}]</action>"
    return f"<action>click[{rng.choice(env.clickables)}]</action>"


def players(make: Callable[[], WebShopEnv], names: tuple[str, ...]) -> None:
    env = make()
    chosen = random.Random(1).sample(names, min(EPISODES, len(names)))
    solvable = [env.reset(options={"task": name})[1]["solvable"] for name in chosen]
    print(f"  won by an expert that knows the product: {sum(solvable) / len(chosen):.1%}")
    for player in (ReadingShopper, FirstHitBuyer):
        wins, scores = play(env, chosen, player)
        print(f"  {player.__name__}: success {wins:.1%}, mean score {scores:.3f}")


def play(env: WebShopEnv, names: list[str], player: type) -> tuple[float, float]:
    wins, scores = 0, 0.0
    for name in names:
        observation, info = env.reset(options={"task": name})
        reads = player is ReadingShopper
        buyer = player(env.goal if reads else info["instruction"])
        is_over = False
        while not is_over:
            seen = (observation, env.clickables, info["action"]) if reads else (env.clickables,)
            action = f"<think></think><action>{buyer.act(*seen)}</action>"
            observation, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
        wins += info["won"]
        scores += info["task_score"]
    return wins / len(names), scores / len(names)


def measure_large(products: int) -> None:
    """A shop of many products: written, turned into a shop on disk, opened, searched, played in."""
    with tempfile.TemporaryDirectory() as folder:
        written = stage(f"{products} products written", lambda: write_large_shop(products, folder))
        size = sum(path.stat().st_size for path in written)
        files = find_files(folder)
        shop = stage("turned into a shop on disk", lambda: open_disk_shop(files))
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.shop/**/*.*"))
        print(f"  files {size / GIGABYTE:.2f} GB, shop on disk {on_disk / GIGABYTE:.2f} GB")
        shop = stage("opened again", lambda: open_disk_shop(files))
        search_times(shop, random.Random(0))
        tasks.IN_MEMORY_BYTES = 0
        env = WebShopEnv(data=folder)
        names = stage("goals made and split", lambda: env.tasks("train"))
        print(f"  {len(names)} training goals")
        per_step, per_reset = speed(env, names, random.Random(0))
        print(f"  {per_step / MILLISECOND:.3f} ms a step, {per_reset / MILLISECOND:.3f} ms a reset")


def stage(name: str, work: Callable[[], Any]) -> Any:
    """Does a part of the work; prints processor seconds and memory of the process."""
    started = time.process_time()
    done = work()
    seconds = time.process_time() - started
    gc.collect()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name}: {seconds:.1f} s, {resident_mb():.0f} MB, {peak_mb:.0f} MB at the peak", flush=True
    )
    return done


def search_times(shop: DiskShop, rng: random.Random) -> None:
    """Searches with titles cut short, none of them twice."""
    seconds = []
    for number in rng.sample(range(len(shop)), min(SEARCHES, len(shop))):
        words = shop.product(number).name.split()
        query = " ".join(rng.sample(words, min(6, len(words))))
        started = time.process_time()
        shop.search(query)
        seconds.append(time.process_time() - started)
    at = [value / MILLISECOND for value in quantiles(seconds, n=100)]
    print(f"  a search of six words: {at[49]:.2f} ms, 99 % below {at[98]:.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
