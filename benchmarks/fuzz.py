"""What the environments make of nonsense: no crash, no hang, one named status each.

python benchmarks/fuzz.py outputs --count 100000   what a policy may write, through every protocol
python benchmarks/fuzz.py games --count 1000       damaged game files
python benchmarks/fuzz.py rows --count 500         damaged files of questions and of a corpus, each

Everything follows from `--seed`. Prints how often each status came and the slowest case; ends with
an error at the first crash, at a case beyond its time, or at a refusal of more than one line.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stepopsd_envs.alfworld.engine import FastEngine
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.alfworld.game import load_game
from stepopsd_envs.alfworld.generator import generated_tasks, write_games
from stepopsd_envs.search_qa.corpus import read_corpus
from stepopsd_envs.search_qa.dataset import read_questions
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.tasks import write_world
from stepopsd_envs.text_env import HistoryTurn, TextEnv

CASE_S = 5.0  # longest time of one case, processor seconds
MEGABYTE = 2**20
LONG_EVERY = 1_000  # so many outputs, one has a megabyte
GAMES, COMMANDS_A_GAME = 12, 6

TAGS = ("think", "action", "search", "answer", "information", "THINK", "Action", "SEARCH")
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "[INST]", "<start_of_turn>")
ODD = (
    "\u202e",  # right-to-left override
    "\u200f",  # right-to-left mark
    "\u2066",  # isolate
    "\u2028",
    "\x00",
    "\x1b[31m",
    "\ufdd0",
    "\ud83d",  # half a surrogate pair
    "\U0001f600",
    "İ",  # longer in lower case
    "中文",
    "e\u0301",
    "\ufeff",
    "&lt;action&gt;",
    "{}{0}%s",
    "\\1\\",
)
WORDS = (
    "look",
    "go to desk 1",
    "open fridge 1",
    "inventory",
    "take mug 1 from desk 1",
    "who",
    "42",
)


def outputs(seed: int, count: int) -> Iterator[str]:
    """What a policy may write: tags nested, unclosed, doubled and in disorder, control tokens."""
    draw = random.Random(seed)
    for number in range(count):
        text = _output(draw, depth=0)
        if number % LONG_EVERY == LONG_EVERY - 1:
            piece = text or "<search>"
            text = (piece * (MEGABYTE // len(piece) + 1))[:MEGABYTE]
        yield text


def _output(draw: random.Random, depth: int) -> str:
    kind = draw.random()
    if depth > 4 or kind < 0.12:
        return ""
    if kind < 0.32:
        return draw.choice(WORDS)
    if kind < 0.45:
        return draw.choice(ODD + CONTROL)
    tag = draw.choice(TAGS)
    inside = _output(draw, depth + 1)
    shape = draw.randrange(9)
    if shape < 3:
        return f"<{tag}>{inside}</{tag}>" + (_output(draw, depth + 1) if shape else "")
    if shape == 3:
        return f"<{tag}>{inside}"
    if shape == 4:
        return f"{inside}</{tag}>"
    if shape == 5:
        return f"</{tag}>{inside}<{tag}>"
    if shape == 6:
        return f"<{tag}>{inside}</{draw.choice(TAGS)}>"
    if shape == 7:
        return f"<{tag}{draw.choice((' x=1>', '', '>', ' >'))}{inside}</{tag}>" * draw.randrange(4)
    return "".join(_output(draw, depth + 1) for _ in range(draw.randrange(2, 5)))


def environments() -> dict[str, TextEnv]:
    """Both environments under both protocols."""
    return {
        "ALFWorld, growing chat": ALFWorldEnv(think="required"),
        "ALFWorld, window": ALFWorldEnv(think="optional", instructions=False),
        "Search-QA, append": SearchQAEnv(protocol="append"),
        "Search-QA, window": SearchQAEnv(protocol="window", max_turns=6),
    }


class Player:
    """Plays one environment with any texts, a new episode whenever one has ended."""

    def __init__(self, env: TextEnv):
        """Begins the first episode."""
        self._env = env
        self._episodes = 0
        self._begin()

    def status_of(self, output: str) -> str:
        """Plays an output; what came of it, in words."""
        observation, reward, terminated, truncated, info = self._env.step(output)
        assert isinstance(observation, str) and isinstance(info["action"], str)
        assert type(info["is_action_valid"]) is bool and reward in (0.0, 1.0)
        assert not (terminated and truncated)
        if not terminated and not truncated:
            turn = HistoryTurn(index=0, observation=observation, action=info["action"])
            for message in (
                self._env.append_message(observation, info),
                self._env.window_message([turn], observation, info),
            ):
                assert isinstance(message, str)
        status = "kept to the format" if info["is_action_valid"] else "broke the format"
        status += ", acted" if info["action"] else ", no action"
        if terminated or truncated:
            status += {True: ", won", False: ", lost"}[bool(info["won"])] if terminated else ", end"
            self._begin()
        return status

    def _begin(self) -> None:
        self._env.reset(seed=self._episodes)
        self._episodes += 1


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A file as it comes out of a broken copy, another editor, or a careless hand."""
    at, other = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    lines = data.splitlines(keepends=True)
    line = draw.randrange(len(lines))
    text = data.decode("utf-8")
    values = ("null", "[]", "{}", "-1", "1e999", '"x"', "true", "NaN", '"\\ud83d"', "[[[[")
    return draw.choice(
        (
            lambda: data[:at],
            lambda: data[:at] + data[other:],
            lambda: data[:at] + data[at + draw.randrange(1, 40) :],
            lambda: _with_swapped_words(text, draw).encode(),
            lambda: data[:at] + bytes(draw.randrange(1, 9)) + data[other:],
            lambda: data[:at] + draw.randbytes(4) + data[at + 4 :],
            lambda: data[:at] + "\udcff".encode("utf-8", "surrogatepass") + data[at:],
            lambda: b"".join([*lines[:line], *lines[line + 1 :]]),
            lambda: b"".join([*lines, lines[line]]),
            lambda: b"\n\n" + data.replace(b"\n", b"\r\n"),
            lambda: b"\xef\xbb\xbf" + data,
            lambda: text.encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-7"))),
            lambda: text.replace("e", "é").encode("latin-1", "replace"),
            lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            lambda: b"",
            lambda: b"[" * 50_000,
            lambda: data.replace(b'"', b"'", 3),
            lambda: _with_value(text, draw.choice(values), draw).encode("utf-8", "surrogatepass"),
            lambda: _without_word(text, draw).encode(),
            lambda: text.replace("(", "((", 1).encode(),
        )
    )()


