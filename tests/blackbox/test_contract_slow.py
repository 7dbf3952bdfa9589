"""What a client says is to happen when it cannot keep up: older events give way and it is told, it reads on from the history, the
newest of each key is kept, or it is sent away. Whatever it says, the books of its connection add up.

The slow reader is one that leaves its socket unread, with little buffered on both sides, while megabytes are published.
"""

import os
import signal

import pytest

from harness.api import numbers, seqs
from harness.books import connection, ledger, settled
from harness.load import assert_increasing, assert_no_hole
from harness.process import eventually
from harness.served import STREAMS
from harness.tokens import SECRET

SMALL = {"LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "60s", "AUTH__JWT_SECRET": SECRET}
ROOM = "well:1"
COUNT = 4000


def publish_much(daemon, count=COUNT, pad=2000, keys=0, start=0):
    """Events of about `pad` bytes with their number, and with `keys` keys in turn; first and last seq."""
    told = []
    for begin in range(start, start + count, 250):
        body = [{"kind": f"k{n % 2}", "data": {"n": n, "pad": "x" * pad}, **({"key": f"key-{n % keys}"} if keys else {})}
                for n in range(begin, min(begin + 250, start + count))]
        told.append(daemon.publish(ROOM, body))
    return told[0]["first_seq"], told[-1]["last_seq"]


def held_up(serve, way, daemon, **asked):
    """A reader that reads nothing until `read_on`."""
    if way != "sse":
        return serve(way, daemon, ROOM, slow=True, **asked)
    reader = serve(way, daemon, ROOM, **asked)
    os.kill(reader.sse.child.pid, signal.SIGSTOP)
    return reader


def read_on(reader):
    if hasattr(reader, "ws"):
        reader.ws.read_on()
    else:
        os.kill(reader.sse.child.pid, signal.SIGCONT)


def accounted(reader, last):
    """Reads until `last` was delivered or told as dropped; events and dropped notices."""
    events, dropped, reached = [], [], 0
    while reached < last:
        message = reader.next(30)
        if message["type"] == "event":
            events.append(message)
            reached = max(reached, message["seq"])
        elif message["type"] == "dropped":
            dropped.append(message)
            reached = max(reached, message["to_seq"])
        else:
            assert message["type"] == "heartbeat", message
    return events, dropped


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("on_full", ["catch_up", "displace", "reject"])
def test_with_catch_up_every_event_comes_whatever_the_namespace_says(start_daemon, serve, way, on_full):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL=on_full)
    slow = held_up(serve, way, daemon, on_slow="catch_up")
    first, last = publish_much(daemon)
    read_on(slow)
    events = slow.take(COUNT)
    assert_no_hole(seqs(events), first, last)
    assert settled(daemon, slow.connection, due=COUNT)["delivered"] == COUNT
    assert connection(daemon, slow.connection)["catch_ups"] >= 1


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("on_full", ["catch_up", "displace", "wait"])
def test_with_displace_older_events_give_way_and_that_is_told_exactly(start_daemon, serve, way, on_full):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL=on_full)
    slow = held_up(serve, way, daemon, on_slow="displace")
    first, last = publish_much(daemon)
    read_on(slow)
    events, dropped = accounted(slow, last)
    assert_increasing(seqs(events))
    assert seqs(events)[-1] == last, "the newest was given up"
    missing = set(range(first, last + 1)) - set(seqs(events))
    assert dropped and {notice["reason"] for notice in dropped} == {"displaced"}
    told = [seq for notice in dropped for seq in range(notice["from_seq"], notice["to_seq"] + 1)]
    assert sorted(told) == sorted(missing) and sum(notice["count"] for notice in dropped) == len(missing)
    found = settled(daemon, slow.connection, due=COUNT)
    assert (found["delivered"], found["shed"]) == (len(events), len(missing))


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("asked", [{"on_slow": "latest"}, {"mode": "latest"}, {"mode": "latest", "on_slow": "latest"}], ids=str)
def test_with_latest_the_newest_of_each_key_is_kept(start_daemon, serve, way, asked):
    daemon = start_daemon(**SMALL)
    slow = held_up(serve, way, daemon, **asked)
    _, last = publish_much(daemon, keys=5)
    read_on(slow)
    events, dropped = accounted(slow, last)
    assert_increasing(seqs(events))
    assert dropped == [], "five keys find their places among ten"
    assert {event["key"]: event["data"]["n"] for event in events} == {f"key-{n % 5}": n for n in range(COUNT - 5, COUNT)}
    assert len(events) < COUNT
    found = settled(daemon, slow.connection, due=COUNT)
    assert (found["delivered"], found["conflated"], found["shed"]) == (len(events), COUNT - len(events), 0)


