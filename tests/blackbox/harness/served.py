"""Readers that say how they want to be served, alike on every transport: a WebSocket's URL, its `subscribe`, SSE, long-poll.

What is asked for goes in by the contract's own names, `kinds` as a list; `READERS` are the kinds of readers by name. Each has
`granted`, the number of its `connection`, `cursor` (where a client that breaks off now would come back), and is read with
`next`, `event`, `take` and `notice`. `refused` asks for something wrong and tells which field was named.
"""

import time

from .api import cursor_map, problem
from .sse import Sse
from .ws import Ws
from .ws import refused as refused_ws

WAIT = 15
POLL_SECONDS = 2
BEGINNINGS = ("after", "since", "tail")


def query(asked):
    """As parameters of a URL."""
    return {name: ",".join(value) if isinstance(value, (list, tuple)) else value for name, value in asked.items()}


class Reader:
    """What they have in common; `_next` brings the next message as an object and keeps `cursor`."""

    granted = connection = None
    cursor = "0"

    def next(self, timeout=WAIT):
        """The next message of any type."""
        return self._next(timeout)

    def notice(self, kind, timeout=WAIT):
        """The next message of one type; all others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def event(self, timeout=WAIT):
        """The next event; heartbeats are passed over, anything else is a failure."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message["type"] == "event":
                return message
            assert message["type"] == "heartbeat", f"an event was expected: {message}"

    def take(self, count, timeout=WAIT):
        """The next `count` events."""
        return [self.event(timeout) for _ in range(count)]

    def until(self, seq, timeout=WAIT):
        """All events up to the one of this number."""
        events = [self.event(timeout)]
        while events[-1]["seq"] < seq:
            events.append(self.event(timeout))
        return events


class WebSocketReader(Reader):
    """A WebSocket whose URL says it."""

    def __init__(self, daemon, rooms, slow=False, key="", **asked):
        self.ws = Ws(daemon, rooms, slow=slow, key=key, **query(asked))
        self._begin(self.ws.welcome, self.ws.welcome.get("granted"))

    def _begin(self, begun, granted):
        self.connection, self.granted, self.cursor = self.ws.welcome["connection_id"], granted, begun["cursor"]
        self._alone = len(begun["rooms"]) == 1 and not begun["rooms"][0].endswith("*")

    def _next(self, timeout):
        message = self.ws.next(timeout)
        if message["type"] == "heartbeat":
            self.cursor = message["cursor"]
        elif message["type"] == "event" and self._alone:
            self.cursor = str(message["seq"])
        elif message["type"] == "event":
            places = {**(cursor_map(self.cursor) if "=" in self.cursor else {}), message["room"]: message["seq"]}
            self.cursor = ",".join(f"{room}={seq}" for room, seq in places.items())
        return message

    def stop(self):
        """Breaks off."""
        self.ws.close()


class SubscribeReader(WebSocketReader):
    """A WebSocket that says it in `subscribe`."""

    def __init__(self, daemon, rooms, slow=False, key="", **asked):
        self.ws = Ws(daemon, slow=slow, key=key)
        told = self.ws.subscribe(*rooms.split(","), **asked)
        self._begin(told, told["granted"])


class SseReader(Reader):
    """Server-Sent Events, by curl. `after` goes as Last-Event-ID, as a browser has it."""

    def __init__(self, daemon, rooms, key="", after=None, **asked):
        self.sse = Sse(daemon, rooms, last_id=after, key=key, **query(asked))
        welcome = self.sse.welcome()
        self.connection, self.granted, self.cursor = welcome["connection_id"], welcome.get("granted"), self.sse.last_id

    def _next(self, timeout):
        message = self.sse.next(timeout)
        self.cursor = message.last_id
        return message.data

    def stop(self):
        """Breaks off."""
        self.sse.stop()


class PollReader(Reader):
    """A chain of long-polls; the first says where it begins, and is answered at once."""

    def __init__(self, daemon, rooms, **asked):
        self._daemon, self._rooms, self._waiting = daemon, rooms, []
        self._asked = query({name: value for name, value in asked.items() if name not in BEGINNINGS})
        self.poll(wait="0s", **{name: asked[name] for name in BEGINNINGS if name in asked})

    def poll(self, **params):
        """One poll more; what it brings waits here."""
        answer = self._daemon.poll(self._rooms, **self._asked, **params)
        self._waiting += answer["notices"] + answer["events"]
        self.cursor = answer["cursor"]

    def _next(self, timeout):
        deadline = time.monotonic() + timeout
        while not self._waiting:
            rest = deadline - time.monotonic()
            assert rest > 0, f"no poll was answered with anything within {timeout} s"
            self.poll(after=self.cursor, wait=f"{max(1, int(min(rest, POLL_SECONDS) * 1000))}ms")
        return self._waiting.pop(0)

    def stop(self):
        """Polls no more."""


READERS = {"websocket": WebSocketReader, "subscribe": SubscribeReader, "sse": SseReader, "poll": PollReader}
STREAMS = ["websocket", "subscribe", "sse"]
WAYS = list(READERS)


def refused(way, daemon, room, asked):
    """Asks for something wrong over a transport, or of the "history"; the field that the refusal names."""
    if way == "subscribe":
        return _refused_subscribe(daemon, room, asked)
    if way == "websocket":
        answer = refused_ws(daemon, room, **query(asked))
    elif way == "history":
        answer = daemon.get(f"/v1/rooms/{room}/events", params=query(asked))
    else:
        accept = {"sse": "text/event-stream", "poll": "application/json"}[way]
        # As a stream, because one that is not refused does not end.
        answer = daemon.get("/v1/stream", params={"rooms": room, **query(asked)}, headers={"Accept": accept}, stream=True)
        assert answer.status_code != 200, f"{asked} was not refused"
    [fault] = problem(answer, 400, kind="invalid-parameter")["errors"]
    return fault["field"]


def _refused_subscribe(daemon, room, asked):
    ws = Ws(daemon)
    try:
        error = ws.ask({"type": "subscribe", "rooms": [room], **asked}, "error")
        assert error["code"] == "invalid_field", error
        assert ws.ask({"type": "get_stats"}, "stats")["rooms"] == [], "it follows the room in spite of it"
        return error["message"].split(":")[0].split("[")[0]
    finally:
        ws.close()
