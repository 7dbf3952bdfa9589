"""Exactly once, from log to log: a daemon that is killed with -9 again and again while it works, and while it comes to itself, brings in
the end the very same events and tables as one that was never killed. Nothing is missing, nothing doubled, in the very same order.

What may differ between two runs is only in which order events of different rooms meet; so what is compared depends on one room's order.
"""

import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
import requests

from harness import pipelines
from harness.api import numbers
from harness.daemon import Daemon
from harness.pipelines import listed, state, working, write
from harness.process import eventually

SITES, EVENTS, KILLS = 4, 800, 28
BEGIN = 1_767_225_600_000
DAY = 86_400_000


def pipeline(frm, *steps, out, more=""):
    """A pipeline's file."""
    return f'[pipeline]\nfrom = "{frm}"\n{more}\n' + "".join(f"[[step]]\n{step}\n" for step in steps) + f"[[output]]\n{out}\n"


PIPELINES = {
    "alarms": pipeline("in:*", 'op = "threshold"\nfield = "v"\nabove = 3.0\nclear_above = 1.0\nbelow = -3.0', out='room = "alarms:{room}"'),
    "unusual": pipeline("in:*", 'op = "anomaly"\nfield = "v"\nby = "site"\nsamples = 40\nwarm_up = 10\nthreshold = 3.5\nmin_deviation = 0.5', out='room = "unusual:{room}"'),
    "totals": pipeline("in:*", 'op = "aggregate"\nby = "site"\nreset = "5m"\n[step.fields]\nv = ["sum", "mean", "min", "max", "stddev", "p95", "first", "last", "delta"]\nstatus = ["distinct", "last"]',
                       out='room = "totals:{key}"'),
    "batches": pipeline("in:*", 'op = "batch"\nby = "site"\ncount = 7\nitems = "data"', out='room = "batches:{key}"'),
    "changed": pipeline("in:*", 'op = "dedupe"\nmode = "changes"\nfield = "status"\nwithin = "24h"', 'op = "delta"\nfull_every = 5\nby = "key"', out='room = "changed:{room}"'),
    "routed": pipeline("in:*", 'op = "route"\nfirst = false\nmatched = "pass"\n[[step.to]]\nwhere = "data.v > 1.5"\nroom = "high:{site}"\nkind = "high"\n[[step.to]]\nwhere = "data.v < -1.5"\nroom = "low:{site}"',
                       'op = "map"\nset = { twice = "data.v * 2.0", name = "data.status + \'!\'" }\nremove = ["pad"]', out='room = "mapped:{site}"'),
    "tumbling": pipeline("in:0", 'op = "window"\nkind = "tumbling"\nsize = "20s"\nby = "key"\ndisorder = "5s"\nlateness = "10s"\nidle = "0s"\n[step.fields]\nv = ["mean", "max", "count", "p50", "trend"]',
                         out='room = "tumbling"'),
    "sliding": pipeline("in:1", 'op = "window"\nkind = "sliding"\nsize = "30s"\nevery = "10s"\nby = "key"\ndisorder = "5s"\nidle = "0s"\n[step.fields]\nv = ["mean", "min"]', out='room = "sliding"'),
    "sessions": pipeline("in:2", 'op = "window"\nkind = "session"\ngap = "8s"\nby = "key"\ndisorder = "5s"\nidle = "0s"\n[step.fields]\nv = ["sum"]', out='room = "sessions"'),
    "joined": pipeline("in:*", 'op = "join"\nwith = "names"\non = "key"\nas = "name"', out='room = "joined:{site}"'),
    # Tables, and pipelines that work on what others bring out.
    "tables": pipeline("mapped:*", out='room = "table:{site}"\nstate = true\n[[output]]\nroom = "merged:{site}"\nkey = "{status}"\nstate = true\nstate_mode = "merge"'),
    "second": pipeline("mapped:*", 'op = "filter"\nwhere = "data.twice > 0.0"', 'op = "batch"\nby = "site"\ncount = 5', out='room = "second:{key}"'),
    "third": pipeline("second:*", 'op = "aggregate"\nby = "key"\n[step.fields]\ncount = ["sum"]', out='room = "third:{key}"'),
    "windowed": pipeline("tumbling", 'op = "aggregate"\nby = "key"\n[step.fields]\nv_count = "sum"\nv_max = "max"', out='room = "windowed"'),
    "on": pipeline("alarms:*", out='room = "on:{room}"\nstate = true'),
}


