"""Server-Sent Events read by a real `curl -N`, parsed line by line as the HTML standard says."""

import json
import re
import subprocess
import threading
import time
from urllib.parse import urlencode

from .process import kill, spawn

WAIT = 15


class Message:
    """One message: `name` ("message" when unnamed), `data` as JSON, `id` as its own line gave it (None without one) and
    `last_id`, what a browser would now send as Last-Event-ID."""

    def __init__(self, name, text, own_id, last_id):
        self.name, self.text, self.id, self.last_id = name, text, own_id, last_id
        self.data = json.loads(text)

    def __repr__(self):
        return f"<{self.name} id={self.id} {self.text[:200]}>"


class Sse:
    """One curl on /v1/stream, or on the `path` of another stream, which needs no rooms; `curl` are more options for it."""

    def __init__(self, daemon, rooms=None, last_id=None, key="", headers=None, curl=(), path="/v1/stream", **params):
        command = ["curl", "-sS", "-N", "-i", "--http1.1", "--noproxy", "*", "-H", "Accept: text/event-stream"]
        if key is not None:
            command += ["-H", f"Authorization: Bearer {key or daemon.key}"]
        if last_id is not None:
            command += ["-H", f"Last-Event-ID: {last_id}"]
        for name, value in (headers or {}).items():
            command += ["-H", f"{name}: {value}"]
        if daemon.authority:
            command += ["--cacert", str(daemon.authority)]
        command += curl
        query = urlencode({**({} if rooms is None else {"rooms": rooms}), **params})
        self.child = spawn(command + [f"{daemon.url}{path}?{query}"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.status, self.headers, self.retry, self.last_id = None, {}, None, ""
        self.comments, self.lines, self.events = [], [], []
        self._waiting, self._ended, self._change = [], False, threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            self._read_head()
            self._read_body()
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _read_head(self):
        lines = []
        for raw in self.child.stdout:
            line = raw.decode("latin-1").strip()
            if not line:
                break
            lines.append(line)
        if lines:
            headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            with self._change:
                self.headers, self.status = headers, int(lines[0].split()[1])
                self._change.notify_all()

    def _read_body(self):
        name, data, own_id = "message", [], None
        for raw in self.child.stdout:
            for line in re.split(r"\r\n|\r|\n", raw.decode("utf-8").removesuffix("\n").removesuffix("\r")):
                with self._change:
                    self.lines.append(line)
                    field, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    if line == "":
                        if data:
                            self._waiting.append(Message(name, "\n".join(data), own_id, self.last_id))
                        name, data, own_id = "message", [], None
                    elif line.startswith(":"):
                        self.comments.append(line[1:])
                    elif field == "event":
                        name = value
                    elif field == "data":
                        data.append(value)
                    elif field == "id":
                        own_id = self.last_id = value
                    elif field == "retry":
                        self.retry = int(value)
                    self._change.notify_all()

    def wait(self, check, what, timeout=WAIT):
        """Waits until `check()` is true of what came; returns its answer."""
        deadline = time.monotonic() + timeout
        with self._change:
            while True:
                found = check()
                if found:
                    return found
                rest = deadline - time.monotonic()
                if rest <= 0 or self._ended:
                    raise AssertionError(f"{what}: {'stream ended' if self._ended else f'not within {timeout} s'}; "
                                         f"status {self.status}, last lines {self.lines[-6:]}")
                self._change.wait(rest)

    def head(self):
        """Status and headers, once they are there."""
        self.wait(lambda: self.status, "response headers")
        return self.status, self.headers

    def next(self, timeout=WAIT):
        """The next message of any name."""
        self.wait(lambda: self._waiting, "a message", timeout)
        with self._change:
            return self._waiting.pop(0)

    def welcome(self):
        """The first message, which must be the welcome. After it the stream is joined: what is published now arrives."""
        first = self.next()
        assert first.name == "welcome", f"the first message is no welcome: {first}"
        return first.data

    def notice(self, name, timeout=WAIT):
        """The next notice of this name; others and events are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message.name == name:
                return message

    def event(self, timeout=WAIT):
        """The next event; heartbeats are passed over, any other notice is a failure."""
        while True:
            message = self.next(timeout)
            if message.name == "message":
                return message
            assert message.name in ("heartbeat", "welcome"), f"an event was expected: {message}"

    def take(self, count, timeout=WAIT):
        """The next `count` events."""
        return [self.event(timeout) for _ in range(count)]

    def ended(self, timeout=WAIT):
        """Waits for the server to end the stream; all messages not yet taken, and curl's exit code."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the server did not end the stream within {timeout} s"
        return self._waiting, self.child.wait(timeout)

    def stop(self):
        """Breaks off, as a network does."""
        kill(self.child)
        self._thread.join(10)
