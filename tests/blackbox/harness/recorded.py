"""The recording of a real machine in tests/data, and streams that are made of it: with gaps, of differences, out of order, nested.

An event here is a dictionary with `room` (without its first part), `kind`, `ms` (milliseconds since 1970) and `data`.
"""

import gzip
import json
import random
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).parents[2] / "data" / "host.ndjson.gz"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def milliseconds(text):
    """RFC 3339 text as milliseconds since 1970, exactly."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def text_of(ms):
    """Milliseconds since 1970 as the daemon writes them."""
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache
def lines():
    """The recording as it lies there, a line an event."""
    return gzip.decompress(FILE.read_bytes()).decode().splitlines()


@lru_cache
def recorded(kind):
    """All of the recording of one room, such as `cpu`, as it happened."""
    events = [json.loads(line) for line in lines()]
    return [{"room": kind, "kind": event["kind"], "ms": milliseconds(event["timestamp"]), "data": event["data"]}
            for event in events if event["room"] == f"host:{kind}"]


@lru_cache
def thinned(gaps=(1000, 1999, 2000, 2001, 5000), least=12):
    """The processor's figures with events left out, so that there are gaps of just these lengths, one after the other."""
    events, kept, since, turn = recorded("cpu"), [], 0, 0
    places = {event["ms"]: place for place, event in enumerate(events)}
    place = 0
    while place < len(events):
        kept.append({**events[place], "room": "thinned"})
        since += 1
        after = places.get(events[place]["ms"] + gaps[turn]) if since >= least else None
        if after is None:
            place += 1
        else:
            place, since, turn = after, 0, (turn + 1) % len(gaps)
    return kept


@lru_cache
def shuffled(name, within_ms):
    """The processor's figures in another order: each comes up to so much later than it should."""
    dice = random.Random(within_ms)
    late = sorted((event["ms"] + dice.randrange(within_ms), place) for place, event in enumerate(recorded("cpu")))
    return [{**recorded("cpu")[place], "room": name} for _, place in late]


@lru_cache
def swings():
    """By how much the processor's figure changed each time: numbers on both sides of 0, and 0 itself."""
    events = recorded("cpu")
    return [{"room": "swings", "kind": "cpu", "ms": event["ms"], "data": {"change": event["data"]["usage"] - before["data"]["usage"]}}
            for before, event in zip(events, events[1:])]


@lru_cache
def nested():
    """All three rooms as one: objects of objects, in which fields come and go."""
    made = []
    for cpu, memory, network in zip(recorded("cpu"), recorded("memory"), recorded("network")):
        traffic = {name: rate for name, rate in network["data"].items() if rate > 0}
        data = {"host": {"cpu": cpu["data"], "memory": memory["data"]}, "name": "a"}
        if traffic:
            data["traffic"] = traffic
        if cpu["data"]["usage"] > 90:
            data["host"]["busy"] = [True, cpu["data"]["usage"]]
        made.append({"room": "nested", "kind": "host", "ms": cpu["ms"], "data": data})
    return made


def as_published(events, prefix="id"):
    """Events as a producer sends them: each says when it happened, and has an id."""
    return [{"kind": event["kind"], "timestamp": text_of(event["ms"]), "id": f"{prefix}-{place}", "data": event["data"]}
            for place, event in enumerate(events)]


def as_lines(events, first_seq=1):
    """Events of rooms `recorded:…` as `tidegate tail --json` prints them."""
    return [json.dumps({"type": "event", "room": f"recorded:{event['room']}", "seq": seq, "kind": event["kind"], "priority": "normal",
                        "timestamp": text_of(event["ms"]), "data": event["data"]}) for seq, event in enumerate(events, first_seq)]