def events_of(site):
    """What a site says: random walks of five wells, some late, some without the number or with something else in its place."""
    dice, walks, made = random.Random(site), [0.0] * 5, []
    for n in range(EVENTS):
        well = dice.randrange(5)
        walks[well] = round(walks[well] * 0.97 + dice.gauss(0, 0.8), 6)
        data = {"n": n, "site": str(site), "v": walks[well], "status": dice.choice(["ok", "ok", "ok", "warm", "hot"]), "pad": "x" * dice.randrange(200)}
        if n % 37 == 5:
            del data["v"]
        if n % 53 == 7:
            data["v"] = "much"
        late = 20_000 if n % 29 == 3 else dice.choice([0, 0, 1500])
        made.append({"kind": "sample", "key": f"w{site}.{well}", "id": f"{site}-{n}", "timestamp": BEGIN + n * 1000 - late, "data": data})
    # The last of all, by which open windows come out.
    made.append({"kind": "sample", "key": f"w{site}.0", "id": f"{site}-end", "timestamp": BEGIN + DAY, "data": {"n": -1, "site": str(site), "v": 0.0, "status": "end"}})
    return made


class Feeder:
    """Publishes all sites' events in batches from a thread, each until it is acknowledged; what was sent before is sent again with the same ids."""

    def __init__(self, daemon, seed):
        self.daemon, self.acked, self.error = daemon, 0, None
        self._progress, self._stop = threading.Condition(), threading.Event()
        dice, left = random.Random(seed), {site: events_of(site) for site in range(SITES)}
        self.batches = []
        while any(left.values()):
            site = dice.choice([site for site, events in left.items() if events])
            size = dice.randrange(8, 25)
            self.batches.append((f"in:{site}", left[site][:size]))
            left[site] = left[site][size:]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            with requests.Session() as session:
                session.trust_env = False
                for room, events in self.batches:
                    while not self._stop.is_set():
                        with suppress(requests.RequestException, AssertionError):
                            self.daemon.publish(room, events, session=session, ack="logged")
                            break
                        self._stop.wait(0.005)
                    with self._progress:
                        self.acked += 1
                        self._progress.notify_all()
        except BaseException as error:
            self.error = error

    def wait(self, count, timeout=20):
        """Waits until so many batches are acknowledged, or all."""
        goal = min(count, len(self.batches))
        with self._progress:
            assert self._progress.wait_for(lambda: self.acked >= goal or self.error, timeout), f"{self.acked} of {goal} batches after {timeout} s"
        assert not self.error, self.error

    def stop(self):
        """Ends it, wherever it is."""
        self._stop.set()
        self._thread.join(20)


def prepared(start_daemon, **settings):
    """A running daemon with the pipelines; the table that one of them joins is known to it."""
    daemon = start_daemon(started=False, **pipelines.SETTINGS, **settings)
    write(daemon, **PIPELINES)
    working(daemon.start())
    daemon.publish("names", [{"kind": "name", "key": f"w{site}.{well}", "data": {"name": f"well {well} of {site}"}} for site in range(SITES) for well in range(5)])
    eventually(lambda: listed(daemon)["joined"]["keys"] == SITES * 5, "the names are known")
    return daemon


def reworded(dice):
    """Some pipelines in other words that mean the same, so that they are taken for changed ones."""
    return {name: f"# {dice.random()}\n{text}" for name, text in PIPELINES.items() if dice.random() < 0.3}


