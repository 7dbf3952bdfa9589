"""What happens to a reader that does not keep up, and to the others beside it: nothing is lost in silence, memory stays
bounded, and nobody waits for the slow one.

The slow reader is a WebSocket client that leaves its socket unread, with a small receive buffer, while megabytes are published.
"""

import json
import os
import signal

import pytest

from harness.api import numbers, problem, seqs
from harness.load import assert_increasing, assert_no_hole
from harness.process import eventually

SMALL = {"LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "60s"}
ROOM = "well:1"


def publish_much(daemon, count, pad=2000, room=ROOM, step=250, **params):
    """`count` events of about `pad` bytes; first and last seq."""
    answers = [daemon.publish_numbers(room, range(start, min(start + step, count)), pad=pad, **params) for start in range(0, count, step)]
    return answers[0]["first_seq"], answers[-1]["last_seq"]


def read_accounted(client, last, timeout=30):
    """Reads until `last` was delivered or reported as dropped; events and dropped notices."""
    events, dropped, reached = [], [], 0
    while reached < last:
        message = client.next(timeout)
        if message["type"] == "event":
            events.append(message)
            reached = max(reached, message["seq"])
        elif message["type"] == "dropped":
            dropped.append(message)
            reached = max(reached, message["to_seq"])
        else:
            assert message["type"] == "heartbeat", message
    return events, dropped


def test_by_default_a_slow_reader_gets_every_event_in_order(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    slow, quick = ws(daemon, ROOM, slow=True), ws(daemon, ROOM)
    first, last = publish_much(daemon, 4000)
    assert_no_hole(seqs(quick.take(4000)), first, last)
    slow.read_on()
    events = slow.take(4000)
    assert_no_hole(seqs(events), first, last)
    assert numbers(events) == list(range(4000))
    daemon.publish_numbers(ROOM, [-1])
    assert slow.event()["data"]["n"] == -1, "level again, it is served live"
    assert slow.ask({"type": "get_stats"}, "stats")["dropped"] == 0


def test_a_slow_reader_catches_up_from_the_disk_too(start_daemon, ws):
    daemon = start_daemon(**SMALL, ROOMS__DEFAULT__TAIL_EVENTS=8)
    slow = ws(daemon, ROOM, slow=True)
    first, last = publish_much(daemon, 3000)
    slow.read_on()
    assert_no_hole(seqs(slow.take(3000)), first, last)


def test_a_reader_that_reads_slowly_all_the_time_gets_every_event(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    slow = ws(daemon, ROOM, slow=True)
    seen, first, last = [], None, None
    for start in range(0, 3000, 300):
        told = daemon.publish_numbers(ROOM, range(start, start + 300), pad=1500)
        first, last = first or told["first_seq"], told["last_seq"]
        seen += slow.take(40)
    slow.read_on()
    seen += slow.take(3000 - len(seen))
    assert_no_hole(seqs(seen), first, last)


def test_with_displace_what_a_slow_reader_missed_is_told_exactly(start_daemon, ws):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL="displace")
    slow = ws(daemon, ROOM, slow=True)
    first, last = publish_much(daemon, 4000)
    slow.read_on()
    events, dropped = read_accounted(slow, last)
    assert_increasing(seqs(events))
    assert dropped, "8 MB went past a reader that did not read, and nothing was dropped"
    missing = set(range(first, last + 1)) - set(seqs(events))
    told = set()
    for notice in dropped:
        assert notice["room"] == ROOM and notice["reason"]
        span = set(range(notice["from_seq"], notice["to_seq"] + 1))
        assert not span & told, f"told twice: {notice}"
        assert notice["count"] == len(span & missing) > 0, f"the count is not what is missing in the range: {notice}"
        told |= span
    assert missing <= told, f"dropped in silence: {sorted(missing - told)[:10]}"
    assert sum(notice["count"] for notice in dropped) == len(missing)
    assert slow.ask({"type": "get_stats"}, "stats")["dropped"] == len(missing)


def test_with_displace_low_goes_before_critical(start_daemon, ws):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL="displace")
    slow = ws(daemon, "well:*", slow=True)
    publish_much(daemon, 2000)
    alert = daemon.publish("well:alerts", {"kind": "alert", "data": {"n": -1}, "priority": "critical"})["last_seq"]
    _, last = publish_much(daemon, 2000)
    slow.read_on()
    seen, reached = [], 0
    while reached < last:
        message = slow.next(30)
        if message["type"] == "event":
            seen.append((message["room"], message["seq"]))
        if message.get("room") == ROOM:
            reached = max(reached, message.get("seq", message.get("to_seq")))
    assert ("well:alerts", alert) in seen, "the alert was given up for samples"


def test_a_slow_reader_can_have_dropped_and_come_back_for_the_rest_by_history(start_daemon, ws):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL="displace")
    slow = ws(daemon, ROOM, slow=True)
    first, last = publish_much(daemon, 3000)
    slow.read_on()
    events, dropped = read_accounted(slow, last)
    have = set(seqs(events))
    for notice in dropped:
        after = notice["from_seq"] - 1
        while after < notice["to_seq"]:
            page = daemon.history(ROOM, after=after, limit=1000)
            have |= set(seqs(page["events"]))
            after = int(page["cursor"])
    assert have >= set(range(first, last + 1))


