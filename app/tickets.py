"""Which request of a browser session is the newest, so that older streams stop. No Gradio."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Tickets:
    """The newest request of every browser session: an older stream sees that it is old and stops."""

    def __init__(self, sessions: int = 1000) -> None:
        self.newest: OrderedDict[str, int] = OrderedDict()
        self.sessions, self.lock = sessions, threading.Lock()

    def take(self, session: str) -> int:
        with self.lock:
            ticket = self.newest.pop(session, 0) + 1
            self.newest[session] = ticket
            while len(self.newest) > self.sessions:
                self.newest.popitem(last=False)
            return ticket

    def is_newest(self, session: str, ticket: int) -> bool:
        return self.newest.get(session) == ticket
