"""HTTP by hand: sends exactly these bytes, right or wrong, and reads every answer that comes until the connection ends.

What the server answers must itself be good HTTP, whatever it was sent: that is checked on each answer.
"""

import re
import socket
import time

from .frames import chopped

WAIT = 15
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e]*\Z")


def request(daemon, line, *headers, body=b"", host=True, key=True):
    """A request: its first line, header lines, and its body as it goes over the wire."""
    lines = [line, *([f"Host: {daemon.address}"] if host else []), *([f"Authorization: Bearer {daemon.key}"] if key else []), *headers]
    return b"\r\n".join(one if isinstance(one, bytes) else one.encode() for one in lines) + b"\r\n\r\n" + body


def publish(daemon, room, *headers, body=b'{"kind":"k","data":1}', length=True):
    """A publish; without `length` the headers say themselves how long the body is."""
    return request(daemon, f"POST /v1/rooms/{room}/events HTTP/1.1",
                   *([f"Content-Length: {len(body)}"] if length else []), *headers, body=body)


class Answer:
    """An answer that came."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self):
        return f"<answer {self.status} {self.body[:200]!r}>"

    def header(self, name):
        """A header's value, or None; one that may stand once only."""
        values = [value for known, value in self.headers if known == name.lower()]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


class Raw:
    """One TCP connection to the daemon."""

    def __init__(self, daemon):
        host, port = daemon.address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""
        self.cut = False

    def send(self, data, size=None):
        """Sends bytes, in pieces of `size` if that is given. A server that hangs up meanwhile is not a failure: False."""
        try:
            for piece in chopped(data, size) if size else [data]:
                self.socket.sendall(piece)
            return True
        except TimeoutError:
            raise
        except OSError:
            self.cut = True
            return False

    def drip(self, data, every):
        """Sends a byte at a time with pauses, until the server hangs up or has answered; the seconds until then."""
        start = time.monotonic()
        for at in range(len(data)):
            if not self.send(data[at:at + 1]) or self._more(every) is not None:
                break
        return time.monotonic() - start

    def _more(self, timeout):
        """Reads what is there: True with bytes, False at the end, None when nothing came in time."""
        self.socket.settimeout(max(0.001, timeout))
        try:
            got = self.socket.recv(65536)
        except TimeoutError:
            return None
        except OSError:
            self.cut, got = True, b""
        finally:
            self.socket.settimeout(WAIT)
        self._left += got
        return bool(got)

    def _read(self, enough, deadline):
        """Reads until `enough()` is true of what waits; its answer, or None at the end of the connection."""
        while True:
            found = enough()
            if found:
                return found
            more = self._more(deadline - time.monotonic())
            assert more is not None, f"neither an answer nor an end in time; so far {self._left[:300]!r}"
            if not more:
                return None

    def answer(self, timeout=WAIT, bodiless=False):
        """The next answer, or None when the connection ends without one; `bodiless` to HEAD."""
        deadline = time.monotonic() + timeout
        head = self._read(lambda: b"\r\n\r\n" in self._left, deadline)
        if not head:
            assert not self._left, f"the connection ended inside an answer's head: {self._left[:300]!r}"
            return None
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        said = re.fullmatch(rb"HTTP/1\.[01] ([1-5]\d\d) [\t\x20-\x7e]*", first)
        assert said, f"no status line: {first!r}"
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon and _NAME.match(name) and _VALUE.match(value), f"no header line: {line!r}"
            headers.append((name.decode().lower(), value.decode().strip()))
        found = Answer(int(said.group(1)), headers, b"")
        if found.status >= 200 and found.status not in (204, 304) and not bodiless:
            found.body = self._body(found, deadline)
        return found

    def _body(self, found, deadline):
        length, coding = found.header("content-length"), found.header("transfer-encoding")
        if coding == "chunked":
            assert length is None, "an answer with two lengths"
            return self._chunks(deadline)
        assert coding is None, f"an answer in {coding}"
        if length is not None:
            length = int(length)
            assert self._read(lambda: len(self._left) >= length or length == 0, deadline), "an answer's body broke off"
        else:
            self._read(lambda: False, deadline)
            length = len(self._left)
        body, self._left = self._left[:length], self._left[length:]
        return body

    def _chunks(self, deadline):
        body = b""
        while True:
            assert self._read(lambda: b"\r\n" in self._left, deadline), "an answer's chunks broke off"
            size, _, self._left = self._left.partition(b"\r\n")
            size = int(size, 16)
            assert self._read(lambda: len(self._left) >= size + 2, deadline), "an answer's chunks broke off"
            body, end, self._left = body + self._left[:size], self._left[size:size + 2], self._left[size + 2:]
            assert end == b"\r\n", f"a chunk's end is {end!r}"
            if size == 0:
                return body

    def answers(self, timeout=WAIT):
        """All answers until the server ends the connection. It must end it: where nothing is wrong, by its own deadlines."""
        found, deadline = [], time.monotonic() + timeout
        while True:
            one = self.answer(deadline - time.monotonic())
            if one is None:
                return found
            found.append(one)

    def rest(self, timeout=WAIT):
        """Whatever bytes come until the server ends the connection."""
        self._read(lambda: False, time.monotonic() + timeout)
        found, self._left = self._left, b""
        return found

    def ended(self, timeout=WAIT):
        """The server ends the connection without another word."""
        found = self.answer(timeout)
        assert found is None, f"an end was expected: {found}"

    def close(self):
        """Breaks off."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def exchange(daemon, data, size=None):
    """Sends bytes over a connection of their own and returns all answers until the server ends it."""
    with Raw(daemon) as connection:
        connection.send(data, size)
        return connection.answers()


def statuses(answers):
    """The status of each."""
    return [answer.status for answer in answers]
