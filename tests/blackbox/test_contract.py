"""How a client says how it wants to be served: the same words on every transport, what is granted, which events that lets
through, and what it is told when it asks for something that cannot be.

What becomes fewer in time is in test_contract_thinning.py, what happens to slow readers in test_contract_slow.py.
"""

import pytest

from harness.api import numbers, seqs
from harness.load import Publisher
from harness.served import STREAMS, WAYS, refused

SETTINGS = {"LIMITS__MAILBOX_MESSAGES": 77}
EVERYTHING = {"mode": "mean", "period": "2s", "field": "data.usage", "filter": 'kind == "cpu" && data.usage > 0.5', "kinds": ["cpu", "disk \"x\""],
              "priority": "high", "on_slow": "catch_up"}

# Events of many sorts, and a last one that nobody lets through. The number is their place.
SORTS = [{"kind": kind, "data": {"n": 0, "usage": usage, "host": {"name": name}}, "priority": priority, **({"key": key} if key else {})}
         for kind in ("cpu", "disk", "cpu.core") for usage in (10, 90.5) for name in ("a", "b")
         for priority, key in (("low", "x"), ("normal", None), ("high", "y"), ("critical", "x"))]
SORTS = [{**event, "data": {**event["data"], "n": n}} for n, event in enumerate(SORTS)]
ODD = [{"kind": "cpu", "data": data, "priority": "critical", "key": "odd"}
       for data in (None, [], {"n": -1}, {"n": -1, "usage": None, "host": "a"}, {"n": -1, "usage": "90.5", "host": {"name": 1}})]
SELECTIONS = {
    "a field": ({"filter": "data.usage > 50"}, lambda event: event["data"]["usage"] > 50),
    "a field within": ({"filter": 'data.host.name == "b"'}, lambda event: event["data"]["host"]["name"] == "b"),
    "several": ({"filter": 'data.usage < 50.0 && (data.host.name == "a" || key == "y")'},
                lambda event: event["data"]["usage"] < 50 and (event["data"]["host"]["name"] == "a" or event.get("key") == "y")),
    "a list": ({"filter": 'kind in ["disk", "cpu.core"] && has(data.usage)'}, lambda event: event["kind"] != "cpu"),
    "what is sent of the event": ({"filter": 'kind == "cpu" && priority == "low" && key == "x" && has(data.usage) && room.startsWith("test:")'},
                                  lambda event: (event["kind"], event["priority"]) == ("cpu", "low")),
    "one kind": ({"kinds": ["disk"]}, lambda event: event["kind"] == "disk"),
    "kinds": ({"kinds": ["disk", "cpu.core"]}, lambda event: event["kind"] != "cpu"),
    "a priority": ({"priority": "high", "filter": "data.usage > 0"}, lambda event: event["priority"] in ("high", "critical")),
    "all together": ({"filter": "data.usage > 50", "kinds": ["cpu", "disk"], "priority": "normal"},
                     lambda event: event["data"]["usage"] > 50 and event["kind"] != "cpu.core" and event["priority"] != "low"),
}


def publish_sorts(daemon, room):
    """All sorts of events, odd ones between them."""
    return daemon.publish(room, [*ODD, *SORTS[:20], *ODD, *SORTS[20:]])


# What is granted.

@pytest.mark.parametrize("way", STREAMS)
def test_what_is_granted_is_told_field_by_field(shared_daemon, room, serve, way):
    assert serve(way, shared_daemon, room, **EVERYTHING).granted == {
        "mode": "mean", "period_ms": 2000, "field": "data.usage", "filter": EVERYTHING["filter"], "kinds": EVERYTHING["kinds"], "priority": "high",
        "on_slow": "catch_up", "mailbox_messages": 77}


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("asked, granted", [
    ({"mode": "latest"}, {"mode": "latest"}),
    ({"period": "10ms"}, {"mode": "every", "period_ms": 10}),
    ({"mode": "latest", "period": "24h"}, {"mode": "latest", "period_ms": 86_400_000}),
    ({"fn": "max", "every": "90s"}, {"mode": "max", "period_ms": 90_000}),
    ({"fn": "min", "period": "1m"}, {"mode": "min", "period_ms": 60_000}),
    ({"mode": "last", "every": "1h"}, {"mode": "last", "period_ms": 3_600_000}),
    ({"priority": "low"}, {"mode": "every", "priority": "low"}),
    ({"kinds": ["a", "b"]}, {"mode": "every", "kinds": ["a", "b"]}),
    ({"filter": "true"}, {"mode": "every", "filter": "true"}),
    *(({"on_slow": policy}, {"mode": "every", "on_slow": policy}) for policy in ("displace", "catch_up", "latest", "disconnect")),
], ids=str)
def test_only_what_was_asked_for_is_granted(shared_daemon, room, serve, way, asked, granted):
    assert serve(way, shared_daemon, room, **asked).granted == {**granted, "mailbox_messages": 77}