def die_while_starting(daemon, seconds):
    """Starts it and kills it so soon after, wherever it is then."""
    def shoot():
        while daemon.process is None:
            time.sleep(0.001)
        time.sleep(seconds)
        daemon.process.kill()

    shooter = threading.Thread(target=shoot, daemon=True)
    shooter.start()
    with suppress(AssertionError):
        daemon.start()
    shooter.join(20)
    daemon.kill9()


def everything(daemon):
    """All that came out, by room: each event without what is different in every run. Dead letters by the room that they came from."""
    found = {}
    for room in daemon.get("/v1/rooms", params={"limit": 10_000}).json()["rooms"]:
        for event in daemon.all_events(room["room"]):
            name, data = room["room"], event["data"]
            if name.startswith("dead-letter:"):
                origin = data["event"]
                name = f"{name} of {origin['room']}"
                data = {**data, "event": {**origin, "seq": 0}}
            same = (event["type"], event.get("kind"), event.get("key"), event.get("priority"), data)
            # A table's expiry apart, and that there is none of, all times are those of the events.
            found.setdefault(name, []).append((*same, None if name.startswith("names") else event["timestamp"]))
    return found


def tables(daemon):
    """All rooms' states."""
    rooms = [room["room"] for room in daemon.get("/v1/rooms", params={"limit": 10_000}).json()["rooms"]]
    return {room: found["data"] for room in rooms if (found := state(daemon, room)) is not None}


def at_rest(daemon):
    """Waits until nothing waits and nothing comes out any more."""
    before = []

    def look():
        now = [(one["works"], one["waiting"], one["events_in"], one["events_out"]) for one in listed(daemon).values()]
        now.append(sorted((room["room"], room["head"]) for room in daemon.get("/v1/rooms", params={"limit": 10_000}).json()["rooms"]))
        before.append(now)
        return len(before) > 3 and before[-1] == before[-2] == before[-3] and all(works and waiting == 0 for works, waiting, *_ in now[:-1])

    eventually(look, "the pipelines are done", timeout=40, every=0.25)
    return daemon


