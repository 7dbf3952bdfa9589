"""Fewer events in time: at most one of a key in a period, or one for each key and period that is made of all of them; the same
for who followed from the beginning, who comes later, who comes back, and who asks for the history.

What is expected is computed here, from all events of the room and their times of arrival: published without a time of their own,
their `timestamp` is that.
"""

import time
from types import SimpleNamespace

import pytest

from harness.api import instant, numbers, seqs
from harness.books import ledger, settled
from harness.load import Publisher, assert_increasing
from harness.process import eventually
from harness.served import READERS, STREAMS, WAYS
from harness.tokens import SECRET

SETTINGS = {"HEARTBEAT__INTERVAL": "200ms", "AUTH__JWT_SECRET": SECRET}
FUNCTIONS = {"mean": lambda values: sum(values) / len(values), "min": min, "max": max, "last": lambda values: values[-1]}
KEYS = ["a", "b", None]


def arrived_ms(event):
    return round(instant(event["timestamp"]) * 1000)


def combined(values, function):
    """Several data as one: numbers computed with, objects field by field, everything else as it was last."""
    last = values[-1]
    if isinstance(last, dict):
        return {name: combined([value[name] for value in values], function) for name in last}
    return function(values) if isinstance(last, (int, float)) else last


def made(events, period_ms, function):
    """What a room's events come to: for each period, counted from 1970, one of each key, in the order of their last seqs."""
    groups = {}
    for event in events:
        groups.setdefault((arrived_ms(event) // period_ms, event.get("key")), []).append(event)
    values = [(period * period_ms, group[-1]["seq"], key, combined([event["data"] for event in group], FUNCTIONS[function]))
              for (period, key), group in groups.items()]
    return sorted(values, key=lambda value: value[:2])


def as_made(events):
    """Events that came, as `made` has them."""
    return [(arrived_ms(event), event["seq"], event.get("key"), event["data"]) for event in events]


def assert_same(found, expected):
    """The same values at the same places; numbers but for rounding."""
    assert [value[:3] for value in found] == [value[:3] for value in expected]
    for one, other in zip(found, expected):
        assert_close(one[3], other[3])


def assert_close(one, other):
    if isinstance(other, dict):
        assert one.keys() == other.keys(), (one, other)
        for name in other:
            assert_close(one[name], other[name])
    else:
        assert one == (pytest.approx(other, rel=1e-12) if isinstance(other, float) else other)


# One made of all. One story, told once: readers of every transport and function follow a room from its beginning, others come
# while it is full of events, and at the end the history is asked.

PERIOD_MS = 250
BIG_PERIOD = "24h"


def sample(n):
    """An event of one of three keys with numbers here and there."""
    key = KEYS[n * n % 7 % 3]
    return {"kind": f"k{n % 2}", "data": {"v": (n * 37 % 101) / 4, "deep": {"w": n, "text": f"t{n}"}, "list": [n]}, **({"key": key} if key else {})}


@pytest.fixture(scope="module")
def story(shared_daemon):
    daemon, room, readers = shared_daemon, "test:story", {}
    asked = {"every": f"{PERIOD_MS}ms"}

    def open_all(when, **start):
        for way in WAYS:
            for function in FUNCTIONS:
                readers[when, way, function] = READERS[way](daemon, room, fn=function, **asked, **start)

    try:
        open_all("first")
        publisher = Publisher(daemon, room, pause=0.008, make=sample)
        publisher.wait_acked(100)
        open_all("later", since="-1h")
        publisher.wait_acked(100)
        publisher.stop()
        raw = daemon.all_events(room)
        expected = {function: made(raw, PERIOD_MS, function) for function in FUNCTIONS}
        # The last period has ended when the last reader has its value; then nothing of it is held any more.
        seen = {name: reader.until(raw[-1]["seq"]) for name, reader in readers.items()}
    finally:
        for reader in readers.values():
            reader.stop()
    assert len({arrived_ms(event) // PERIOD_MS for event in raw}) >= 4
    return SimpleNamespace(daemon=daemon, room=room, raw=raw, expected=expected, seen=seen, asked=asked)


@pytest.mark.parametrize("way", STREAMS)
def test_the_first_value_comes_at_once_as_it_is(story, way):
    for function in FUNCTIONS:
        assert story.seen["first", way, function][0] == story.raw[0]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_each_period_becomes_one_value_of_each_key(story, way, function):
    found, expected = as_made(story.seen["first", way, function]), story.expected[function]
    if way != "poll":  # which begins with a cursor, and not with what comes next
        first = story.raw[0]
        found = found[1:]
        # Where nothing of its key came after the first value in its period, that has been told.
        expected = [value for value in expected if value[1] != first["seq"]]
    assert_same(found, expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_one_that_comes_later_gets_the_same_and_goes_on_live_without_a_seam(story, way, function):
    assert_same(as_made(story.seen["later", way, function]), story.expected[function])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_history_is_the_same(story, function):
    page = story.daemon.history(story.room, since="-1h", limit=1000, fn=function, **story.asked)
    assert_same(as_made(page["events"]), story.expected[function])
    assert page["more"] is False


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_history_is_the_same_page_by_page(story, limit):
    found, start = [], {"since": "-1h"}
    while True:
        page = story.daemon.history(story.room, limit=limit, fn="mean", **story.asked, **start)
        found += page["events"]
        if not page["more"]:
            break
        assert page["events"], f"a page that promises more brought nothing: {page}"
        start = {"after": page["cursor"]}
    assert_same(as_made(found), story.expected["mean"])


def test_a_page_has_whole_periods_and_no_more_events_than_its_limit_unless_one_period_has(story):
    for limit in (1, 2, 3):
        events = story.daemon.history(story.room, since="-1h", limit=limit, fn="mean", **story.asked)["events"]
        assert len(events) <= limit or len({event["timestamp"] for event in events}) == 1


@pytest.mark.parametrize("way", STREAMS)
def test_what_is_made_has_the_kind_of_the_last_and_is_in_order(story, way):
    kinds = {event["seq"]: event["kind"] for event in story.raw}
    events = story.seen["later", way, "max"]
    assert_increasing(seqs(events))
    assert all(event["kind"] == kinds[event["seq"]] for event in events)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_made_has_the_highest_priority_of_all(shared_daemon, room, serve, way):
    shared_daemon.publish(room, [{"kind": "k", "data": n, "priority": priority} for n, priority in enumerate(("low", "high", "normal"))])
    event = serve(way, shared_daemon, room, since="-1h", fn="max", every="100ms").event()
    assert (event["priority"], event["data"]) == ("high", 2)


@pytest.mark.parametrize("field", ["data.deep.w", "deep.w"])
def test_of_a_field_only_that_field_is_made(story, field):
    page = story.daemon.history(story.room, since="-1h", limit=1000, mode="min", field=field, **story.asked)
    assert_same(as_made(page["events"]), [(*value[:3], {"deep": {"w": value[3]["deep"]["w"]}}) for value in story.expected["min"]])


@pytest.mark.parametrize("way", WAYS)
def test_events_without_the_field_count_for_nothing(shared_daemon, room, serve, way):
    odd = ({"v": "9"}, {"v": None}, {}, None, [9], {"v": {"v": 9}})
    shared_daemon.publish(room, [{"kind": "k", "data": data} for data in ({"v": 4}, *odd, {"v": 6})])
    reader = serve(way, shared_daemon, room, since="-1h", fn="mean", every="100ms", field="v")
    assert reader.event()["data"] == {"v": 5}


@pytest.mark.parametrize("way", WAYS)
def test_only_what_the_filter_lets_through_goes_into_a_value(shared_daemon, room, serve, way):
    shared_daemon.publish(room, [{"kind": kind, "data": {"v": value}} for kind, value in (("a", 1), ("b", 50), ("a", 5), ("a", 100))])
    reader = serve(way, shared_daemon, room, since="-1h", fn="mean", every="100ms", kinds=["a"], filter="data.v < 100")
    assert reader.event()["data"] == {"v": 3}


def test_a_stream_from_a_time_begins_with_a_whole_period(shared_daemon, room, serve):
    # Two events in one second; then a beginning between them.
    eventually(lambda: time.time() % 1 < 0.3, "the beginning of a second")
    for n in (10, 30):
        shared_daemon.publish_numbers(room, [n])
        eventually(lambda: time.time() * 1000 > arrived_ms(shared_daemon.history(room)["events"][-1]) + 1, "a millisecond later")
    raw = shared_daemon.all_events(room)
    [value] = expected = made(raw, 1000, "mean")
    assert value[3] == {"n": 20}
    start = raw[1]["timestamp"]
    assert_same(as_made(shared_daemon.history(room, since=start, every="1s", fn="mean")["events"]), expected)
    for way in WAYS:
        assert_same(as_made(serve(way, shared_daemon, room, since=start, every="1s", fn="mean").take(1)), expected)


def test_a_period_of_very_many_events_does_not_hold_the_history_up(start_daemon, room):
    daemon = start_daemon()
    for start in range(0, 52_000, 1000):
        last = daemon.publish_numbers(room, range(start, start + 1000), ack="memory")["last_seq"]
    start, pages = {"since": "-1h"}, []
    while not pages or pages[-1]["more"]:
        pages.append(daemon.history(room, every=BIG_PERIOD, fn="max", **start))
        assert pages[-1]["cursor"] != start.get("after"), "a page whose cursor leads to itself"
        start = {"after": pages[-1]["cursor"]}
    events = [event for page in pages for event in page["events"]]
    assert max(event["data"]["n"] for event in events) == 51_999 and events[-1]["seq"] == last


def test_a_page_s_cursor_goes_on_live_without_a_seam(shared_daemon, room, serve):
    asked = {"every": "2s", "fn": "mean"}
    eventually(lambda: time.time() % 2 < 0.5, "the beginning of a period")
    shared_daemon.publish_numbers(room, [1, 2])
    page = shared_daemon.history(room, since="-1h", **asked)
    readers = [serve(way, shared_daemon, room, after=page["cursor"], **asked) for way in WAYS]
    last = shared_daemon.publish_numbers(room, [30])["last_seq"]
    expected = made(shared_daemon.all_events(room), 2000, "mean")
    for reader in readers:
        found = as_made(page["events"]) + as_made(reader.until(last))
        # A value that came twice counts as it came last.
        assert_same(list({value[0]: value for value in found}.values()), expected)


def test_a_reader_that_was_held_up_gets_the_same(start_daemon, ws):
    daemon = start_daemon(LIMITS__SEND_BUFFER="64KiB", LIMITS__WRITE_TIMEOUT="60s", LIMITS__MAILBOX_MESSAGES=20_000, LIMITS__MAILBOX_BYTES="64MiB")
    slow = ws(daemon, slow=True)
    slow.subscribe("much")
    slow.subscribe("well:1", fn="mean", every="100ms", since="-1h")
    daemon.publish_numbers("much", range(500), pad=5000)  # its socket takes no more
    publisher = Publisher(daemon, "well:1", pause=0.02, make=lambda n: [{"kind": "k", "data": {"n": n}}] * 80)
    publisher.wait_acked(50)
    last = max(publisher.stop().values())
    slow.read_on()
    events = []
    while not events or events[-1]["seq"] < last:
        message = slow.next()
        events += [message] if message.get("room") == "well:1" and message["type"] == "event" else []
    assert_same(as_made(events), made(daemon.all_events("well:1"), 100, "mean"))


# At most one of each key in a period.

@pytest.mark.parametrize("mode", ["every", "latest"])
@pytest.mark.parametrize("way", STREAMS)
def test_the_first_comes_at_once_and_the_last_of_a_burst_though_nothing_follows(shared_daemon, room, serve, way, mode):
    reader = serve(way, shared_daemon, room, mode=mode, period="700ms")
    shared_daemon.publish_numbers(room, range(20))
    assert numbers(reader.take(2)) == [0, 19]
    shared_daemon.publish_numbers(room, range(20, 30))
    assert reader.event()["data"]["n"] in (20, 29), "what gave way came after all"


@pytest.mark.parametrize("way", STREAMS)
def test_each_key_has_its_own_period(shared_daemon, room, serve, way):
    reader = serve(way, shared_daemon, room, period="500ms")
    shared_daemon.publish(room, [{"kind": "k", "data": {"n": n}, **({"key": KEYS[n % 3]} if KEYS[n % 3] else {})} for n in range(30)])
    assert numbers(reader.take(6)) == [0, 1, 2, 27, 28, 29]


@pytest.mark.parametrize("mode", ["every", "latest"])
def test_the_clock_goes_in_whole_periods_whatever_is_dropped(shared_daemon, room, serve, mode):
    period_ms, late_ms = 600, 200  # so late may an event reach a reader on a busy machine
    readers = [serve(way, shared_daemon, room, mode=mode, period=f"{period_ms}ms") for way in STREAMS]
    publisher = Publisher(shared_daemon, room, pause=0.01)
    eventually(lambda: publisher.acked, "the first event")
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 5 * period_ms / 1000, "five periods later")
    last = max(publisher.stop().values())
    raw = [(arrived_ms(event), event["seq"]) for event in shared_daemon.all_events(room)]
    for reader in readers:
        found = seqs(reader.until(last))
        assert_increasing(found)
        assert found[0] == raw[0][1], "the first at once"
        for place, seq in enumerate(found[1:], 1):
            end = raw[0][0] + place * period_ms
            # The newest at the end of this period, give or take what was on its way then.
            allowed = [other for arrived, other in raw if end - late_ms <= arrived < end]
            before = [other for arrived, other in raw if arrived < end - late_ms]
            assert seq in [*before[-1:], *allowed], f"period {place} of {found}"
        assert len(found) - 2 <= (raw[-1][0] - raw[0][0]) / period_ms <= len(found) - 1


def test_after_a_quiet_period_the_next_comes_at_once(shared_daemon, room, serve):
    readers = [serve(way, shared_daemon, room, period="1500ms") for way in STREAMS]
    shared_daemon.publish_numbers(room, range(2))
    assert [numbers(reader.take(2)) for reader in readers] == [[0, 1]] * 3
    quiet = time.monotonic() + 1.6
    eventually(lambda: time.monotonic() > quiet, "a period in which nothing came")
    before = time.monotonic()
    shared_daemon.publish_numbers(room, [2])
    assert [numbers(reader.take(1)) for reader in readers] == [[2]] * 3
    assert time.monotonic() - before < 1.3


def test_with_many_keys_the_order_holds_and_each_key_s_last_value_comes(shared_daemon, room, serve):
    readers = [serve(way, shared_daemon, room, period="150ms") for way in STREAMS]
    publisher = Publisher(shared_daemon, room, pause=0.002, make=lambda n: {"kind": "k", "data": n, "key": f"k{n * n % 31}"})
    publisher.wait_acked(400)
    last = max(publisher.stop().values())
    raw = shared_daemon.all_events(room)
    for reader in readers:
        found = reader.until(last)
        assert_increasing(seqs(found))
        assert len(found) < len(raw), "nothing was left out"
        assert {event["key"]: event for event in found} == {event["key"]: event for event in raw}


def test_the_past_is_thinned_as_it_was_live(shared_daemon, room, serve):
    live = serve("websocket", shared_daemon, room, period="1s")
    began = time.monotonic()
    for n, at in enumerate((0, 0.5, 2.4, 2.6, 4.4, 4.6)):  # far from the ends of periods, so that nothing depends on a moment
        eventually(lambda: time.monotonic() - began >= at, "its time")
        last = shared_daemon.publish_numbers(room, [n])["last_seq"]
    expected = numbers(live.until(last))
    assert numbers(shared_daemon.history(room, period="1s", since="-1h")["events"]) == expected
    for way in WAYS:
        assert numbers(serve(way, shared_daemon, room, period="1s", since="-1h").until(last)) == expected, way


def test_the_history_is_thinned_too(shared_daemon, room):
    shared_daemon.publish(room, [{"kind": "k", "data": {"n": n}, "key": f"k{n % 2}"} for n in range(10)])
    assert numbers(shared_daemon.history(room, since="-1h", period="1h")["events"]) == [0, 1, 8, 9]


# Coming back.

@pytest.mark.parametrize("way", STREAMS)
def test_a_heartbeat_s_cursor_lies_before_what_is_held(shared_daemon, room, serve, way):
    reader = serve(way, shared_daemon, room, period=BIG_PERIOD)
    first = shared_daemon.publish_numbers(room, range(4))["first_seq"]
    assert reader.event()["data"]["n"] == 0
    while reader.notice("heartbeat")["cursor"] != str(first + 2):  # the last is held; those between gave way to it
        assert int(reader.cursor) < first + 2
    for _ in range(3):
        assert reader.notice("heartbeat")["cursor"] == str(first + 2)


@pytest.mark.parametrize("way", STREAMS)
def test_a_heartbeat_s_cursor_lies_before_a_period_that_is_gathered(shared_daemon, room, serve, way):
    before = shared_daemon.publish_numbers(room, range(3))["last_seq"]
    reader = serve(way, shared_daemon, room, after=str(before), fn="mean", every=BIG_PERIOD)
    shared_daemon.publish_numbers(room, range(3))
    eventually(lambda: shared_daemon.room(room)["head"] == before + 3, "published")
    for _ in range(4):
        assert int(reader.notice("heartbeat")["cursor"]) <= before


@pytest.mark.parametrize("way", WAYS)
def test_one_that_breaks_off_in_the_middle_of_a_period_and_comes_back_has_every_event_in_its_values(shared_daemon, room, serve, way):
    asked = {"fn": "mean", "every": "1s"}
    shared_daemon.publish_numbers(room, [1, 2])
    reader, seen = serve(way, shared_daemon, room, since="-1h", **asked), []
    for round_ in range(3):
        last = shared_daemon.publish_numbers(room, [10 * round_, 10 * round_ + 5])["last_seq"]
        message = {"type": ""}
        while way != "poll" and message["type"] != "heartbeat":  # so that it has a cursor from after the publish
            message = reader.next()
            seen += [message] if message["type"] == "event" else []
        reader.stop()
        shared_daemon.publish_numbers(room, [100 * round_])
        reader = serve(way, shared_daemon, room, after=reader.cursor, **asked)
    last = shared_daemon.publish_numbers(room, [7])["last_seq"]
    seen += reader.until(last)
    assert_same(as_made(seen), made(shared_daemon.all_events(room), 1000, "mean"))


@pytest.mark.parametrize("way", WAYS)
def test_one_that_breaks_off_while_a_value_is_held_gets_it_when_it_comes_back(shared_daemon, room, serve, way):
    reader = serve(way, shared_daemon, room, period=BIG_PERIOD)
    shared_daemon.publish_numbers(room, range(5))
    assert reader.event()["data"]["n"] == 0
    if way != "poll":
        reader.notice("heartbeat")
    reader.stop()
    assert numbers(serve(way, shared_daemon, room, after=reader.cursor, period=BIG_PERIOD).take(1)) == [4]


@pytest.mark.parametrize("asked", [{"fn": "mean", "every": "1s"}, {"period": "1s"}], ids=["made", "spaced"])
@pytest.mark.parametrize("beside", ["", ",test:beside"], ids=["one-room", "two-rooms"])
def test_whichever_message_was_the_last_nothing_is_lost(shared_daemon, room, serve, beside, asked):
    shared_daemon.publish(room, [{"kind": "k", "key": key, "data": {"v": value}} for key, value in (("x", 1), ("y", 2), ("y", 4), ("x", 3))])
    rooms, last = room + beside, shared_daemon.room(room)["head"]
    reader = serve("sse", shared_daemon, rooms, since="-1h", **asked)
    seen, cursors = [], []
    while not seen or seen[-1]["seq"] < last:
        seen.append(reader.event())
        cursors.append(reader.cursor)
    whole = {event["key"]: event["data"]["v"] for event in seen}
    for place, cursor in enumerate(cursors[:-1]):
        again = serve("sse", shared_daemon, rooms, after=cursor, **asked).until(last, timeout=5)
        found = {event["key"]: event["data"]["v"] for event in [*seen[:place + 1], *again]}
        assert found == whole, f"after the {place + 1}. of {len(seen)} messages, with {cursor}"


# The books.

@pytest.mark.parametrize("asked", [{"period": "200ms"}, {"mode": "latest", "period": "200ms"}, {"fn": "mean", "every": "200ms"},
                                   {"fn": "max", "every": "200ms", "field": "n", "filter": "data.n % 2.0 == 0.0"}], ids=str)
@pytest.mark.parametrize("way", STREAMS)
def test_the_books_of_a_thinned_stream_add_up(shared_daemon, room, serve, way, asked):
    shared_daemon.publish_numbers(room, range(10))
    reader = serve(way, shared_daemon, room, after="0", **asked)
    for start in range(10, 310, 50):
        shared_daemon.publish_numbers(room, range(start, start + 50))
        ledger(shared_daemon, reader.connection)
    found = settled(shared_daemon, reader.connection, due=310)
    assert found["conflated"] > 0 and found["missed"] == found["shed"] == 0
    assert (found["filtered"] > 0) == ("filter" in asked)