def test_a_welcome_says_nothing_of_it_where_nothing_was_asked(shared_daemon, room, serve):
    assert serve("websocket", shared_daemon, room).granted is None
    assert serve("sse", shared_daemon, room).granted is None
    assert serve("subscribe", shared_daemon, room).granted == {"mode": "every", "mailbox_messages": 77}


# Which events.

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_only_what_was_asked_for_comes(shared_daemon, room, serve, way, selection):
    asked, wanted = SELECTIONS[selection]
    expected = [event["data"]["n"] for event in SORTS if wanted(event)]
    assert 0 < len(expected) < len(SORTS)
    # Those that are let through whatever their data is.
    odd = [event["data"] for event in ODD] if "filter" not in asked and "cpu" in asked.get("kinds", ["cpu"]) else []
    publish_sorts(shared_daemon, room)
    reader = serve(way, shared_daemon, room, after="0", **asked)
    for _ in range(2):  # from the history, then live: what comes second begins right behind the first
        events = [event for event in reader.take(len(expected) + 2 * len(odd)) if event.get("key") != "odd"]
        assert numbers(events) == expected
        publish_sorts(shared_daemon, room)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_history_has_only_what_was_asked_for(shared_daemon, room, selection):
    asked, wanted = SELECTIONS[selection]
    publish_sorts(shared_daemon, room)
    asked = {name: ",".join(value) if isinstance(value, list) else value for name, value in asked.items()}
    page = shared_daemon.history(room, after=0, limit=1000, **asked)
    assert numbers(event for event in page["events"] if event.get("key") != "odd") == [event["data"]["n"] for event in SORTS if wanted(event)]
    assert page["cursor"] == str(shared_daemon.room(room)["head"]) and page["more"] is False


def test_a_page_of_the_history_is_filled_with_what_was_asked_for(shared_daemon, room):
    first = shared_daemon.publish_numbers(room, range(2000))["first_seq"]
    page = shared_daemon.history(room, after=0, limit=3, filter="data.n % 500.0 == 499.0")
    assert numbers(page["events"]) == [499, 999, 1499] and page["more"] is True and page["cursor"] == str(first + 1499)
    page = shared_daemon.history(room, after=page["cursor"], limit=3, filter="data.n % 500.0 == 499.0")
    assert numbers(page["events"]) == [1999] and page["more"] is False


@pytest.mark.parametrize("way", WAYS)
def test_an_event_that_a_filter_cannot_tell_of_does_not_come_and_is_no_error(shared_daemon, room, serve, way):
    reader = serve(way, shared_daemon, room, after="0", filter="data.usage > 50 && data.host.name.size() > 0")
    shared_daemon.publish(room, [*ODD, {"kind": "k", "data": {"n": 7, "usage": 51, "host": {"name": "a"}}}])
    assert numbers(reader.take(1)) == [7]


@pytest.mark.parametrize("way", WAYS)
def test_seq_and_timestamp_can_be_asked_for(shared_daemon, room, serve, way):
    first = shared_daemon.publish(room, [{"kind": "k", "data": {"n": n}, "timestamp": 1_700_000_000_000 + n} for n in range(10)])["first_seq"]
    reader = serve(way, shared_daemon, room, after="0", filter=f"seq > {first + 2} && timestamp < 1700000000008.0")
    assert numbers(reader.take(5)) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("way", WAYS)
def test_a_filter_that_lets_nothing_through_still_moves_the_cursor(start_daemon, room, serve, way):
    daemon = start_daemon(HEARTBEAT__INTERVAL="200ms")
    daemon.publish_numbers(room, range(3))
    reader = serve(way, daemon, room, after="0", filter="data.n > 100")
    head = daemon.publish_numbers(room, range(3))["last_seq"]
    while reader.cursor != str(head):
        if way == "poll":
            reader.poll(after=reader.cursor, wait="200ms")
        else:
            reader.notice("heartbeat")


