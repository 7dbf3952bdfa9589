"""Clients that come, read and leave, by the hundred: just enough of each protocol to cost little beside the daemon.

`VISITS` are the ways in which one can come; each is a function of a `Place` that does its whole visit and fails if it is not served as it
should be. `Residents` hold streams open for a while.
"""

import itertools
import json
import os
import random
import selectors
import socket
import threading
import time

from .frames import close_frame, text
from .tokens import mint

WAIT = 20
# Visitors of wells come back to the same few: a well's room is followed by a sink, and stays.
WELLS = 10
_UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


class Place:
    """Where visitors come to: a daemon, and names that nobody had before. `now` is the daemon's time, in seconds since 1970. Visitors bring
    rooms of their own in the namespace `churn` (`stalled` those whom nobody else may follow), and read one of the namespace `stay` in which there is something."""

    def __init__(self, daemon, now=time.time, seed=0):
        self.daemon, self.now = daemon, now
        host, port = daemon.address.rsplit(":", 1)
        self.address = (host, int(port))
        self.random, self._numbers = random.Random(seed), itertools.count()
        self.room = "stay:1"
        self.token = self.minted()
        daemon.publish(self.room, {"kind": "n", "data": {"n": 0}})

    def minted(self, **claims):
        """A token that holds for an hour of the daemon's time."""
        now = int(self.now())
        return mint(**{"sub": "visitor", "roles": ["admin"], "iat": now - 60, "exp": now + 3600, **claims})

    def name(self, prefix):
        """A name that nobody had."""
        return f"{prefix}{next(self._numbers)}-{os.getpid()}"

    def connect(self, source=None, receive_buffer=None):
        """A TCP connection, from an address of its own if that is given."""
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            # The port is chosen when it connects: one for each address and server, not one of all.
            connection.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            connection.bind((source, 0))
        connection.settimeout(WAIT)
        connection.connect(self.address)
        return connection

    def head(self, line, *headers, key=None):
        """The head of a request; with the key "" without a credential."""
        credential = [] if key == "" else [f"Authorization: Bearer {key or self.daemon.key}"]
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: {self.daemon.address}", *credential, *headers, "", ""]).encode()

    def stranger(self):
        """An address of this machine that seldom came before."""
        return f"127.{self.random.randint(1, 250)}.{self.random.randint(0, 250)}.{self.random.randint(1, 250)}"


def until(connection, needle, so_far=b""):
    """Reads until these bytes came; all that came. Heartbeats do not prolong it."""
    deadline = time.monotonic() + WAIT
    while needle not in so_far:
        assert time.monotonic() < deadline, f"{needle!r} did not come within {WAIT} s: {so_far[-500:]!r}"
        got = connection.recv(65536)
        assert got, f"the daemon ended the connection before {needle!r} came: {so_far[-500:]!r}"
        so_far += got
    return so_far