def test_a_reader_that_takes_nothing_is_cut_and_the_others_are_not_disturbed(start_daemon, ws):
    daemon = start_daemon(**{**SMALL, "LIMITS__WRITE_TIMEOUT": "1s"})
    quick, stalled = ws(daemon, ROOM), ws(daemon, ROOM, slow=True)
    first, last = publish_much(daemon, 4000)
    assert_no_hole(seqs(quick.take(4000)), first, last)
    eventually(lambda: daemon.room(ROOM)["subscribers"] == 1, "the stalled reader is cut", timeout=15)
    daemon.publish_numbers(ROOM, range(5))
    assert numbers(quick.take(5)) == list(range(5))
    stalled.read_on()
    _, before = stalled.closed()
    events = [message["seq"] for message in before if message["type"] == "event"]
    assert_no_hole(events, first, events[-1])
    again = ws(daemon, ROOM, after=events[-1])
    assert_no_hole(seqs(again.take(last + 5 - events[-1])), events[-1] + 1, last + 5)


def test_publishing_does_not_wait_for_a_slow_reader(start_daemon, ws):
    daemon = start_daemon(**SMALL)
    for _ in range(5):
        ws(daemon, ROOM, slow=True)
    answer = daemon.post_events(ROOM, '{"kind":"k","data":1}')
    publish_much(daemon, 4000)
    assert answer.elapsed.total_seconds() < 5
    answer = daemon.post_events(ROOM, '{"kind":"k","data":1}')
    assert answer.status_code == 202 and answer.elapsed.total_seconds() < 1


def test_a_slow_sse_reader_gets_every_event_in_order(start_daemon, sse):
    daemon = start_daemon(**SMALL)
    stream = sse(daemon, ROOM)
    stream.welcome()
    os.kill(stream.child.pid, signal.SIGSTOP)  # curl takes nothing any more
    first, last = publish_much(daemon, 5000)
    os.kill(stream.child.pid, signal.SIGCONT)
    assert_no_hole([message.data["seq"] for message in stream.take(5000)], first, last)


def test_slow_readers_do_not_make_the_daemon_s_memory_grow(start_daemon, ws):
    # Small generations, so that the log's caches have been through their whole round before we measure.
    daemon = start_daemon(**SMALL, SINK__MAILBOX_BYTES="1MiB", ROOMS__DEFAULT__TAIL_EVENTS=100, LOG__GENERATION_BYTES="8MiB", ROOMS__DEFAULT__RETENTION_BYTES="8MiB")
    publish_much(daemon, 16000, pad=3000, ack="memory")  # warm: caches and buffers that stay are there before we measure
    for _ in range(20):
        ws(daemon, ROOM, slow=True)
    before = daemon.rss_bytes()
    publish_much(daemon, 16000, pad=3000, ack="memory")
    daemon.publish(ROOM, {"kind": "k", "data": 1}, ack="synced")
    grown = daemon.rss_bytes() - before
    assert grown < 32 << 20, f"grew by {grown >> 20} MB over 48 MB published to 20 readers that do not read"


def test_with_reject_the_newest_is_given_up_for_a_slow_reader_and_told(start_daemon, ws):
    daemon = start_daemon(**SMALL, ROOMS__WELL__ON_FULL="reject")
    slow = ws(daemon, ROOM, slow=True)
    first, last = publish_much(daemon, 4000)
    slow.read_on()
    daemon.publish_numbers(ROOM, [0])
    events, dropped = read_accounted(slow, last + 1)
    missing = set(range(first, last + 2)) - set(seqs(events))
    assert dropped and {notice["reason"] for notice in dropped} == {"rejected"}
    assert sum(notice["count"] for notice in dropped) == len(missing)


@pytest.mark.parametrize("policy", ["displace", "catch_up", "reject", "wait"])
def test_whatever_the_policy_a_reader_that_keeps_up_gets_everything(start_daemon, ws, policy):
    daemon = start_daemon(ROOMS__WELL__ON_FULL=policy)
    reader = ws(daemon, ROOM)
    first = last = None
    for n in range(100):
        last = daemon.publish_numbers(ROOM, [n])["last_seq"]
        first = first or last
        assert reader.event()["seq"] == last
    assert last == first + 99
