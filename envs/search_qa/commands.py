"""The commands `stepopsd index` and `stepopsd serve-retriever`."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from envs.search_qa.open_retriever import open_retriever
from envs.search_qa.server import DEFAULT_PORT, RetrievalServer
from envs.search_qa.tantivy_index import build_index


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
        ImportError: tantivy is missing.
    """
    folder = Path(output) if output else Path(corpus.removesuffix(".gz")).with_suffix(".tantivy")
    started = time.monotonic()
    count = build_index(corpus, folder, progress=lambda count: report(f"{count:,} passages"))
    size_MB = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    elapsed_s = time.monotonic() - started
    report(f"{count:,} passages indexed in {elapsed_s:.1f} s, {size_MB:.1f} MB: {folder}")
    return folder


def serve_retriever(
    retriever: str | Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    report: Callable[[str], None] = print,
) -> None:
    """Serves a retriever until interrupted.

    Args:
        retriever: A corpus file, an index folder, or addresses of other servers; see
            `open_retriever`.
        host: Address to bind; 0.0.0.0 for every one of the machine.
        port: Port to bind; 0 takes a free one.
        report: Takes a line for the user.
    """
    opened = open_retriever(retriever)
    try:
        server = RetrievalServer(opened, host=host, port=port)
    except OSError as error:
        raise ValueError(f"port={port}: cannot be bound on {host} ({error.strerror}).") from None
    report(f"Serving {retriever} at {server.url} (both dialects). Stop with Ctrl-C.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        server.server_close()
        opened.close()
