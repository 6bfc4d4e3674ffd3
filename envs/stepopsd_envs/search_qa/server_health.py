"""Which of several servers to ask: in turn, but none that has just failed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepopsd_envs.search_qa.http_dialect import Dialect

_FIRST_REST_S = 0.5
_LONGEST_REST_S = 30.0


@dataclass(slots=True)
class Server:
    """A server and what is known of it.

    Attributes:
        url: Address that takes the queries.
        dialect: None until it answered in one.
        failures_in_a_row: Since the last answer.
        rests_until: Clock time before which it is asked only if no other is left.
    """

    url: str
    dialect: Dialect | None = None
    failures_in_a_row: int = 0
    rests_until: float = 0.0


class ServerHealth:
    """Hands out servers in turn; one that failed rests, twice as long each time. Thread-safe."""

    def __init__(self, urls: Sequence[str], *, clock: Callable[[], float] = time.monotonic):
        self.servers = [Server(url) for url in urls]
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0

    def pick(self) -> Server:
        """Returns the next healthy server, or else the one whose rest ends first."""
        with self._lock:
            now = self._clock()
            for offset in range(len(self.servers)):
                index = (self._next + offset) % len(self.servers)
                if self.servers[index].rests_until <= now:
                    self._next = index + 1
                    return self.servers[index]
            return min(self.servers, key=lambda server: server.rests_until)

    def succeeded(self, server: Server) -> None:
        """Marks a server healthy."""
        with self._lock:
            server.failures_in_a_row, server.rests_until = 0, 0.0

    def failed(self, server: Server) -> None:
        """Lets a server rest."""
        with self._lock:
            rest = min(_LONGEST_REST_S, _FIRST_REST_S * 2**server.failures_in_a_row)
            server.failures_in_a_row += 1
            server.rests_until = self._clock() + rest
