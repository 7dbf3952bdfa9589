"""Child processes that never outlive their test, and waits that have a deadline.

Every child is in its own process group, dies with pytest (parent-death signal) and is killed at the end of its test,
but for those that a module's tests share.
"""

import ctypes
import os
import re
import signal
import subprocess
import threading
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_children = []


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, lasting=False, **options):
    """Starts a child in its own group. Call it from the main thread only: the parent-death signal follows the thread.
    With `lasting` it may outlive its test; whoever started it ends it."""
    assert threading.current_thread() is threading.main_thread(), "spawn children from the main thread"
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent, **options)
    if not lasting:
        _children.append(child)
    return child


def kill(child):
    """Kills a child with all that it started, and takes its exit code."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait(10)
    if child in _children:
        _children.remove(child)


def kill_all():
    """Ends whatever the test left running."""
    for child in list(_children):
        kill(child)


class Lines:
    """The lines of a child's output, gathered by a thread as they come, so that the child never blocks on its pipe."""

    def __init__(self, pipe):
        self._lines = []
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe):
        with pipe:
            for raw in pipe:
                with self._change:
                    self._lines.append(_ANSI.sub("", raw.decode("utf-8", "replace")))
                    self._change.notify_all()
        with self._change:
            self._closed = True
            self._change.notify_all()

    def text(self):
        """All that came so far."""
        with self._change:
            return "".join(self._lines)

    def finish(self, timeout=10):
        """All that came, after the output was closed."""
        self._thread.join(timeout)
        return self.text()

    def count(self):
        """How many lines came so far."""
        with self._change:
            return len(self._lines)

    def wait_for(self, pattern, timeout, start=0):
        """The first match of `pattern` in a line from `start` on, or None when the output ended or the time is over."""
        deadline = time.monotonic() + timeout
        seen = start
        with self._change:
            while True:
                while seen < len(self._lines):
                    match = re.search(pattern, self._lines[seen])
                    seen += 1
                    if match:
                        return match
                rest = deadline - time.monotonic()
                if self._closed or rest <= 0:
                    return None
                self._change.wait(rest)


def eventually(check, what, timeout=10, every=0.02):
    """Asks until `check()` is true and returns that; for things that announce themselves to nobody. `what` names the promise."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last answer: {found!r})")
        time.sleep(every)