@pytest.mark.parametrize("way", STREAMS)
def test_with_latest_and_more_keys_than_places_what_is_given_up_is_told(start_daemon, serve, way):
    daemon = start_daemon(**SMALL)
    slow = held_up(serve, way, daemon, on_slow="latest")
    _, last = publish_much(daemon, keys=50)
    read_on(slow)
    events, dropped = accounted(slow, last)
    assert_increasing(seqs(events))
    found = settled(daemon, slow.connection, due=COUNT)
    assert found["shed"] == sum(notice["count"] for notice in dropped) > 0
    assert found["delivered"] == len(events)


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("on_full", ["catch_up", "displace"])
def test_with_disconnect_it_is_sent_away_told_why_and_comes_back_with_its_cursor(start_daemon, serve, way, on_full):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL=on_full)
    slow = held_up(serve, way, daemon, on_slow="disconnect")
    first, last = publish_much(daemon, count=6000)
    read_on(slow)
    events, message = [], slow.next(30)
    while message["type"] != "error":
        events += [message] if message["type"] == "event" else []
        message = slow.next(30)
    assert message["code"] == "too_slow" and message["message"]
    if way == "sse":
        rest, code = slow.sse.ended()
        assert (rest, code) == ([], 0)
    else:
        code, rest = slow.ws.closed()
        assert (code, slow.ws.reason, rest) == (1008, "too_slow", [])
    assert_no_hole(seqs(events), first, first + len(events) - 1)
    assert events[-1]["seq"] < last
    back = serve(way, daemon, ROOM, after=str(events[-1]["seq"]), on_slow="disconnect")
    assert_no_hole(seqs(back.until(last)), events[-1]["seq"] + 1, last)


@pytest.mark.parametrize("way", STREAMS)
def test_with_disconnect_one_that_keeps_up_stays(start_daemon, serve, way):
    daemon = start_daemon(**SMALL)
    reader = serve(way, daemon, ROOM, on_slow="disconnect")
    for n in range(100):
        daemon.publish_numbers(ROOM, [n])
        assert reader.event()["data"]["n"] == n


@pytest.mark.parametrize("way", STREAMS)
def test_with_disconnect_one_that_reads_the_history_slowly_stays(start_daemon, serve, way):
    # What is read from the history waits there, and not in the mailbox.
    daemon = start_daemon(**SMALL)
    first, _ = publish_much(daemon)
    slow = held_up(serve, way, daemon, after="0", on_slow="disconnect")
    _, last = publish_much(daemon, count=250, start=COUNT)
    read_on(slow)
    assert_no_hole(seqs(slow.take(COUNT)), first, first + COUNT - 1)
    assert last == first + COUNT + 249


@pytest.mark.parametrize("on_slow", ["displace", "catch_up", "latest", "disconnect"])
def test_readers_beside_it_get_every_event(start_daemon, serve, on_slow):
    daemon = start_daemon(**SMALL)
    plain, other = serve("websocket", daemon, ROOM), serve("sse", daemon, ROOM, on_slow="catch_up")
    held_up(serve, "websocket", daemon, on_slow=on_slow)
    first, last = publish_much(daemon)
    for reader in (plain, other):
        assert_no_hole(seqs(reader.take(COUNT)), first, last)


@pytest.mark.parametrize("on_slow", ["displace", "catch_up", "latest", "disconnect"])
def test_publishing_does_not_wait_for_it(start_daemon, serve, on_slow):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL="wait", ROOMS__WELL__WAIT="10s")
    for _ in range(3):
        held_up(serve, "websocket", daemon, on_slow=on_slow)
    publish_much(daemon, count=3000)
    answer = daemon.post_events(ROOM, '{"kind":"k","data":1}')
    assert answer.status_code == 202 and answer.elapsed.total_seconds() < 5


