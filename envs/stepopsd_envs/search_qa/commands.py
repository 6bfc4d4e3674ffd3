"""The commands `stepopsd index` and `stepopsd serve-retriever`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.search_qa.open_retriever import RetrieverSpec, open_retriever
from stepopsd_envs.search_qa.server import DEFAULT_PORT, RetrievalServer
from stepopsd_envs.search_qa.tantivy_index import build_index

_LAST_PORT = 65535


def run(options: argparse.Namespace) -> int:
    """Runs the command of a command line and returns the exit status."""
    if options.command == "index":
        index_corpus(options.corpus, output=options.output)
    else:
        spec = retriever_spec(options.retriever, options.overrides)
        serve_retriever(spec, host=options.host, port=options.port)
    return 0


def index_corpus(
    corpus: str, *, output: str | None = None, report: Callable[[str], None] = print
) -> Path:
    """Builds the index of a corpus.

    Args:
        corpus: JSON lines with `id` and `contents`.
        output: Folder to make; by default beside the corpus, named after it.
        report: Takes a line for the user.

    Returns:
        The folder.

    Raises:
        ValueError: The corpus or the folder cannot be used; one line that says why.
        ModuleNotFoundError: tantivy is missing.
    """
    folder = Path(output) if output else Path(corpus.removesuffix(".gz")).with_suffix(".tantivy")
    started = time.monotonic()
    count = build_index(corpus, folder, progress=lambda count: report(f"{count:,} passages"))
    size_MB = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    elapsed_s = time.monotonic() - started
    report(f"{count:,} passages indexed in {elapsed_s:.1f} s, {size_MB:.1f} MB: {folder}")
    return folder


def retriever_spec(words: Sequence[str], settings: Sequence[str]) -> RetrieverSpec:
    """What a command line names: a path, addresses, or a kind with its settings.

    Args:
        words: One corpus, index folder or kind, or the addresses of several servers.
        settings: `KEY=VALUE` texts; a value that is JSON is read as JSON.
    """
    if not settings:
        return words[0] if len(words) == 1 else list(words)
    if len(words) > 1:
        raise ValueError(f"--set {settings[0]}: settings go with one kind, not {len(words)} words.")
    spec: dict[str, Any] = {"kind": words[0]}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ValueError(f"--set {setting}: is not KEY=VALUE. Write --set corpus=wiki.jsonl.")
        try:
            spec[key] = json.loads(text)
        except ValueError:
            spec[key] = text
    return spec


def serve_retriever(
    retriever: RetrieverSpec,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    report: Callable[[str], None] = print,
) -> None:
    """Serves a retriever until interrupted.

    Args:
        retriever: A corpus file, an index folder, addresses of other servers, or a kind with its
            settings; see `open_retriever`.
        host: Address to bind; 0.0.0.0 for every one of the machine.
        port: Port to bind; 0 takes a free one.
        report: Takes a line for the user.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ValueError(f"port={port}: ports go from 0 (any free one) to {_LAST_PORT}.")
    opened = open_retriever(retriever)
    try:
        server = RetrievalServer(opened, host=host, port=port)
    except OSError as error:
        raise ValueError(f"port={port}: cannot be bound on {host} ({error.strerror}).") from None
    name = retriever if isinstance(retriever, str) else json.dumps(retriever)
    report(f"Serving {name} at {server.url} (both dialects). Stop with Ctrl-C.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        server.server_close()
        opened.close()
