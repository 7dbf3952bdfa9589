"""A WebSocket client that builds its frames by hand, the wrong ones too, and looks at each frame that comes back.

`frame` makes the bytes of one frame, `Frames` is one connection: `send` takes bytes as they are, in one piece or chopped.
What the server sends must itself be as RFC 6455 has it, whatever it was sent.
"""

import base64
import hashlib
import itertools
import json
import os
import socket
import struct
import time

WAIT = 10
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\x9e\x07\xf1\x5a"
_ids = itertools.count(1)


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=_MASK, length=None, width=None):
    """One frame. `length` is what the header says instead of the truth, `width` how many bits say it (7, 16 or 64)."""
    payload = payload.encode() if isinstance(payload, str) else bytes(payload)
    length = len(payload) if length is None else length
    width = width or (7 if length < 126 else 16 if length < 1 << 16 else 64)
    masked = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if width == 7:
        head += bytes([masked | length])
    else:
        head += bytes([masked | (126 if width == 16 else 127)]) + struct.pack(">H" if width == 16 else ">Q", length)
    if mask is None:
        return head + payload
    stream = (mask * (len(payload) // 4 + 1))[:len(payload)]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + hidden.to_bytes(len(payload), "big")


def text(payload, **more):
    """A text frame; an object becomes JSON."""
    return frame(TEXT, payload if isinstance(payload, (str, bytes)) else json.dumps(payload, ensure_ascii=False), **more)


def fragments(opcode, parts, **more):
    """One message in as many frames as there are parts."""
    last = len(parts) - 1
    return [frame(opcode if n == 0 else CONTINUATION, part, fin=n == last, **more) for n, part in enumerate(parts)]


def chopped(data, size):
    """`data` in pieces of `size`."""
    return [data[start:start + size] for start in range(0, len(data), size)]


def close_frame(code=None, reason=b"", **more):
    """A close frame; without a code an empty one."""
    return frame(CLOSE, b"" if code is None else struct.pack(">H", code) + reason, **more)


def echo_text(data="x", size=None, key="e"):
    """A `ping` command with this data, which comes back in a `pong`; with `size` padded to so many bytes in all."""
    command = json.dumps({"type": "ping", "id": key, "data": data}, ensure_ascii=False).encode()
    if size is not None:
        assert size >= len(command), f"no ping is as short as {size}"
        command = command[:-2] + b"x" * (size - len(command)) + command[-2:]
    return command


def upgrade_head(daemon, query="", *, method="GET", version="HTTP/1.1", drop=(), **headers):
    """The head of an opening handshake. Headers by name with _ for -; a list stands for several lines, `drop` leaves some out."""
    wanted = {"Host": daemon.address, "Authorization": f"Bearer {daemon.key}", "Connection": "Upgrade", "Upgrade": "websocket",
              "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
    known = {name.lower(): name for name in wanted}
    for name, value in headers.items():
        name = name.replace("_", "-")
        wanted[known.get(name.lower(), name)] = value
    lines = [f"{name}: {one}" for name, value in wanted.items() if name not in drop
             for one in (value if isinstance(value, list) else [value])]
    return "\r\n".join([f"{method} /v1/stream{query} {version}", *lines, "", ""]).encode(), wanted["Sec-WebSocket-Key"]


class Frame:
    """A frame that came."""

    def __init__(self, fin, opcode, payload):
        self.fin, self.opcode, self.payload = fin, opcode, payload

    def __repr__(self):
        return f"<frame opcode={self.opcode} fin={self.fin} {self.payload[:100]!r}>"


class Frames:
    """One connection to /v1/stream, past its handshake and its welcome. `early` goes out in one piece with the handshake."""

    def __init__(self, daemon, query="", early=b"", receive_buffer=None, **headers):
        host, port = daemon.address.rsplit(":", 1)
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT)
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""
        self.reset = False
        try:
            self._open(daemon, query, early, headers)
        except BaseException:
            self.socket.close()
            raise

    def _open(self, daemon, query, early, headers):
        head, key = upgrade_head(daemon, query, **headers)
        self.socket.sendall(head + early)
        while b"\r\n\r\n" not in self._left:
            assert self._more(), f"the server closed in its handshake: {self._left!r}"
        answer, _, self._left = self._left.partition(b"\r\n\r\n")
        lines = answer.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 101"), answer
        self.headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        proof = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
        assert self.headers.get("sec-websocket-accept") == proof, answer
        self.welcome = self.message()
        assert self.welcome["type"] == "welcome", f"the first message is no welcome: {self.welcome}"

    def send(self, *frames, size=None):
        """Sends bytes in one piece, or in pieces of `size`, each a packet of its own. A server that hangs up meanwhile is not a
        failure yet, for it may have said why: False, and `reset` is set."""
        data = b"".join(frames)
        try:
            for piece in chopped(data, size) if size else [data]:
                self.socket.sendall(piece)
            return True
        except (BrokenPipeError, ConnectionResetError):
            self.reset = True
            return False

    def _more(self, timeout=WAIT):
        self.socket.settimeout(max(0.01, timeout))
        try:
            got = self.socket.recv(65536)
        except ConnectionResetError:
            self.reset, got = True, b""
        finally:
            self.socket.settimeout(WAIT)
        self._left += got
        return bool(got)

    def next(self, timeout=WAIT):
        """The next frame, or None at the end of the connection."""
        deadline = time.monotonic() + timeout
        while True:
            found = self._parse()
            if found:
                return found
            try:
                more = self._more(deadline - time.monotonic())
            except TimeoutError:
                raise AssertionError(f"no frame within {timeout} s; so far {self._left[:200]!r}") from None
            if not more:
                assert not self._left, f"the connection ended inside a frame: {self._left[:200]!r}"
                return None

    def _parse(self):
        data = self._left
        if len(data) < 2:
            return None
        opcode, fin, length, at = data[0] & 15, bool(data[0] & 0x80), data[1] & 0x7F, 2
        assert not data[0] & 0x70, f"the server set a reserved bit: {data[:20]!r}"
        assert not data[1] & 0x80, f"the server masked a frame: {data[:20]!r}"
        assert opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), f"the server sent opcode {opcode}"
        if length >= 126:
            size, least = (2, 126) if length == 126 else (8, 1 << 16)
            if len(data) < at + size:
                return None
            length, at = int.from_bytes(data[at:at + size], "big"), at + size
            assert length >= least, f"the server said a length in more bytes than it needs: {data[:20]!r}"
        assert opcode < 8 or (fin and length <= 125), f"a control frame as none may be: {data[:20]!r}"
        if len(data) < at + length:
            return None
        payload, self._left = data[at:at + length], data[at + length:]
        return Frame(fin, opcode, payload)

    def message(self, timeout=WAIT):
        """The next text message as JSON; the server's own pings and heartbeats are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.next(deadline - time.monotonic())
            assert found, "the connection ended where a message was expected"
            if found.opcode in (PING, PONG):
                continue
            assert found.opcode == TEXT and found.fin, f"a text message was expected: {found}"
            message = json.loads(found.payload)
            if message["type"] != "heartbeat":
                return message

    def pong(self):
        """The payload of the next pong frame; nothing but the server's own pings and heartbeats may come before it."""
        while True:
            found = self.next()
            assert found, "the connection ended where a pong was expected"
            if found.opcode == PONG:
                return found.payload
            beat = found.opcode == TEXT and json.loads(found.payload)["type"] == "heartbeat"
            assert beat or found.opcode == PING, f"a pong was expected: {found}"

    def error(self, code=None):
        """The next message, which must be an error."""
        found = self.message()
        assert found["type"] == "error" and found["message"] and found["code"], found
        assert code is None or found["code"] == code, found
        return found

    def answered(self, data="x"):
        """The next message, which must be the pong of a command sent before."""
        found = self.message()
        assert found["type"] == "pong" and found["data"] == data, f"the pong of {str(data)[:60]!r} was expected: {str(found)[:300]}"

    def alive(self):
        """Still open, and the next that it answers is this."""
        key = f"alive-{next(_ids)}"
        self.send(text(echo_text(key, key=key)))
        self.answered(key)
        return True

    def closing(self, timeout=WAIT):
        """Reads to the close frame: its code (None when it has none), its reason, and the messages before it.
        Code 1006 when the connection ended without one."""
        before, deadline = [], time.monotonic() + timeout
        while True:
            found = self.next(deadline - time.monotonic())
            if found is None:
                return 1006, "", before
            if found.opcode == CLOSE:
                assert len(found.payload) != 1, "a close frame with half a code"
                code = int.from_bytes(found.payload[:2], "big") if found.payload else None
                return code, found.payload[2:].decode("utf-8"), before
            if found.opcode == TEXT:
                message = json.loads(found.payload)
                before += [message] if message["type"] != "heartbeat" else []

    def fails(self, *codes, timeout=WAIT):
        """The server ends the connection with one of these codes, and, once that is answered, the TCP connection too.
        Returns the messages before."""
        code, _, before = self.closing(timeout)
        assert code in codes, f"closed with {code} instead of {codes}; before it {before}"
        self.send(close_frame(code))
        self.ended()
        return before

    def ended(self, timeout=WAIT):
        """The server closes the TCP connection, and nothing comes before that."""
        found = self.next(timeout)
        assert found is None, f"after the close came {found}"

    def close(self):
        """Breaks off, as a network does."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