def test_what_was_asked_for_one_room_is_not_done_to_another(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    slow = ws(daemon, slow=True)
    slow.subscribe("calm:1")
    slow.subscribe(ROOM, on_slow="displace")
    calm = []
    for start in range(0, COUNT, 500):
        publish_much(daemon, count=500, start=start)
        calm.append(daemon.publish_numbers("calm:1", range(3)))
    last = daemon.room(ROOM)["head"]
    slow.read_on()
    seen, reached, dropped = [], 0, 0
    while reached < last or len(seen) < 3 * len(calm):
        message = slow.next(30)
        if message.get("room") == ROOM:
            reached = max(reached, message.get("seq") or message["to_seq"])
            dropped += message["type"] == "dropped"
        elif message["type"] == "event":
            seen.append(message["seq"])
    assert dropped
    assert_no_hole(seen, calm[0]["first_seq"], calm[-1]["last_seq"])


# The books.

WISHES = [{}, {"mode": "every"}, {"period": "100ms"}, {"mode": "latest"}, {"mode": "latest", "period": "100ms"},
          *({"mode": mode, "period": "100ms"} for mode in ("mean", "min", "max", "last")), {"mode": "mean", "period": "100ms", "field": "n"},
          {"filter": "data.n % 3.0 == 0.0"}, {"kinds": ["k1"]}, {"priority": "high"},
          *({"on_slow": policy} for policy in ("displace", "catch_up", "latest")),
          {"mode": "latest", "period": "50ms", "filter": "data.n % 3.0 > 0.0", "on_slow": "displace"},
          {"period": "50ms", "kinds": ["k0"], "on_slow": "catch_up"}]


def total(found):
    return found["delivered"] + found["filtered"] + found["conflated"] + found["shed"]


@pytest.mark.parametrize("asked", WISHES, ids=str)
def test_the_books_of_a_slow_reader_add_up_all_the_time(start_daemon, serve, asked):
    daemon = start_daemon(**SMALL)
    publish_much(daemon, count=100)
    slow = serve("websocket", daemon, ROOM, slow=True, after="0", **asked)
    for start in range(100, 3100, 500):
        publish_much(daemon, count=500, keys=7, start=start)
        ledger(daemon, slow.connection)
    slow.ws.read_on()
    found = read_to_the_end(daemon, slow, due=3100)
    assert total(found) == 3100 and found["missed"] == 0
    shed = sum(connection(daemon, slow.connection)["shed"].values())
    assert shed == found["shed"]
    if asked.get("on_slow") == "catch_up" or asked == {}:
        assert shed == 0


def read_to_the_end(daemon, reader, due):
    """Reads until nothing waits any more; the ledger, which must add up on the way."""
    def look():
        try:
            for _ in range(500):
                reader.next(0.1)
        except AssertionError:  # nothing more for now
            pass
        found = ledger(daemon, reader.connection)
        return found if found["due"] == due and not found["waiting"] else None

    return eventually(look, f"all {due} events are accounted for", timeout=45)


@pytest.mark.parametrize("asked", WISHES + [{"on_slow": "disconnect"}], ids=str)
def test_the_books_of_a_reader_that_keeps_up_add_up_all_the_time(start_daemon, serve, asked):
    daemon = start_daemon(**{**SMALL, "LIMITS__MAILBOX_MESSAGES": 100})
    readers = [serve(way, daemon, ROOM, **asked) for way in STREAMS]
    for start in range(0, 300, 10):
        publish_much(daemon, count=10, pad=0, keys=3, start=start)
        for reader in readers:
            ledger(daemon, reader.connection)
    for reader in readers:
        found = settled(daemon, reader.connection, due=300)
        assert total(found) == 300 and found["shed"] == found["missed"] == 0
        if asked in ({}, {"mode": "every"}, {"on_slow": "displace"}, {"on_slow": "catch_up"}, {"on_slow": "disconnect"}):
            assert found["delivered"] == 300


def test_what_is_held_when_it_leaves_a_room_is_not_due_any_more(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    client = ws(daemon)
    client.subscribe(ROOM, period="24h")
    client.subscribe("other:1")
    publish_much(daemon, count=20, pad=0)
    client.event()
    number = client.welcome["connection_id"]
    eventually(lambda: ledger(daemon, number)["conflated"] == 18, "one is out, one is held")
    assert ledger(daemon, number)["waiting"] == 1
    client.ask({"type": "unsubscribe", "rooms": [ROOM]}, "unsubscribed")
    found = ledger(daemon, number)
    assert (found["due"], found["delivered"], found["conflated"], found["waiting"]) == (19, 1, 18, 0)


def test_what_was_held_when_it_left_a_room_can_be_had_after_its_cursor(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    client = ws(daemon)
    client.subscribe(ROOM, period="24h")
    publish_much(daemon, count=20, pad=0)
    first = client.event()
    client.ask({"type": "unsubscribe", "rooms": [ROOM]}, "unsubscribed")
    client.subscribe(ROOM, after=first["seq"])
    assert numbers(client.take(19)) == list(range(1, 20))
