"""Speed of the retrievers, and of many episodes against one over HTTP.

python benchmarks/retrieval.py bm25                         a full world in the process
python benchmarks/retrieval.py tantivy --passages 1000000   an index on disk over generated passages
python benchmarks/retrieval.py http --episodes 64           concurrent episodes against a server

Times are wall times; on a machine that does other work read the processor times.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from stepopsd_envs.bm25 import STOP_WORDS
from stepopsd_envs.search_qa.bm25 import BM25Index
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.http_client import HttpRetriever
from stepopsd_envs.search_qa.retriever import Retriever
from stepopsd_envs.search_qa.server import RetrievalServer
from stepopsd_envs.search_qa.tantivy_index import TantivyIndex, build_index
from stepopsd_envs.search_qa.tasks import generated_world, write_world

WORDS_A_PASSAGE, VOCABULARY, ZIPF_EXPONENT = 100, 400_000, 1.1
WORDS_A_QUERY, QUERIES, TOP_K = 8, 1000, 3
BM25_REPEATS = 7
THINKING_S = 0.05
GROUP_SIZE = 8
TURNS_AN_EPISODE = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("bm25", "tantivy", "http"))
    parser.add_argument("--passages", type=int, default=1_000_000, help="generated, for tantivy")
    parser.add_argument("--episodes", type=int, default=64, help="concurrent, for http")
    parser.add_argument("--folder", help="where the tantivy index goes; default: a temporary one")
    options = parser.parse_args()
    {"bm25": measure_bm25, "tantivy": measure_tantivy, "http": measure_http}[options.what](options)


def measure_bm25(options: argparse.Namespace) -> None:
    del options
    world, questions, _ = generated_world("full", 0)
    builds_s, processor_s = [], []
    for _ in range(BM25_REPEATS):
        started, processor = time.perf_counter(), time.process_time()
        index = BM25Index(world.passages)
        builds_s.append(time.perf_counter() - started)
        processor_s.append(time.process_time() - processor)
    print(
        f"{len(world.passages):,} passages indexed in {statistics.median(builds_s):.3f} s, "
        f"{statistics.median(processor_s):.3f} s of processor (medians)"
    )
    print(f"  question as query: {latencies(index, [question.text for question in questions])}")
    names = [question.lookups[0].subject for question in questions]
    print(f"  name as query:     {latencies(index, names)}")


def measure_tantivy(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="retrieval_benchmark_") as scratch:
        corpus = Path(scratch) / "corpus.jsonl"
        with corpus.open("w") as file:
            file.writelines(passage_lines(options.passages))
        folder = Path(options.folder or Path(scratch) / "index")
        wall, cpu = time.perf_counter(), time.process_time()
        build_index(corpus, folder)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        disk_MB = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        print(f"{options.passages:,} passages of {WORDS_A_PASSAGE} words, {size_MB(corpus):.0f} MB")
        print(f"  indexed in {wall:.0f} s, {cpu:.0f} s of processor; {disk_MB:.0f} MB on disk")
        started = time.perf_counter()
        index = TantivyIndex(str(folder))
        print(f"  opened in {time.perf_counter() - started:.3f} s")
        queries = random_queries()
        print(f"  first pass:  {latencies(index, queries)}")
        print(f"  second pass: {latencies(index, queries)}")


def measure_http(options: argparse.Namespace) -> None:
    """Plays episodes in threads against a server in the same process, with and without cache."""
    with tempfile.TemporaryDirectory(prefix="retrieval_benchmark_") as scratch:
        questions, _ = write_world("full", 0, scratch)
        server = RetrievalServer(generated_world("full", 0).retriever, port=0)
        server.start()
        for name, settings in (
            ("no cache, no batching", {"cache_size": 0, "max_batch": 1, "batch_window_s": 0.0}),
            ("no cache, batching", {"cache_size": 0}),
            ("cache and batching", {}),
        ):
            client = HttpRetriever([server.url], **settings)
            client.check()
            play_all(name, client, questions, options.episodes)
        server.shutdown()


def play_all(name: str, client: HttpRetriever, questions: Path, episodes: int) -> None:
    environments = [
        SearchQAEnv(data={"train": str(questions)}, retriever=client) for _ in range(episodes)
    ]
    tasks = environments[0].tasks("train")
    waiting_s: list[float] = []
    lock = threading.Lock()

    def play(number: int) -> None:
        env = environments[number]
        # A group shares its question, and its episodes mostly ask alike.
        observation, _ = env.reset(options={"task": tasks[number // GROUP_SIZE]})
        for turn in range(TURNS_AN_EPISODE):
            time.sleep(THINKING_S)  # the sampler's turn
            started = time.perf_counter()
            env.step(f"<search>{observation} {turn * (number % 2)}</search>")
            with lock:
                waiting_s.append(time.perf_counter() - started)
        env.close()

    started, processor_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(episodes) as pool:
        list(pool.map(play, range(episodes)))
    elapsed_s, processor_s = time.perf_counter() - started, time.process_time() - processor_s
    counts, asked = client.counts, client.batch_counts
    spent_s = sum(waiting_s)
    thinking_s = THINKING_S * TURNS_AN_EPISODE * episodes
    print(f"{name}: {episodes} episodes, {len(waiting_s)} searches in {elapsed_s:.2f} s")
    print(
        f"  {len(waiting_s) / elapsed_s:.0f} searches/s, {milliseconds(waiting_s)}, "
        f"{processor_s / len(waiting_s) * 1000:.2f} ms of processor, server included"
    )
    print(
        f"  waiting is {spent_s / (spent_s + thinking_s):.0%} of a turn in which the policy takes "
        f"{THINKING_S * 1000:.0f} ms"
    )
    print(
        f"  {counts.requests} requests, {counts.queries_sent / counts.requests:.1f} queries each; "
        f"{asked.cache_hits} cache hits, {asked.shared} joined an equal query under way"
    )


def latencies(retriever: Retriever, queries: list[str]) -> str:
    elapsed_s = []
    processor_s = time.process_time()
    for query in queries:
        started = time.perf_counter()
        retriever.search([query], TOP_K)
        elapsed_s.append(time.perf_counter() - started)
    processor_ms = (time.process_time() - processor_s) / len(queries) * 1000
    return f"{milliseconds(elapsed_s)}, {processor_ms:.2f} ms of processor"


def milliseconds(elapsed_s: list[float]) -> str:
    p50, p99 = np.percentile(elapsed_s, [50, 99]) * 1000
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def word(number: int) -> str:
    """A made-up word: the number in base 20, consonants and vowels in turn.

    The most frequent words are English stop words, as in natural text.
    """
    if number < len(STOP_WORDS):
        return sorted(STOP_WORDS)[number]
    letters = []
    while True:
        number, digit = divmod(number, 20)
        letters.append("bcdfghklmnprstvzjqwx"[digit] + "aeiou"[digit % 5])
        if number == 0:
            return "".join(letters)


def passage_lines(count: int) -> Iterator[str]:
    words = [word(number) for number in range(VOCABULARY)]
    draw = zipf(np.random.default_rng(0))
    block = 10_000
    for start in range(0, count, block):
        numbers = draw(min(block, count - start) * WORDS_A_PASSAGE).reshape(-1, WORDS_A_PASSAGE)
        for offset, row in enumerate(numbers):
            text = " ".join([words[number] for number in row])
            line = {"id": str(start + offset), "contents": f'"{words[row[0]]}"\n{text}'}
            yield json.dumps(line) + "\n"


def random_queries() -> list[str]:
    draw = zipf(np.random.default_rng(1))
    rows = draw(QUERIES * WORDS_A_QUERY).reshape(QUERIES, WORDS_A_QUERY)
    return [" ".join(word(number) for number in row) for row in rows]


def zipf(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Returns a sampler of word numbers whose frequency falls with rank as in natural text."""
    weights = np.arange(1, VOCABULARY + 1) ** -ZIPF_EXPONENT
    cumulated = np.cumsum(weights) / weights.sum()
    return lambda size: np.searchsorted(cumulated, rng.random(size))


def size_MB(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    sys.exit(main())
