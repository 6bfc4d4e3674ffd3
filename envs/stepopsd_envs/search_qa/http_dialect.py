"""The two dialects of retrieval servers: what is sent, and what counts as an answer.

- `list` (Search-R1): `{"queries": [...], "topk": k, "return_scores": true}`.
- `single` (verl-agent): `{"query": "...", "topk": k, "return_scores": true}`.

Both are answered with `{"result": [one list of passages per query]}`, a passage being
`{"document": {...}, "score": s}` or the document alone. Scores are always asked for: without them
the published server of the first dialect fails.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

from stepopsd_envs.search_qa.corpus import parse_document
from stepopsd_envs.search_qa.retriever import Passage, RetrievalError

Dialect = Literal["list", "single"]
DIALECTS: tuple[Dialect, ...] = ("list", "single")


def request_body(dialect: Dialect, queries: Sequence[str], top_k: int) -> dict[str, Any]:
    """Returns the JSON of a request; with `single`, there is one query."""
    common = {"topk": top_k, "return_scores": True}
    if dialect == "list":
        return {"queries": list(queries), **common}
    [query] = queries
    return {"query": query, **common}


def parse_reply(body: bytes, *, queries: int, top_k: int) -> list[list[Passage]]:
    """Reads the answer to a number of queries.

    Raises:
        RetrievalError: `garbage` if it is not JSON, `wrong_shape` if it is not the answer
            described above, `empty` if a query has no passage.
    """
    try:
        reply = json.loads(body)
    except ValueError:
        raise RetrievalError("garbage", f"the reply is not JSON: {body[:80]!r}") from None
    result = reply.get("result") if isinstance(reply, dict) else None
    if not isinstance(result, list) or len(result) != queries:
        shown = f"{len(result)} results" if isinstance(result, list) else "no list in 'result'"
        raise RetrievalError("wrong_shape", f"{shown} for {queries} queries")
    return [_passages(entry, top_k) for entry in result]


def _passages(entry: Any, top_k: int) -> list[Passage]:
    if not isinstance(entry, list):
        raise RetrievalError("wrong_shape", f"a result is a {type(entry).__name__}, not a list")
    if not entry:
        raise RetrievalError("empty", "no passage for a query")
    return [_passage(item) for item in entry[:top_k]]


def _passage(item: Any) -> Passage:
    is_scored = isinstance(item, dict) and "document" in item
    parsed = parse_document(item["document"] if is_scored else item)
    score = item.get("score", 0.0) if isinstance(item, dict) else None
    if parsed is None or isinstance(score, bool) or not isinstance(score, int | float):
        raise RetrievalError("wrong_shape", f"no passage: {str(item)[:80]!r}")
    return Passage(id=parsed[0], contents=parsed[1], score=float(score))