def test_fifty_readers_with_the_same_filter_get_the_same_events(shared_daemon, room, serve):
    filters = ["data.n % 3.0 == 0.0", "data.n % 3.0 == 1.0"]
    readers = [serve(STREAMS[at % 2], shared_daemon, room, filter=filters[at // 25]) for at in range(50)]
    publishers = [Publisher(shared_daemon, room, total=150, seed=seed) for seed in range(2)]
    for publisher in publishers:
        publisher.join()
    events = shared_daemon.all_events(room)
    assert len(events) == 300
    for remainder in (0, 1):
        expected = [event for event in events if event["data"]["n"] % 3 == remainder]
        for reader in readers[25 * remainder:25 * remainder + 25]:
            assert reader.take(len(expected)) == expected


def test_a_filter_is_asked_of_each_room_s_own_event_though_their_numbers_are_the_same(start_daemon, serve):
    # Rooms of which nothing is kept, so that an event's place in memory is soon another one's.
    daemon = start_daemon(ROOMS__X__DURABLE="false", ROOMS__X__TAIL_EVENTS=0)
    good, bad = ({"kind": "k", "data": {"good": value}} for value in (True, False))
    first, other = (daemon.publish(room, event)["first_seq"] for room, event in (("x:good", good), ("x:bad", bad)))
    reader = serve("websocket", daemon, "x:*", filter="data.good")
    missing = other - first
    for start in range(0, missing, 900):
        daemon.publish("x:good", [good] * min(900, missing - start))
    for _ in range(300):
        assert daemon.publish("x:good", good)["last_seq"] == daemon.publish("x:bad", bad)["last_seq"] != 0
    last = daemon.publish("x:good", good)["last_seq"]
    seen = [reader.next()]
    while seen[-1].get("seq") != last:
        seen.append(reader.next())
    assert {event["room"] for event in seen if event["type"] == "event"} == {"x:good"}


# Several wishes on one WebSocket.

def test_each_subscription_is_served_as_it_asked(shared_daemon, room, ws):
    client = ws(shared_daemon)
    a, b = f"{room}:a", f"{room}:b"
    client.subscribe(a, filter="data.n > 2")
    client.subscribe(b, kinds=["n"], priority="high")
    for name in (a, b):
        shared_daemon.publish_numbers(name, range(5))
    shared_daemon.publish(b, {"kind": "n", "data": {"n": 5}, "priority": "high"})
    assert sorted((event["room"], event["data"]["n"]) for event in client.take(3)) == [(a, 3), (a, 4), (b, 5)]


def test_rooms_of_a_pattern_that_come_later_are_served_as_it_asked(shared_daemon, room, serve):
    readers = [serve(way, shared_daemon, f"{room}:*", filter="data.n == 1") for way in WAYS]
    for letter in "ab":
        shared_daemon.publish_numbers(f"{room}:{letter}", range(2))
    for reader in readers:
        assert sorted(event["room"] for event in reader.take(2)) == [f"{room}:a", f"{room}:b"]


def test_what_was_asked_of_a_room_by_its_name_goes_before_what_was_asked_of_a_pattern(shared_daemon, room, ws):
    client = ws(shared_daemon)
    client.subscribe(f"{room}:*", filter="data.n < 0")
    client.subscribe(f"{room}:a", filter="data.n > 2")
    for letter in "ba":
        shared_daemon.publish_numbers(f"{room}:{letter}", range(4))
    assert [(event["room"], event["data"]["n"]) for event in client.take(1)] == [(f"{room}:a", 3)]


def test_a_room_that_a_plain_pattern_brings_is_not_thinned_by_a_later_wish(shared_daemon, room, ws):
    client = ws(shared_daemon)
    client.subscribe(f"{room}:*")
    client.subscribe(f"{room}:a*", filter="data.n > 2")
    shared_daemon.publish_numbers(f"{room}:a1", range(4))
    assert numbers(client.take(4)) == [0, 1, 2, 3]


def test_a_room_that_is_followed_already_goes_on_as_it_was_and_can_be_asked_for_anew(shared_daemon, room, ws):
    client = ws(shared_daemon)
    client.subscribe(room, filter="data.n > 2")
    assert client.subscribe(room, filter="data.n == 0")["already"] == [room]
    shared_daemon.publish_numbers(room, range(4))
    assert numbers(client.take(1)) == [3]
    client.ask({"type": "unsubscribe", "rooms": [room]}, "unsubscribed")
    assert "already" not in client.subscribe(room, filter="data.n == 0")
    shared_daemon.publish_numbers(room, range(4))
    assert numbers(client.take(1)) == [0]


# What cannot be.

WRONG = [
    ("mode", {"mode": "fastest"}), ("mode", {"mode": ""}), ("mode", {"mode": "Mean", "period": "1s"}), ("mode", {"mode": "mean"}),
    ("fn", {"fn": "p95"}), ("fn", {"fn": "max"}), ("fn", {"mode": "mean", "fn": "mean", "period": "1s"}),
    *(("period", {"period": period}) for period in ("", "soon", "2", "9ms", "0s", "-1s", "24h1s", "25h", "99999999999999999999s")),
    ("every", {"every": "9ms"}), ("every", {"period": "1s", "every": "1s"}),
    ("field", {"field": "data.usage"}), ("field", {"mode": "latest", "period": "1s", "field": "data.usage"}),
    *(("field", {"mode": "mean", "period": "1s", "field": field}) for field in ("", "kind", "seq", "data.", "data..x", ".".join("x" * 17))),
    *(("filter", {"filter": text}) for text in ("", "data.usage >", "usage > 5", "1", '"text"', "data.usage + 1", "data.x.nonsense(1)", "data.x = 1",
                                                "(" * 100 + "true" + ")" * 100, "true || " * 200 + "true")),
    *(("kinds", {"kinds": kinds}) for kinds in ([""], ["a", "", "b"], [f"k{n}" for n in range(65)])),
    ("priority", {"priority": "urgent"}), ("priority", {"priority": ""}), ("priority", {"priority": "HIGH"}),
    ("on_slow", {"on_slow": "wait"}), ("on_slow", {"on_slow": "reject"}), ("on_slow", {"on_slow": ""}),
]


@pytest.mark.parametrize("way", [*WAYS, "history"])
@pytest.mark.parametrize("field, asked", WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_value_is_refused_and_named(shared_daemon, way, field, asked):
    shared_daemon.publish_numbers("test:wrong", range(1))
    assert refused(way, shared_daemon, "test:wrong", asked) == field


@pytest.mark.parametrize("way", ["websocket", "sse", "poll", "history"])
def test_a_field_that_is_given_twice_is_refused(shared_daemon, way):
    shared_daemon.publish_numbers("test:wrong", range(1))
    path = "/v1/rooms/test:wrong/events?" if way == "history" else "/v1/stream?rooms=x&"
    accept = {"Accept": "text/event-stream"} if way == "sse" else {}
    answer = shared_daemon.get(f"{path}period=1s&period=2s", headers=accept)
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "period"


@pytest.mark.parametrize("field, asked", [(field, {"mode": "mean", "period": "1s", field: value}) for field, value in [
    ("mode", 5), ("mode", ["mean"]), ("fn", True), ("period", 2), ("period", {"seconds": 2}), ("every", 2.5), ("field", 1), ("field", ["data.x"]),
    ("filter", True), ("filter", ["true"]), ("kinds", "n"), ("kinds", {}), ("kinds", [1]), ("kinds", [["n"]]), ("priority", 1), ("on_slow", False)]], ids=str)
def test_a_value_of_another_type_is_refused_and_named(shared_daemon, field, asked):
    assert refused("subscribe", shared_daemon, "test:wrong", asked) == field


def test_after_a_wrong_subscribe_everything_is_as_it_was(shared_daemon, room, ws):
    client = ws(shared_daemon)
    client.subscribe(room, filter="data.n > 2")
    for _, asked in WRONG:
        for name in (room, f"{room}:other", "*"):
            assert client.ask({"type": "subscribe", "rooms": [name], **asked}, "error")["code"] == "invalid_field"
    assert client.ask({"type": "get_stats"}, "stats")["rooms"] == [room]
    for name in (f"{room}:other", room):
        shared_daemon.publish_numbers(name, range(4))
    assert [(event["room"], event["data"]["n"]) for event in client.take(1)] == [(room, 3)]
    assert client.alive()


def test_readers_that_asked_for_nothing_get_everything_beside_those_that_did(shared_daemon, room, serve):
    plain = serve("websocket", shared_daemon, room)
    served = [serve(way, shared_daemon, room, filter="data.n > 97", mode="latest", period="10ms") for way in STREAMS]
    last = shared_daemon.publish_numbers(room, range(50, 100))["last_seq"]
    assert numbers(plain.take(50)) == list(range(50, 100))
    for reader in served:
        assert seqs(reader.until(last))[-1] == last
