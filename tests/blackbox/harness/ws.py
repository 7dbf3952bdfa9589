"""WebSocket clients by the `websockets` library, one that reads at once and one that can leave its socket unread."""

import json
import socket
import time
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

WAIT = 15


class Ws:
    """One connection to /v1/stream. With `slow=True` only a little is buffered on this side, so that not calling `next` makes
    the server feel a slow reader. `source` is the address it comes from."""

    def __init__(self, daemon, rooms=None, key="", slow=False, welcome=True, headers=None, source=None, **params):
        query = {**({"rooms": rooms} if rooms else {}), **params}
        headers = {**({} if key is None else {"Authorization": f"Bearer {key or daemon.key}"}), **(headers or {})}
        host, port = daemon.address.rsplit(":", 1)
        self.socket = socket.socket()
        if slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(WAIT)
        self.socket.connect((host, int(port)))
        try:
            self.connection = connect(
                f"{'wss' if daemon.tls else 'ws'}://{daemon.address}/v1/stream" + (f"?{urlencode(query)}" if query else ""),
                sock=self.socket, ssl=daemon.tls, additional_headers=headers, proxy=None, compression=None, ping_interval=None, close_timeout=1,
                open_timeout=WAIT, max_size=None, max_queue=(2, 1) if slow else 1024, legacy=True)
        except BaseException:
            self.socket.close()
            raise
        self.socket = self.connection.socket  # with TLS another one
        self.welcome, self.reason = None, None
        if welcome:
            self.welcome = self.next()
            assert self.welcome["type"] == "welcome", f"the first message is no welcome: {self.welcome}"

    def send(self, message):
        """Sends an object as JSON, text or bytes as they are."""
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def next(self, timeout=WAIT):
        """The next message of any type."""
        try:
            text = self.connection.recv(timeout)
        except TimeoutError:
            raise AssertionError(f"no WebSocket message within {timeout} s") from None
        assert isinstance(text, str), f"a binary frame came: {text[:100]!r}"
        return json.loads(text)

    def until(self, kind, timeout=WAIT):
        """The next message of one type; all others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def event(self, timeout=WAIT):
        """The next event; heartbeats are passed over, anything else is a failure."""
        while True:
            message = self.next(timeout)
            if message["type"] == "event":
                return message
            assert message["type"] == "heartbeat", f"an event was expected: {message}"

    def take(self, count, timeout=WAIT):
        """The next `count` events."""
        return [self.event(timeout) for _ in range(count)]

    def ask(self, message, answer):
        """Sends a message and returns its answer, which must be of type `answer` and carry the message's id."""
        message.setdefault("id", f"q-{time.monotonic_ns()}")
        self.send(message)
        deadline = time.monotonic() + WAIT
        while True:
            found = self.next(max(0.01, deadline - time.monotonic()))
            if found.get("id") == message["id"]:
                assert found["type"] == answer, f"{message} was answered by {found}"
                return found

    def subscribe(self, *rooms, **more):
        """Subscribes and returns the answer."""
        return self.ask({"type": "subscribe", "rooms": list(rooms), **more}, "subscribed")

    def alive(self):
        """Still open and answering."""
        return self.ask({"type": "ping", "data": {"still": "here"}}, "pong")["data"] == {"still": "here"}

    def read_on(self):
        """A slow reader that has come round: lets the kernel buffer more, so that the test does not take for ever."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def closed(self, timeout=WAIT):
        """Reads until the server closes; the close code and all messages before it."""
        before, deadline = [], time.monotonic() + timeout
        try:
            while True:
                before.append(self.next(max(0.01, deadline - time.monotonic())))
        except ConnectionClosed as end:
            self.reason = end.rcvd.reason if end.rcvd else None
            return (end.rcvd.code if end.rcvd else 1006), before

    def close(self):
        """Closes, whatever state it is in."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()


class Refusal:
    """The answer to a WebSocket that was not opened, in the words of `requests`."""

    def __init__(self, response):
        self.status_code, self.headers, self.text = response.status_code, response.headers, (response.body or b"").decode()

    def json(self):
        """The body as JSON."""
        return json.loads(self.text)


def refused(daemon, *arguments, **options):
    """Opens a WebSocket that must be refused; the answer."""
    try:
        Ws(daemon, *arguments, **options).close()
    except InvalidStatus as refusal:
        return Refusal(refusal.response)
    raise AssertionError("the WebSocket was opened")
