"""What the Compare page knows of every browser session: its newest request, its λ, its answers. No Gradio."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FIRST_LAM = 0.3


@dataclass
class Session:
    """One browser session.

    Attributes:
        ticket: the number of its newest request; an older stream sees that it is old and stops.
        lam: where its slider stands.
        kept: the answers it sees, see `Compare.stream`.
        walk: the answers to its newest λ, still to come.
    """

    ticket: int = 0
    lam: float = FIRST_LAM
    kept: dict[str, Any] = field(default_factory=dict)
    walk: Iterator[Any] | None = None


class Sessions:
    """The newest sessions; the one that was quiet longest is forgotten first."""

    def __init__(self, most: int = 1000) -> None:
        self._found: OrderedDict[str, Session] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def of(self, name: str) -> Session:
        """The session of this name, new if it was forgotten.

        >>> sessions = Sessions()
        >>> sessions.of("a").lam = 0.5
        >>> sessions.of("a").lam, sessions.of("b").lam
        (0.5, 0.3)
        """
        with self._lock:
            session = self._found[name] = self._found.pop(name, None) or Session()
            while len(self._found) > self._most:
                self._found.popitem(last=False)
            return session

    def take(self, name: str) -> int:
        """A ticket for a new request; every older one of the session is void."""
        session = self.of(name)
        with self._lock:
            session.ticket += 1
            session.walk = None
            return session.ticket

    def is_newest(self, name: str, ticket: int) -> bool:
        """Whether no later request of the session took a ticket."""
        session = self._found.get(name)
        return session is not None and session.ticket == ticket
