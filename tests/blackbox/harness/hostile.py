"""What must hold after an attack: the daemon lives, has not panicked, serves an honest client, and has not grown."""

import re

from .frames import Frames, text
from .raw import exchange, request

GROWTH_MAX = 96 << 20
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z +(ERROR|WARN|INFO|DEBUG|TRACE) ")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Watch:
    """Notes how a daemon is, and checks later that it is still so."""

    def __init__(self, daemon, growth_max=GROWTH_MAX):
        self.daemon, self.growth_max = daemon, growth_max
        self.log_before = len(daemon.log_text())
        daemon.forget_peak()
        self.memory_before = daemon.rss_bytes()

    def log(self):
        """What the daemon logged since."""
        return self.daemon.log_text()[self.log_before:]

    def grown(self):
        """By how much its memory had grown at most."""
        return self.daemon.peak_bytes() - self.memory_before

    def unharmed(self):
        """All that holds after any attack."""
        assert self.daemon.process.poll() is None, "the daemon has ended"
        grown = self.grown()
        honest(self.daemon)
        assert "panicked" not in self.log(), "the daemon panicked; see its log"
        assert grown < self.growth_max, f"its memory grew by {grown >> 20} MB"


def honest(daemon):
    """A fresh client of each kind is served: a request, and a stream on which it publishes and reads."""
    [answer] = exchange(daemon, request(daemon, "GET /readyz HTTP/1.1", "Connection: close"))
    assert answer.status == 200, answer
    with Frames(daemon, "?rooms=honest:1") as client:
        client.send(text({"type": "publish", "id": "h", "room": "honest:1", "kind": "honest", "data": "good day"}))
        answers = {message["type"]: message for message in (client.message(), client.message())}
        assert answers["published"]["seq"] == answers["event"]["seq"] and answers["event"]["data"] == "good day", answers


def strange_lines(log, stamp):
    """The lines of a log that do not begin as the daemon begins its own, that bear a forged time at their beginning, or that
    would do something to the terminal on which they are read."""
    lines = log.split("\n")[:-1] if log.endswith("\n") else log.split("\n")
    return [line for line in lines if not _LOG_LINE.match(line) or line.startswith(stamp) or _CONTROL.search(line)]
