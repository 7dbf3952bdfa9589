"""Publishing from threads while readers come and go, and the check of what a reader saw."""

import random
import threading

import requests

from .api import TIMEOUT


class Publisher:
    """Publishes `{"n": i, "by": name}`, or what `make` makes of i, one after the other from a thread until stopped, or `total`
    times; keeps seq by n of all that was acknowledged. Goes on through refusals and a daemon that is away (the same n is not
    sent again)."""

    def __init__(self, daemon, room, name="p", total=None, ack="logged", pause=0.0, seed=0, make=None):
        self.daemon, self.room, self.name, self.total, self.ack, self.pause = daemon, room, name, total, ack, pause
        self._make = make or (lambda n: {"kind": "n", "data": {"n": n, "by": name}})
        self.acked, self.failed, self.sent, self.error = {}, 0, 0, None
        self._random = random.Random(seed)
        self._stop, self._progress = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            with requests.Session() as session:
                session.trust_env = False
                while not self._stop.is_set() and (self.total is None or self.sent < self.total):
                    self._once(session)
        except Exception as error:  # shown by `stop`, in the test's own thread
            self.error = error
        with self._progress:
            self._progress.notify_all()

    def _once(self, session):
        n, self.sent = self.sent, self.sent + 1
        body = self._make(n)
        try:
            seq = self.daemon.publish(self.room, body, session=session, ack=self.ack)["last_seq"]
        except (requests.RequestException, AssertionError):
            if self.total is not None:
                raise
            self.failed += 1
            self._stop.wait(0.02)  # the daemon is away; do not spin
            return
        with self._progress:
            self.acked[n] = seq
            self._progress.notify_all()
        if self.pause:
            self._stop.wait(self._random.random() * 2 * self.pause)

    def wait_acked(self, count, timeout=TIMEOUT):
        """Waits until `count` more events than now were acknowledged."""
        with self._progress:
            goal = len(self.acked) + count
            assert self._progress.wait_for(lambda: len(self.acked) >= goal or self.error, timeout), \
                f"only {len(self.acked)} of {goal} events acknowledged within {timeout} s"
        self._raise()

    def join(self, timeout=60):
        """Waits until all `total` are out; the acknowledged seqs by n."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"publisher {self.name} did not finish within {timeout} s"
        self._raise()
        return self.acked

    def stop(self):
        """Stops after the event in hand; the acknowledged seqs by n."""
        self._stop.set()
        return self.join()

    def _raise(self):
        if self.error:
            raise self.error


def in_threads(tasks, timeout=60):
    """Runs the functions at once in threads; returns their results, raises the first failure."""
    results, failures = [None] * len(tasks), []

    def run(place, task):
        try:
            results[place] = task()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), f"a thread did not finish within {timeout} s"
    if failures:
        raise failures[0]
    return results


def assert_no_hole(found, first, last):
    """`found` is exactly first, first + 1, … last."""
    for place, seq in enumerate(found):
        expected = first + place
        assert seq == expected, f"at place {place}: seq {seq} where {expected} was due (around: {found[max(0, place - 3):place + 4]})"
    assert len(found) == last - first + 1, f"{len(found)} events, {last - first + 1} expected; ended at {found[-1:]} instead of {last}"


def assert_increasing(found):
    """Strictly increasing: no duplicate, no reordering."""
    for before, after in zip(found, found[1:]):
        assert before < after, f"seq {after} came after {before}"
