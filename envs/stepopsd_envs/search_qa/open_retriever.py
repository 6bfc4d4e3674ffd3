"""From the key `retriever` of a configuration to a retriever that all environments share."""

import functools
import inspect
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.search_qa.bm25 import BM25Index
from stepopsd_envs.search_qa.corpus import read_corpus
from stepopsd_envs.search_qa.dense import DenseRetriever
from stepopsd_envs.search_qa.http_client import HttpRetriever
from stepopsd_envs.search_qa.retriever import Retriever
from stepopsd_envs.search_qa.tantivy_index import TantivyIndex
from stepopsd_envs.text_env import nearest, require_choice

RetrieverSpec = str | Sequence[str] | Mapping[str, Any]
"""What a configuration file can say; see `open_retriever`."""


def _open_bm25(*, corpus: str) -> Retriever:
    return BM25Index(list(read_corpus(corpus)))


def _open_http(*, urls: str | Sequence[str], **settings: Any) -> Retriever:
    client = HttpRetriever([urls] if isinstance(urls, str) else list(urls), **settings)
    client.check()
    return client


_KINDS = {"bm25": _open_bm25, "tantivy": TantivyIndex, "http": _open_http, "dense": DenseRetriever}

_OPENING = threading.Lock()
"""Environments are made in several threads, and must not open an index twice."""


def open_retriever(spec: RetrieverSpec | Retriever) -> Retriever:
    """Opens a retriever, or returns the one that this process opened for the same words.

    Args:
        spec: A URL or several: servers of one corpus. A corpus file: BM25 in the process. A folder
            made by `stepopsd index`. Or a mapping with `kind` ("http", "bm25", "tantivy",
            "dense") and its arguments. A retriever is returned as it is.
    """
    if isinstance(spec, Mapping):
        with _OPENING:
            return _open_once(json.dumps(spec, sort_keys=True, default=list))
    if isinstance(spec, str):
        if spec.startswith(("http://", "https://")):
            return open_retriever({"kind": "http", "urls": [spec]})
        if Path(spec).is_dir():
            return open_retriever({"kind": "tantivy", "folder": spec})
        if Path(spec).is_file():
            return open_retriever({"kind": "bm25", "corpus": spec})
        raise ValueError(
            f"retriever={spec!r} is no http:// address, no corpus file and no index folder."
        )
    if isinstance(spec, Sequence):
        return open_retriever({"kind": "http", "urls": list(spec)})
    if not callable(getattr(spec, "search", None)):
        raise ValueError(
            f"retriever={spec!r} is a {type(spec).__name__}. Write an address, a path, or a "
            "mapping with a kind."
        )
    return spec


@functools.lru_cache(maxsize=4)
def _open_once(spec: str) -> Retriever:
    arguments = json.loads(spec)
    kind = arguments.pop("kind", None)
    require_choice("retriever: kind", kind, tuple(_KINDS))
    opener = _KINDS[kind]
    known = set(inspect.signature(opener).parameters)
    if kind == "http":
        known = (known | set(inspect.signature(HttpRetriever).parameters)) - {"settings"}
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(
                f"retriever.{key}={value!r}: {kind!r} has no such key.{nearest(key, sorted(known))}"
            )
    for key, parameter in inspect.signature(opener).parameters.items():
        is_needed = parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD
        if is_needed and key not in arguments:
            raise ValueError(f"retriever.{key} is missing: kind={kind!r} needs it.")
    return opener(**arguments)
