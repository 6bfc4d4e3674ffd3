"""A player that knows which facts a question needs, but only learns them by searching.

For warm starts, and as the proof that searching is enough. It reads what the policy reads: a fact
counts as known once its passage was in an observation.
"""

from stepopsd_envs.search_qa.protocol import SearchAction
from stepopsd_envs.search_qa.relations import RELATIONS
from stepopsd_envs.search_qa.world import Lookup, Question

UNKNOWN = "unknown"
"""What is answered when the facts could not be found in time."""


class SearchExpert:
    """Plays one question of a generated world.

    Looks the facts up in order, by the name of the subject and then, if the passage did not come,
    by the name with words of the relation; answers as soon as all are known.
    """

    def __init__(self, question: Question, *, max_searches: int):
        """Plans the episode.

        Args:
            question: With its lookups.
            max_searches: Searches after which it answers whatever it knows.
        """
        if not question.lookups:
            raise ValueError(
                f"question {question.text!r} has no lookups: only questions of generated worlds "
                "say which facts they need."
            )
        self._lookups = question.lookups
        self._max_searches = max_searches
        self._seen: list[str] = []
        self._queries: list[str] = []

    def act(self, observation: str) -> SearchAction:
        """Reads an observation (at first the question) and returns the next action."""
        self._seen.append(observation)
        missing = [lookup for lookup in self._lookups if not self._is_known(lookup)]
        if not missing:
            return SearchAction("answer", self._lookups[-1].value, True)
        if len(self._queries) >= self._max_searches:
            return SearchAction("answer", UNKNOWN, True)
        query = self._query(missing[0])
        self._queries.append(query)
        return SearchAction("search", query, True)

    def _is_known(self, lookup: Lookup) -> bool:
        # Sentences may speak of "it": the title must have come along.
        return any(lookup.subject in seen and lookup.statement in seen for seen in self._seen)

    def _query(self, lookup: Lookup) -> str:
        if lookup.subject not in self._queries and len(self._lookups) == 1:
            return lookup.subject
        return f"{lookup.subject} {RELATIONS[lookup.relation].cue}"


def response_text(action: SearchAction, *, thought: str = "") -> str:
    """Writes an action as a policy would, after a thought in think tags if one is given."""
    return f"<think>{thought}</think>\n{action.text()}" if thought else action.text()