def differs(found, expected):
    """Where two runs differ, in words."""
    said = [f"{room}: {'missing' if room in expected else 'too much'} as a whole" for room in sorted(found.keys() ^ expected.keys())]
    for room in sorted(found.keys() & expected.keys()):
        here, there = found[room], expected[room]
        if here != there:
            at = next((at for at, (one, other) in enumerate(zip(here, there)) if one != other), min(len(here), len(there)))
            count = Counter(map(repr, here))
            count.subtract(map(repr, there))
            more, less = sum(n for n in count.values() if n > 0), -sum(n for n in count.values() if n < 0)
            said.append(f"{room}: {len(here)} events where {len(there)} were due, {more} too much, {less} missing; first at {at}:\n  {here[at:at + 1]}\n  instead of\n  {there[at:at + 1]}")
    return said


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a daemon brings that nobody kills."""
    daemon = None

    def start(started=True, **settings):
        nonlocal daemon
        daemon = Daemon(tmp_path_factory.mktemp("daemon"), settings, lasting=True)
        return daemon

    prepared(start)
    feeder = Feeder(daemon, seed=1)
    feeder.wait(10**9)
    at_rest(daemon)
    found = everything(daemon), tables(daemon)
    daemon.stop()
    return found


VARIANTS = {
    "by-snapshots": {"PIPELINES__SNAPSHOT_INTERVAL": "200ms", "LOG__GENERATION_BYTES": "1MiB"},
    "by-replay": {"PIPELINES__SNAPSHOT_INTERVAL": "1h", "ROOMS__DEFAULT__TAIL_EVENTS": 100, "PIPELINES__MAILBOX_MESSAGES": 50},
}


def test_the_reference_has_something_of_everything(expected):
    events, found = expected
    for room in ("alarms:in:0", "unusual:in:1", "totals:2", "batches:3", "changed:in:0", "high:1", "low:2", "mapped:3", "tumbling", "sliding", "sessions", "joined:0",
                 "second:1", "third:2", "windowed", "table:3", "merged:0", "on:alarms:in:1", "dead-letter:alarms of in:0", "dead-letter:tumbling of in:0"):
        assert len(events.get(room, [])) >= 5, f"{room}: {events.get(room)}"
    assert len(found) == 3 * SITES


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_daemon_that_was_killed_again_and_again_has_brought_the_very_same(start_daemon, expected, variant):
    dice = random.Random(variant)
    daemon = prepared(start_daemon, **VARIANTS[variant])
    feeder = Feeder(daemon, seed=variant)
    share = len(feeder.batches) / KILLS
    kills, whole = 0, False
    try:
        while kills < KILLS or feeder.acked < len(feeder.batches):
            feeder.wait(int(kills * share) + dice.randrange(1, 5))
            if dice.random() < 0.3:
                write(daemon, **reworded(dice))
                daemon.process.send_signal(signal.SIGHUP)
            time.sleep(dice.random() * 0.06)
            if dice.random() < 0.1:
                daemon.terminate()
            else:
                daemon.kill9()
                kills += 1
            if dice.random() < 0.2:
                write(daemon, **reworded(dice))
            while dice.random() < 0.3:
                die_while_starting(daemon, dice.random() * 0.12)
                kills += 1
            daemon.start()
            if whole:
                there = eventually(lambda: state(daemon, "table:0"), "the table is there again", timeout=20, every=0.001)
                assert {f"w0.{well}" for well in range(5)} <= set(there["data"]), f"a table that is there is there as a whole: {there}"
            elif kills > 5:
                # Whole for the first time, and with the next acknowledgement but one all that it stands on is in the log.
                eventually(lambda: (there := state(daemon, "table:0")) and there["keys"] >= 5, "the table is whole", timeout=20)
                feeder.wait(feeder.acked + 2)
                whole = True
        feeder.wait(10**9)
        at_rest(daemon)
    finally:
        feeder.stop()
    assert kills >= 25 and whole
    events, found = expected
    wrong = differs(everything(daemon), events)
    assert not wrong, f"after {kills} kills:\n" + "\n".join(wrong)
    assert tables(daemon) == found
    assert "ERROR" not in daemon.log_text()


# What all of this stands on, one by one.


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_after_two_restarts_a_room_has_all_of_its_events(start_daemon, end):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=100)
    for at in range(0, 500, 20):
        daemon.publish_numbers("in", range(at, at + 20))
    for at in (500, 507):
        getattr(daemon, end)()
        daemon.start()
        daemon.publish_numbers("in", range(at, at + 7))
    assert numbers(daemon.history("in", tail=20)["events"]) == list(range(494, 514))
    assert numbers(daemon.all_events("in")) == list(range(514))


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_after_two_restarts_the_ids_of_the_last_events_are_known(start_daemon, end):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=100)
    batches = [[{"kind": "k", "id": str(n), "data": {"n": n}} for n in range(at, at + 20)] for at in range(0, 500, 20)]
    batches.append([{"kind": "k", "id": str(n), "data": {"n": n}} for n in range(500, 507)])
    for batch in batches[:-1]:
        daemon.publish("in", batch)
    for _ in range(2):
        getattr(daemon, end)()
        daemon.start()
        daemon.publish("in", batches[-1])
    assert daemon.publish("in", batches[-1]) == {**daemon.publish("in", batches[-1]), "count": 0, "duplicates": 7}
    assert numbers(daemon.all_events("in")) == list(range(507))


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_after_a_restart_a_pattern_goes_on_from_its_cursor(start_daemon, sse, end):
    daemon = start_daemon()
    first = {room: daemon.publish_numbers(room, range(5))["first_seq"] for room in ("x:a", "x:b")}
    getattr(daemon, end)()
    daemon.start()
    stream = sse(daemon, "x:*", last_id=",".join(f"{room}={seq + 1}" for room, seq in first.items()))
    found = [message.data for message in stream.take(6, timeout=5)]
    for room in first:
        assert numbers(event for event in found if event["room"] == room) == [2, 3, 4]
