"""The JavaScript clients in a real Node: each test's script reads commands from its stdin and tells what happened on its stdout,
a JSON object a line."""

import json
import subprocess
import threading
import time
from pathlib import Path

from .process import kill, spawn

JS = Path(__file__).parents[1] / "js"
WAIT = 15


class Script:
    """A script in tests/blackbox/js. `seen` is all it ever told."""

    def __init__(self, name):
        assert (JS / "node_modules").is_dir(), "run tests/setup, which installs the packages of tests/blackbox/js"
        self.child = spawn(["node", name], cwd=JS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.seen, self._read, self._over = [], 0, False
        self._change = threading.Condition()
        threading.Thread(target=self._gather, daemon=True).start()

    def _gather(self):
        with self.child.stdout as output:
            for line in output:
                with self._change:
                    self.seen.append(json.loads(line))
                    self._change.notify_all()
        with self._change:
            self._over = True
            self._change.notify_all()

    def do(self, command, **parameters):
        """Has it do something."""
        self.child.stdin.write(json.dumps({"command": command, **parameters}) + "\n")
        self.child.stdin.flush()

    def next(self, wanted=lambda _: True, timeout=WAIT):
        """The next thing it told that is wanted; what came before it is passed over."""
        deadline = time.monotonic() + timeout
        with self._change:
            while True:
                while self._read < len(self.seen):
                    self._read += 1
                    if wanted(self.seen[self._read - 1]):
                        return self.seen[self._read - 1]
                rest = deadline - time.monotonic()
                assert rest > 0 and not self._over, f"it did not come; all that came: {self.seen[-20:]}"
                self._change.wait(rest)

    def stop(self):
        """Ends it."""
        kill(self.child)


class SioJs(Script):
    """The real socket.io-client."""

    def __init__(self):
        super().__init__("sio.mjs")

    def connect(self, url, token=None, **options):
        """Connects; the first thing that came of it is for `what` to find."""
        auth = {} if token is None else {"auth": {"token": token}}
        self.do("connect", url=url, options={**auth, **options})
        return self

    def what(self, what, timeout=WAIT):
        """The next thing of this kind."""
        return self.next(lambda told: told["what"] == what, timeout)

    def event(self, name, timeout=WAIT):
        """The arguments of the next event of this name."""
        return self.next(lambda told: told["what"] == "event" and told["name"] == name, timeout)["args"]

    def emit(self, name, *args):
        """Sends an event."""
        self.do("emit", name=name, args=args)

    def subscribe(self, well, **more):
        """Subscribes; what it was answered."""
        self.emit("subscribe", {"well_id": well, **more})
        return self.event("subscribed")[0]


class EventSourceJs(Script):
    """The real eventsource package; it follows events of these names."""

    def __init__(self, url, names):
        super().__init__("eventsource.mjs")
        self.do("open", url=url, names=names)

    def what(self, what, timeout=WAIT):
        """The next thing of this kind."""
        return self.next(lambda told: told["what"] == what, timeout)

    def event(self, name, timeout=WAIT):
        """The next event of this name: `id` and `data`."""
        return self.next(lambda told: told["what"] == "event" and told["name"] == name, timeout)