def call(place, line, body=None, status=200, key=None, source=None):
    """One call over a connection of its own, which must be answered by this status; the answer's body."""
    body = b"" if body is None else json.dumps(body).encode()
    headers = ["Connection: close", *(["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else [])]
    with place.connect(source) as connection:
        connection.sendall(place.head(line, *headers, key=key) + body)
        answer = b""
        while got := connection.recv(65536):
            answer += got
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), f"{line}: {status} was expected: {answer[:500]!r}"
    return answer.partition(b"\r\n\r\n")[2]


def leave(place, connection, politely):
    """Leaves: with a close frame and its answer, or as one whose network is gone."""
    if politely:
        connection.sendall(politely)
        deadline = time.monotonic() + WAIT
        while connection.recv(65536):
            assert time.monotonic() < deadline, f"a stream goes on for {WAIT} s after its client's goodbye"
    elif place.random.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
    connection.close()


def websocket(place):
    """Comes over WebSocket with a new room, publishes to it, reads that and what was before elsewhere, and leaves."""
    room = place.name("churn:")
    connection = place.connect()
    connection.sendall(place.head(f"GET /v1/stream?rooms={place.room},{room}&tail=1", _UPGRADE[:-2]))
    so_far = until(connection, b'"type":"event"', until(connection, b'"welcome"'))
    connection.sendall(text({"type": "publish", "id": "p", "room": room, "kind": "n", "data": {"n": 1}, "event_id": place.name("id-")}))
    so_far = until(connection, b'"type":"published"', so_far)
    until(connection, b'"room":"%s","seq"' % room.encode(), so_far)
    leave(place, connection, close_frame(1000) if place.random.random() < 0.5 else None)


def pattern(place):
    """Follows a pattern over WebSocket, has a room come to be under it, and leaves."""
    prefix = place.name("churn:p")
    connection = place.connect()
    connection.sendall(place.head(f"GET /v1/stream?rooms={prefix}:*", _UPGRADE[:-2]))
    so_far = until(connection, b'"welcome"')
    publish(place, f"{prefix}:1")
    until(connection, b'"type":"event"', so_far)
    leave(place, connection, None)


def sse(place):
    """Reads by Server-Sent Events and leaves."""
    connection = place.connect()
    connection.sendall(place.head(f"GET /v1/stream?rooms={place.room}&tail=1", "Accept: text/event-stream"))
    until(connection, b'"type":"event"')
    leave(place, connection, None)


def long_poll(place):
    """Polls for what is there, and now and then for what does not come."""
    call(place, f"GET /v1/stream?rooms={place.room}&tail=1&wait=5s")
    call(place, f"GET /v1/stream?rooms={place.room}&wait=10ms")


def socket_io(place):
    """Comes by Socket.IO over WebSocket, signs in, subscribes to one of ten wells, and leaves."""
    connection = place.connect()
    connection.sendall(place.head("GET /socket.io/?EIO=4&transport=websocket", _UPGRADE[:-2]))
    so_far = until(connection, b'"pingInterval"')
    connection.sendall(text("40" + json.dumps({"token": place.token})))
    so_far = until(connection, b'40{"sid"', so_far)
    connection.sendall(text("42" + json.dumps(["subscribe", {"well_id": f"WELL-{place.random.randint(1, WELLS)}"}])))
    until(connection, b'["subscribed"', so_far)
    leave(place, connection, close_frame(1000) if place.random.random() < 0.5 else None)


def socket_io_polling(place):
    """Comes by Socket.IO over polling, signs in, and says goodbye or just stays away."""
    answer = call(place, "GET /socket.io/?EIO=4&transport=polling").decode()
    sid = json.loads(answer[answer.index("{"):])["sid"]
    path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    packet(place, path, "40" + json.dumps({"token": place.token}))
    assert b'40{"sid"' in call(place, f"GET {path}")
    if place.random.random() < 0.5:
        packet(place, path, "41")


def packet(place, path, packet):
    """Posts a packet of Engine.IO."""
    with place.connect() as connection:
        connection.sendall(place.head(f"POST {path}", "Connection: close", "Content-Type: text/plain;charset=UTF-8", f"Content-Length: {len(packet)}")
                           + packet.encode())
        assert until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def publish(place, room=None, data=None):
    """Publishes to a new room, with an id, twice: the second time it is known. And once to the room that all read."""
    room, event = room or place.name("churn:"), {"kind": "n", "data": data or {"n": 1}, "id": place.name("id-")}
    for _ in range(2):
        answer = json.loads(call(place, f"POST /v1/rooms/{room}/events", event, status=202))
    assert answer["duplicates"] == 1, answer
    call(place, f"POST /v1/rooms/{place.room}/events", {"kind": "n", "data": {"n": 2}}, status=202)


def keyed(place):
    """Publishes what a pipeline keeps by key, with a key that nobody had."""
    event = {"kind": "reading", "key": place.name("sensor-"), "data": {"value": place.random.random()}}
    call(place, "POST /v1/rooms/keyed:1/events", event, status=202)


def refused(place):
    """Comes with a wrong key, from an address that seldom came before, and is sent away: from calls and from streams."""
    source = place.stranger()
    call(place, "GET /v1/rooms", status=401, key=place.name("wrong-"), source=source)
    with place.connect(source) as connection:
        connection.sendall(place.head("GET /v1/stream?rooms=a", _UPGRADE[:-2], key=place.name("wrong-")))
        assert until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 401 ")


def nonsense(place):
    """Is refused for what it says: a body that is no JSON, a path that is none, a name that is none."""
    call(place, "POST /v1/rooms/churn:1/events", {"kind": 5}, status=422)
    call(place, f"GET /v1/{place.name('path-')}", status=404)


def token(place):
    """Comes with a token of its own, which is revoked; then it is refused."""
    jti = place.name("token-")
    mine = place.minted(sub=place.name("subject-"), jti=jti)
    call(place, "GET /v1/rooms", key=mine)
    call(place, "POST /api/v1/auth/revoke", {"token_id": jti, "expires_in": 3600}, status=204, key=place.token)
    call(place, "GET /v1/rooms", status=401, key=mine)


def login(place):
    """Signs in with a password, from an address of its own, and out again."""
    source = place.stranger()
    answer = json.loads(call(place, "POST /api/v1/auth/login", {"username": "visitor", "password": PASSWORD}, source=source, key=""))
    call(place, "POST /api/v1/auth/logout", status=204, key=answer["access_token"], source=source)


def stalled(place):
    """Opens a stream and reads nothing, while more comes than fits in between; the daemon ends it."""
    room = place.name("stalled:")
    with place.connect(receive_buffer=4096) as connection:
        connection.sendall(place.head(f"GET /v1/stream?rooms={room}", _UPGRADE[:-2]))
        until(connection, b'"welcome"')
        for _ in range(3):
            events = [{"kind": "n", "data": "x" * 90_000} for _ in range(20)]
            call(place, f"POST /v1/rooms/{room}/events", events, status=202)
        deadline = time.monotonic() + WAIT
        while json.loads(call(place, f"GET /v1/rooms/{room}"))["subscribers"]:
            assert time.monotonic() < deadline, "a reader that takes nothing is served for ever"
            time.sleep(0.05)


def pipeline(size="1m", idle="10m"):
    """A pipeline for `keyed`: it keeps a window and a period for each key, and a room's state, and lets go those that rest."""
    return f'''
[pipeline]
from = "keyed:1"
[[step]]
op = "window"
kind = "tumbling"
size = "{size}"
time = "arrival"
fields = {{ value = ["mean", "max", "p95"] }}
keys_idle = "{idle}"
[[step]]
op = "dedupe"
mode = "changes"
field = "value_max"
within = "{idle}"
[[output]]
room = "keyed:out"
state = true
state_expire = "{idle}"
'''


PASSWORD = "correct horse"
VISITS = (websocket, pattern, sse, long_poll, socket_io, socket_io_polling, publish, keyed, refused, nonsense, token, login, stalled)


class Residents:
    """Streams that stay for a while, each of another kind than the one before, and then make place for the next: read by a thread."""

    def __init__(self, place, count, stay):
        self.place, self.count, self.stay = place, count, stay
        self.came, self.cut = 0, 0
        self._open = selectors.DefaultSelector()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _arrive(self):
        # Nobody of them follows `churn:*`: a room that somebody follows, also by a pattern, is not let go.
        ways = [("rooms=stay:1", "Accept: text/event-stream"), ("rooms=stay:*", _UPGRADE[:-2]), ("rooms=stay:*&mode=latest&period=1m", _UPGRADE[:-2]),
                ("rooms=keyed:*,stay:1", "Accept: text/event-stream")]
        query, header = ways[self.came % len(ways)]
        connection = self.place.connect()
        connection.sendall(self.place.head(f"GET /v1/stream?{query}", header))
        connection.setblocking(False)
        self._open.register(connection, selectors.EVENT_READ, time.monotonic() + self.stay * self.place.random.uniform(0.5, 1.5))
        self.came += 1

    def _run(self):
        while not self._over.is_set():
            while len(self._open.get_map()) < self.count and not self._over.is_set():
                self._arrive()
            for key, _ in self._open.select(0.05):
                try:
                    ended = not key.fileobj.recv(1 << 18)
                except OSError:
                    ended = True
                if ended:
                    self.cut += 1
                    self._drop(key.fileobj)
            now = time.monotonic()
            for key in [key for key in self._open.get_map().values() if key.data < now]:
                self._drop(key.fileobj)
        for key in list(self._open.get_map().values()):
            self._drop(key.fileobj)

    def _drop(self, connection):
        self._open.unregister(connection)
        connection.close()

    def leave(self):
        """All of them go."""
        self._over.set()
        self._thread.join(WAIT)