def _with_value(text: str, value: str, draw: random.Random) -> str:
    """The text with another value at one of its keys."""
    colons = [i for i, character in enumerate(text) if character == ":"] or [0]
    at = draw.choice(colons)
    end = min((i for i in (text.find(c, at) for c in ",}\n") if i >= 0), default=len(text))
    return f"{text[: at + 1]} {value}{text[end:]}"


def _without_word(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    del words[draw.randrange(len(words))]
    return " ".join(words)


def _with_swapped_words(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    one, other = (draw.randrange(len(words)) for _ in range(2))
    words[one], words[other] = words[other], words[one]
    return " ".join(words)


def status_of_game(path: Path, draw: random.Random) -> str:
    """Loads a game file and plays it; what came of it, in words."""
    try:
        game = load_game(path)
    except ValueError as refusal:
        return f"refused: {_one_line(refusal, path)}"
    engine = FastEngine(game)
    reply = engine.reset()
    for _ in range(COMMANDS_A_GAME):
        reply = engine.step(draw.choice(reply.admissible_commands))
        assert isinstance(reply.text, str)
    return "plays"


def status_of_rows(path: Path, read: Callable[[Path], Any]) -> str:
    """Reads a file of rows; what came of it, in words."""
    try:
        list(read(path))
    except ValueError as refusal:
        return f"refused: {_one_line(refusal, path)}"
    return "read"


def _one_line(refusal: ValueError, path: Path) -> str:
    """What a refusal says, without file and row, in its first words."""
    said = str(refusal)
    assert "\n" not in said and said.startswith(str(path)), repr(said)
    reason = said.removeprefix(str(path)).lstrip(":0123456789 ")
    return " ".join("".join(c if c.isalpha() else " " for c in reason).split()[:3])


def timed(name: str, cases: Iterator[tuple[str, Callable[[], str]]]) -> Counter[str]:
    """Runs cases and prints their statuses; a crash or a slow case ends the run."""
    statuses: Counter[str] = Counter()
    slowest, of_case = 0.0, ""
    for label, case in cases:
        began = time.process_time()
        try:
            statuses[case()] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {label}: {type(error).__name__}: {error}") from error
        took = time.process_time() - began
        if took > slowest:
            slowest, of_case = took, label
        assert took < CASE_S, f"{name}: {label} took {took:.1f} s"
    print(f"{name}: {statuses.total():,} cases, the slowest {slowest * 1e3:.1f} ms ({of_case})")
    for status, number in statuses.most_common():
        print(f"  {number:7,}  {status}")
    return statuses


def fuzz_outputs(count: int, seed: int) -> dict[str, Counter[str]]:
    """Every output through every environment; statuses by environment."""
    return {
        name: timed(name, _output_cases(Player(env), count, seed))
        for name, env in environments().items()
    }


def _output_cases(player: Player, count: int, seed: int) -> Iterator[tuple[str, Callable[[], str]]]:
    for number, output in enumerate(outputs(seed, count)):
        yield f"output {number}", lambda output=output: player.status_of(output)


def fuzz_games(count: int, seed: int) -> Counter[str]:
    """Damaged copies of generated games."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_games(Path(folder), generated_tasks("tiny", "train")[:GAMES])
        whole = [file.read_bytes() for file in files]
        return timed("games", _file_cases(Path(folder) / "game.tw-pddl", whole, count, seed))


def _file_cases(
    path: Path, whole: list[bytes], count: int, seed: int
) -> Iterator[tuple[str, Callable[[], str]]]:
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        path.write_bytes(damaged(draw.choice(whole), draw))
        yield f"file {number}", lambda draw=draw: status_of_game(path, draw)


def fuzz_rows(count: int, seed: int) -> dict[str, Counter[str]]:
    """Damaged copies of a generated world's questions and corpus; statuses by kind of file."""
    readers: dict[str, Callable[[Path], Any]] = {"questions": read_questions, "corpus": read_corpus}
    with tempfile.TemporaryDirectory() as folder:
        files = dict(zip(readers, write_world("easy", 0, folder), strict=True))
        return {
            name: timed(name, _row_cases(files[name], read, count, seed))
            for name, read in readers.items()
        }


def _row_cases(
    file: Path, read: Callable[[Path], Any], count: int, seed: int
) -> Iterator[tuple[str, Callable[[], str]]]:
    whole = file.read_bytes()
    for number in range(count):
        file.write_bytes(damaged(whole, random.Random(f"{seed}/{number}")))
        yield f"file {number}", lambda: status_of_rows(file, read)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("outputs", "games", "rows"))
    parser.add_argument("--count", type=int, required=True, help="cases; for rows, of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    {"outputs": fuzz_outputs, "games": fuzz_games, "rows": fuzz_rows}[options.what](
        options.count, options.seed
    )


if __name__ == "__main__":
    main()
