"""The two dialects of retrieval servers: what is sent, and what counts as an answer.

- `list` (Search-R1): `{"queries": [...], "topk": k, "return_scores": true}`.
- `single` (verl-agent): `{"query": "...", "topk": k, "return_scores": true}`.

Both are answered with `{"result": [one list of passages per query]}`, a passage being
`{"document": {...}, "score": s}` or the document alone. Scores are always asked for: without them
the published server of the first dialect fails. Evidence needs a text and nothing else: id and
score may be missing, and a passage without text is left out.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from stepopsd_envs.search_qa.corpus import parse_document
from stepopsd_envs.search_qa.retriever import Passage, RetrievalError
from stepopsd_envs.text_files import parse_json

Dialect = Literal["list", "single"]
DIALECTS: tuple[Dialect, ...] = ("list", "single")


def request_body(dialect: Dialect, queries: Sequence[str], top_k: int) -> dict[str, Any]:
    """Returns the JSON of a request; with `single`, there is one query."""
    common = {"topk": top_k, "return_scores": True}
    if dialect == "list":
        return {"queries": list(queries), **common}
    [query] = queries
    return {"query": query, **common}


class Reply(NamedTuple):
    """What a server answered.

    Attributes:
        passages: Passages of each query, best first, at least one.
        dropped: Passages that were left out because they hold no text.
    """

    passages: list[list[Passage]]
    dropped: int


def read_reply(body: bytes, *, queries: int, top_k: int) -> Reply:
    """Reads the answer to a number of queries.

    Raises:
        RetrievalError: `garbage` if it is not JSON, `wrong_shape` if it is not the answer
            described above or a query has passages but none with a text, `empty` if a query has
            no passage.
    """
    try:
        reply = parse_json(body, "reply", is_file=False)
    except ValueError:
        raise RetrievalError("garbage", f"the reply is not JSON: {body[:80]!r}") from None
    result = reply.get("result") if isinstance(reply, dict) else None
    if not isinstance(result, list) or len(result) != queries:
        shown = f"{len(result)} results" if isinstance(result, list) else "no list in 'result'"
        raise RetrievalError("wrong_shape", f"{shown} for {queries} queries")
    found = [_passages(entry) for entry in result]
    dropped = sum(len(entry) - len(passages) for entry, passages in zip(result, found, strict=True))
    return Reply([passages[:top_k] for passages in found], dropped)


def parse_reply(body: bytes, *, queries: int, top_k: int) -> list[list[Passage]]:
    """The passages of `read_reply`."""
    return read_reply(body, queries=queries, top_k=top_k).passages


def _passages(entry: Any) -> list[Passage]:
    if not isinstance(entry, list):
        raise RetrievalError("wrong_shape", f"a result is a {type(entry).__name__}, not a list")
    if not entry:
        raise RetrievalError("empty", "no passage for a query")
    passages = [passage for item in entry if (passage := _passage(item)) is not None]
    if not passages:
        raise RetrievalError("wrong_shape", f"no passage has a text: {str(entry[0])[:80]!r}")
    return passages


def _passage(item: Any) -> Passage | None:
    is_scored = isinstance(item, dict) and "document" in item
    parsed = parse_document(item["document"] if is_scored else item)
    if parsed is None:
        return None
    score = item.get("score") if isinstance(item, dict) else None
    return Passage(id=parsed[0], contents=parsed[1], score=_score(score))


def _score(value: Any) -> float:
    """A score as some write it, "0.87" or null; 0 for what is no number."""
    try:
        score = 0.0 if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return score if math.isfinite(score) else 0.0
