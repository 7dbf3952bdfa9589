"""A room with a state: whoever comes gets the whole table once and then only what changes in it, joined without a seam, on every
transport; and the table is the same after a restart and after kill -9.
"""

import json
import random
import threading
import time

import pytest

from harness import pipelines
from harness.api import problem
from harness.pipelines import Table, applied, came, state, working, write
from harness.process import eventually
from harness.tokens import mint

KEYED = '[pipeline]\nfrom = "in"\n[[output]]\nroom = "table"\nstate = true\n'
WAYS = ["sse", "ws", "poll"]


@pytest.fixture
def start(start_daemon):
    """Starts a daemon whose room `table` has the state that the room `in` says; more settings for it and for the output."""
    def begin(more="", text=KEYED, **settings):
        daemon = start_daemon(started=False, **pipelines.SETTINGS, **settings)
        write(daemon, p=text + more)
        return working(daemon.start())

    return begin


@pytest.fixture
def reader(sse, ws):
    """Opens a reader of a room by SSE, WebSocket or long-poll; its `next` are messages of any type, without heartbeats."""
    def begin(way, daemon, rooms="table", after=None, **params):
        if way == "sse":
            return Messages(sse(daemon, rooms, last_id=after, **params))
        if way == "ws":
            return Messages(ws(daemon, rooms, welcome=False, **({} if after is None else {"after": after}), **params))
        return Polls(daemon, rooms, after, **params)

    return begin


class Messages:
    """A stream's messages, whichever transport."""

    def __init__(self, stream):
        self.stream = stream

    def next(self, timeout=15):
        while True:
            message = self.stream.next(timeout)
            if not isinstance(message, dict):
                name = "event" if message.name == "message" else message.name
                assert name == message.data["type"], f"the message's name is not its type: {message}"
                message = message.data
            if message["type"] not in ("heartbeat", "welcome"):
                return message


class Polls:
    """The same by one long-poll after the other."""

    def __init__(self, daemon, rooms, after, **params):
        self.daemon, self.rooms, self.params, self.waiting = daemon, rooms, params, []
        self.session = daemon.session.__class__()
        self.where = {} if after is None else {"after": after}

    def next(self, timeout=15):
        deadline = time.monotonic() + timeout
        while not self.waiting:
            assert time.monotonic() < deadline, f"no message within {timeout} s"
            answer = self.session.get(f"{self.daemon.url}/v1/stream", params={"rooms": self.rooms, "wait": "1s", **self.where, **self.params}, timeout=20,
                                      headers={"Authorization": f"Bearer {self.daemon.key}", "Accept": "application/json"})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            self.waiting, self.where, self.params = [*page["notices"], *page["events"]], {"after": page["cursor"]}, {}
        return self.waiting.pop(0)


def say(daemon, **values):
    """Says something about keys; returns when it is in the table."""
    before = daemon.room("table")["head"] if daemon.room("table") else 0
    daemon.publish("in", [{"kind": "k", "key": key, "data": value} for key, value in values.items()])
    eventually(lambda: (now := daemon.room("table")) and now["head"] > before, "the table changes")


def last_of(daemon, room, count):
    """The data of the newest events of a room."""
    return [event["data"] for event in daemon.history(room, tail=count)["events"]]


def follow(table, messages, cursor, timeout=30):
    """Reads until a cursor is reached."""
    deadline = time.monotonic() + timeout
    while table.cursor < cursor:
        assert time.monotonic() < deadline, f"at {table.cursor}, not yet at {cursor}"
        table.take(messages.next())
    return table


def changes(seed, count, keys=50):
    """Values for keys at random: objects of objects that grow and shrink, other things, and nothing."""
    dice = random.Random(seed)

    def value(depth=0):
        what = dice.random()
        if depth < 3 and what < 0.6:
            return {dice.choice("abcd"): value(depth + 1) for _ in range(dice.randrange(4))}
        if what < 0.7:
            return [dice.randrange(3), None, {"x": None}]
        return dice.choice([dice.randrange(5), 0.5, "text", True, None])

    return [(f"key {dice.randrange(keys)}", None if dice.random() < 0.1 else value()) for _ in range(count)]


@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_whoever_joins_at_any_time_ends_with_the_same_table(start, sse, ws, mode):
    daemon = start(f'state_mode = "{mode}"\n', ROOMS__TABLE__TAIL_EVENTS=100)
    dice, said, stop, failures = random.Random(mode), changes(mode, 6000), threading.Event(), []
    done = []

    def publish():
        try:
            with daemon.session.__class__() as session:
                for at in range(0, len(said), 4):
                    if stop.is_set():
                        return
                    daemon.publish("in", [{"kind": "k", "key": key, "data": value} for key, value in said[at:at + 4]], session=session, ack="memory")
                    done.append(at)
        except BaseException as error:
            failures.append(error)

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    readers, tables, threads, finished = [], [], [], threading.Event()
    while len(readers) < 20 and publisher.is_alive():
        way = WAYS[len(readers) % 3]
        rooms = dice.choice(["table", "table", "tab*", "table,other"])
        begin = {} if way == "poll" else dice.choice([{}, {}, {"tail": 5}, {"since": "-1m"}])
        tables.append(Table())
        if way == "poll":
            readers.append(Polls(daemon, rooms, None, **begin))
            threads.append(threading.Thread(target=poll_on, args=(readers[-1], tables[-1], finished, failures), daemon=True))
            threads[-1].start()
        else:
            readers.append(Messages(sse(daemon, rooms, **begin) if way == "sse" else ws(daemon, rooms, welcome=False, **begin)))
        time.sleep(dice.random() * 0.1)
    stop.set()
    publisher.join(30)
    assert len(readers) == 20, "all joined while it changed"
    eventually(lambda: pipelines.listed(daemon)["p"]["events_in"] == len(done) * 4, "all is worked on", timeout=20)
    eventually(lambda: pipelines.listed(daemon)["p"]["waiting"] == 0, "nothing waits")
    expected = settled(daemon)
    finished.cursor = int(expected["cursor"])
    finished.set()
    for messages, table in zip(readers, tables):
        if isinstance(messages, Messages):
            follow(table, messages, finished.cursor)
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    for number, table in enumerate(tables):
        assert table.known == expected["data"], f"reader {number} by {WAYS[number % 3]}"
        assert (table.snapshots, table.gaps) in [(1, 0), (0, 0)], "one snapshot, or none where nothing was there yet"
    assert sum(table.deltas for table in tables) > 1000


def poll_on(messages, table, finished, failures):
    """Polls until it has reached what `finished` says."""
    try:
        while not finished.is_set() or table.cursor < finished.cursor:
            if messages.waiting or not finished.is_set() or table.cursor < finished.cursor:
                try:
                    table.take(messages.next(timeout=3))
                except AssertionError as nothing:
                    if "no message within" not in str(nothing):
                        raise
    except BaseException as error:
        failures.append(error)


def settled(daemon, room="table"):
    """The state when nothing changes any more."""
    found = [None]

    def look():
        before, found[0] = found[0], state(daemon, room)
        return before == found[0] and before

    return eventually(look, "the state stands still", every=0.2)


@pytest.mark.parametrize("way", WAYS)
def test_a_newcomer_gets_the_table_at_once_and_then_only_what_changes(start, reader, way):
    daemon = start()
    say(daemon, a={"v": 1}, b={"v": 1, "w": {"x": 1}})
    say(daemon, a={"v": 2})
    begun = time.monotonic()
    messages = reader(way, daemon, **({"wait": "20s"} if way == "poll" else {}))
    snapshot = messages.next()
    assert time.monotonic() - begun < 5, "there was something to say at once"
    head = daemon.room("table")["head"]
    assert snapshot == {"type": "snapshot", "room": "table", "cursor": str(head), "keys": 2, "data": {"a": {"v": 2}, "b": {"v": 1, "w": {"x": 1}}}}
    say(daemon, b={"v": 1, "w": {"y": 2}})
    delta = messages.next()
    assert delta.pop("timestamp") == daemon.history("table", tail=1)["events"][0]["timestamp"]
    assert delta == {"type": "delta", "room": "table", "seq": head + 1, "data": {"b": {"w": {"x": None, "y": 2}}}}


def test_on_sse_the_snapshot_follows_the_welcome_and_a_change_is_a_message_named_delta_with_its_cursor(start, sse):
    daemon = start()
    say(daemon, a=1)
    stream = sse(daemon, "table")
    stream.welcome()
    assert stream.next().name == "snapshot"
    say(daemon, a=2)
    delta = stream.next()
    assert (delta.name, delta.id) == ("delta", str(delta.data["seq"]))


def test_on_websocket_the_snapshot_follows_the_welcome_or_the_answer_to_subscribe(start, ws):
    daemon = start()
    say(daemon, a=1)
    assert ws(daemon, "table").next()["type"] == "snapshot"
    client = ws(daemon, "other")
    client.subscribe("table")
    snapshot = client.next()
    assert (snapshot["type"], snapshot["room"]) == ("snapshot", "table")
    assert client.subscribe("table")["already"] == ["table"]
    client.send({"type": "ping", "id": "x"})
    assert client.next()["type"] == "pong", "who is there already gets it not again"


@pytest.mark.parametrize("way", WAYS)
def test_a_room_that_gets_a_state_while_one_follows_it_brings_changes_only(start, reader, way):
    daemon = start()
    daemon.publish("table", {"kind": "other", "data": 1})
    messages = reader(way, daemon, after=0)
    assert messages.next()["type"] == "event"
    say(daemon, a=1)
    delta = messages.next()
    assert (delta["type"], delta["data"]) == ("delta", {"a": 1})


@pytest.mark.parametrize("way", WAYS)
def test_one_that_comes_back_with_its_cursor_gets_only_the_changes_it_missed(start, reader, way):
    daemon = start()
    say(daemon, a={"v": 1}, b={"v": 1})
    table = Table().take(reader(way, daemon).next())
    say(daemon, a={"v": 2})
    say(daemon, b=None)
    say(daemon, c={"v": 1})
    back = Table(table.known, table.cursor)
    follow(back, reader(way, daemon, after=table.cursor), daemon.room("table")["head"])
    assert (back.snapshots, back.deltas) == (0, 3)
    assert back.known == state(daemon, "table")["data"] == {"a": {"v": 2}, "c": {"v": 1}}


@pytest.mark.parametrize("way", WAYS)
def test_one_that_comes_back_too_late_gets_a_gap_and_the_table_anew(start, reader, way):
    daemon = start(ROOMS__DEFAULT__RETENTION_COUNT=20, ROOMS__DEFAULT__TAIL_EVENTS=20)
    say(daemon, a={"v": 1}, gone=1)
    cursor = daemon.room("table")["head"]
    say(daemon, gone=None)
    for n in range(300):
        daemon.publish("in", {"kind": "k", "key": "a", "data": {"v": n + 2}}, ack="memory")
    eventually(lambda: last_of(daemon, "table", 1) == [{"a": {"v": 301}}], "all changes")
    eventually(lambda: daemon.room("table")["first_seq"] > cursor + 1, "retention took changes away")
    messages = reader(way, daemon, after=cursor)
    gap, snapshot = messages.next(), messages.next()
    assert (gap["type"], int(gap["after"]), snapshot["type"]) == ("gap", cursor, "snapshot")
    assert snapshot["data"] == {"a": {"v": 301}}
    table = Table().take(snapshot)
    say(daemon, a={"v": 302})
    assert follow(table, messages, daemon.room("table")["head"]).known == {"a": {"v": 302}}


@pytest.mark.parametrize("begin", [{"after": 0}, {"tail": 3}, {"since": "-1h"}], ids=["after", "tail", "since"])
@pytest.mark.parametrize("way", WAYS)
def test_changes_that_are_in_the_snapshot_do_not_come_again(start, reader, way, begin):
    daemon = start()
    for n in range(5):
        say(daemon, a=n)
    daemon.publish("table", {"kind": "other", "data": 1})
    messages = reader(way, daemon, **begin)
    assert messages.next()["data"] == {"a": 4}
    assert messages.next()["kind"] == "other", "events that are no changes of the state come as ever"
    say(daemon, a=7)
    assert messages.next()["data"] == {"a": 7}


@pytest.mark.parametrize("begin", [{"after": 0}, {"tail": 2000}, {"since": "-1h"}], ids=["after", "tail", "since"])
@pytest.mark.parametrize("way", WAYS)
def test_nor_do_they_where_the_history_is_long(start, reader, way, begin):
    daemon = start(ROOMS__TABLE__TAIL_EVENTS=10)
    for at in range(0, 3000, 100):
        daemon.publish("in", [{"kind": "k", "key": "a", "data": n} for n in range(at, at + 100)])
    came(daemon, "table", 3000)
    messages = reader(way, daemon, **begin)
    table = Table(again=way == "poll").take(messages.next())
    assert table.known == {"a": 2999}
    say(daemon, a=-1)
    assert follow(table, messages, daemon.room("table")["head"]).known == {"a": -1}
    assert (table.snapshots, table.deltas) == (1, 1)


@pytest.mark.parametrize("way", ["ws", "sse"])
def test_a_slow_reader_that_lost_changes_gets_the_table_anew(start, sse, ws, way):
    daemon = start(ROOMS__TABLE__ON_FULL="displace", LIMITS__MAILBOX_MESSAGES=10, LIMITS__SEND_BUFFER="64KiB", LIMITS__WRITE_TIMEOUT="60s")
    say(daemon, **{f"k{n}": {"n": n} for n in range(5)})
    stream = ws(daemon, "table", slow=True) if way == "ws" else sse(daemon, "table", curl=["--limit-rate", "100k"])
    for n in range(400):
        daemon.publish("in", {"kind": "k", "key": f"k{n % 7}", "data": {"n": n, "pad": str(n) * 1000}}, ack="memory")
    eventually(lambda: "k0" in (state(daemon, "table") or {"data": {}})["data"] and state(daemon, "table")["data"].get("k0", {}).get("n") == 399, "all changes")
    expected = settled(daemon)
    if way == "ws":
        stream.read_on()
    table = follow(Table(), Messages(stream), int(expected["cursor"]), timeout=60)
    assert table.gaps > 0 and table.snapshots > 1, "it was slow enough"
    assert table.known == expected["data"]


def test_the_state_can_be_asked_for_and_a_stream_goes_on_from_it(start, reader):
    daemon = start()
    said, stop = changes(7, 4000), threading.Event()

    def publish():
        with daemon.session.__class__() as session:
            for key, value in said:
                if stop.is_set():
                    return
                daemon.publish("in", {"kind": "k", "key": key, "data": value}, session=session, ack="memory")

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    eventually(lambda: state(daemon, "table"), "there is a state")
    begun = []
    for _ in range(5):
        found = state(daemon, "table")
        assert found["keys"] == len(found["data"]) and found["room"] == "table"
        begun.append((Table(found["data"], found["cursor"]), reader("ws", daemon, after=found["cursor"])))
        time.sleep(0.1)
    stop.set()
    publisher.join(20)
    expected = settled(daemon)
    for table, messages in begun:
        follow(table, messages, int(expected["cursor"]))
        assert table.snapshots == 0 and table.known == expected["data"]


def test_changes_are_in_the_history_and_all_of_them_on_nothing_make_the_table(start):
    daemon = start()
    for at in range(0, 600, 50):
        daemon.publish("in", [{"kind": "k", "key": key, "data": value} for key, value in changes(3, 600)[at:at + 50]])
    eventually(lambda: pipelines.listed(daemon)["p"]["events_in"] == 600, "all is worked on")
    expected = settled(daemon)
    table = {}
    for event in daemon.all_events("table"):
        assert event["type"] == "delta" and len(event["data"]) == 1, event
        table = applied(table, event["data"])
    assert table == expected["data"]


TALES = {
    "replace": ('state_mode = "replace"\n', [({"a": 1, "b": {"c": 1, "d": 2}}, {"k": {"a": 1, "b": {"c": 1, "d": 2}}}),
                                            ({"b": {"c": 1}}, {"k": {"a": None, "b": {"d": None}}}), ({"b": {"c": 1}}, None), (7, {"k": 7}),
                                            ([1, None], {"k": [1, None]}), ({}, {"k": {}}), ({"n": None}, None), (None, {"k": None}), (None, None)], None),
    "merge": ('state_mode = "merge"\n', [({"a": 1, "b": {"c": 1}}, {"k": {"a": 1, "b": {"c": 1}}}), ({"b": {"d": 2}}, {"k": {"b": {"d": 2}}}),
                                         ({"a": None}, {"k": {"a": None}}), ({"a": None}, None), ({"b": {"c": 1}}, None), ({"l": [1]}, {"k": {"l": [1]}}),
                                         ({"l": [2]}, {"k": {"l": [2]}})], {"b": {"c": 1, "d": 2}, "l": [2]}),
    "replace-is-the-default": ("", [({"a": 1}, {"k": {"a": 1}}), ({"b": 1}, {"k": {"a": None, "b": 1}})], {"b": 1}),
}


@pytest.mark.parametrize("tale", TALES)
def test_what_is_said_of_a_key_replaces_or_is_merged_and_only_what_changes_is_told(start, tale):
    settings, steps, end = TALES[tale]
    daemon = start(settings)
    for data, _ in steps:
        daemon.publish("in", {"kind": "k", "key": "k", "data": data})
    told = [patch for _, patch in steps if patch is not None]
    assert [event["data"] for event in came(daemon, "table", len(told))] == told
    eventually(lambda: pipelines.listed(daemon)["p"]["events_in"] == len(steps), "all is worked on")
    assert len(daemon.all_events("table")) == len(told)
    assert state(daemon, "table")["data"] == ({} if end is None else {"k": end})


def test_a_key_goes_when_nothing_was_said_of_it_for_a_while_and_that_is_told(start, ws):
    daemon = start('state_expire = "2s"\n')
    say(daemon, silent=1, repeated=1)
    client = ws(daemon, "table")
    assert client.next()["type"] == "snapshot"
    begun = time.monotonic()
    while time.monotonic() - begun < 3.5:
        daemon.publish("in", {"kind": "k", "key": "repeated", "data": 1})
        time.sleep(0.1)
    assert [event["data"] for event in came(daemon, "table", 3)][2] == {"silent": None}, "a repetition changes nothing and says something"
    assert client.until("delta")["data"] == {"silent": None}
    assert state(daemon, "table")["data"] == {"repeated": 1}
    assert client.until("delta", timeout=10)["data"] == {"repeated": None}
    assert state(daemon, "table") and state(daemon, "table")["data"] == {}


def test_a_key_that_expires_while_the_daemon_is_down_goes_when_it_is_up(start):
    daemon = start('state_expire = "1s"\n')
    say(daemon, a=1, b=2)
    daemon.terminate()
    time.sleep(1.3)
    daemon.start()
    assert {key for event in came(daemon, "table", 4)[2:] for key, value in event["data"].items() if value is None} == {"a", "b"}


def test_a_key_too_many_is_a_dead_letter_until_another_has_gone(start):
    daemon = start("state_keys_max = 3\n")
    daemon.publish("in", [{"kind": "k", "key": key, "data": {"v": 1}} for key in "abcde"] + [{"kind": "k", "key": "a", "data": {"v": 2}}])
    letters = came(daemon, "dead-letter:p", 2)
    assert [letter["data"]["event"]["key"] for letter in letters] == ["d", "e"]
    assert {letter["data"]["field"] for letter in letters} == {"key"} and "state_keys_max" in letters[0]["data"]["message"]
    assert state(daemon, "table")["data"] == {"a": {"v": 2}, "b": {"v": 1}, "c": {"v": 1}}
    say(daemon, b=None, d={"v": 1})
    eventually(lambda: list(state(daemon, "table")["data"]) and set(state(daemon, "table")["data"]) == set("acd"), "d has a place")


STRANGE = ['with "quotes"', "back\\slash", "ünïcødé 🛢️", "e\u0301", "\u2028", "{braces}", "a/b?c=d&e#f", "null", "0", " ", "__proto__", "x" * 200]


def test_a_key_may_be_any_text(start, reader):
    daemon = start()
    say(daemon, **{key: {"key": key} for key in STRANGE})
    expected = {key: {"key": key} for key in STRANGE}
    eventually(lambda: state(daemon, "table")["keys"] == len(STRANGE), "all keys")
    assert state(daemon, "table")["data"] == expected
    for way in WAYS:
        assert reader(way, daemon).next()["data"] == expected, way
    for key in STRANGE:
        found = state(daemon, "table", key=key)
        assert found == {"room": "table", "cursor": found["cursor"], "key": key, "data": {"key": key}}
    assert state(daemon, "table", key="with quotes") is None
    daemon.restart()
    eventually(lambda: (state(daemon, "table") or {}).get("data") == expected, "the same after a restart")


def test_an_event_without_a_key_is_about_the_room_as_a_whole(start):
    daemon = start()
    daemon.publish("in", [{"kind": "k", "data": {"v": 1}}, {"kind": "k", "key": "a", "data": 1}])
    assert [event["data"] for event in came(daemon, "table", 2)] == [{"": {"v": 1}}, {"a": 1}]
    assert state(daemon, "table", key="")["data"] == {"v": 1}


def test_the_table_may_be_of_something_in_the_event_and_there_may_be_many_tables(start):
    daemon = start(text='[pipeline]\nfrom = "in"\n[[output]]\nroom = "site:{site}"\nkey = "{well}"\nstate = true\n[[output]]\nroom = "all"\n')
    daemon.publish("in", [{"kind": "k", "data": {"site": site, "well": well, "v": 1}} for site in "ab" for well in (1, 2)])
    came(daemon, "all", 4)
    for site in "ab":
        assert state(daemon, f"site:{site}")["data"] == {str(well): {"site": site, "well": well, "v": 1} for well in (1, 2)}
    assert state(daemon, "all") is None


@pytest.mark.parametrize("way", WAYS)
def test_a_room_may_carry_events_and_the_state_made_of_them(start, reader, way):
    daemon = start(text=KEYED + '[[output]]\nroom = "table"\n')
    daemon.publish("in", [{"kind": "k", "key": "a", "data": n} for n in (1, 1, 2)])
    found = came(daemon, "table", 5)
    assert [(event["type"], event["data"]) for event in found if event["type"] == "delta"] == [("delta", {"a": 1}), ("delta", {"a": 2})]
    assert [event["data"] for event in found if event["type"] == "event"] == [1, 1, 2]
    messages = reader(way, daemon, after=0)
    assert messages.next()["data"] == {"a": 2}
    assert [messages.next()["data"] for _ in range(3)] == [1, 1, 2]


def test_numbers_and_texts_are_in_the_table_as_they_were_said(start):
    daemon = start()
    data = '{"big":12345678901234567890,"float":0.1,"exp":1e300,"neg":-9007199254740993,"text":"\\u00e9\\ud83d\\ude00\\u0000","deep":[[{"x":[]}]]}'
    daemon.post_events("in", f'{{"kind":"k","key":"k","data":{data}}}')
    came(daemon, "table", 1)
    assert state(daemon, "table")["data"]["k"] == json.loads(data)


def test_where_there_is_no_state_or_no_key_or_no_right_the_answer_says_so(start):
    daemon = start(AUTH__ROLES__OTHERS__ROOMS="other:*")
    daemon.publish_numbers("plain", [1])
    say(daemon, a=1)
    for path in ("never", "plain", "in", "table/x"):
        problem(daemon.get(f"/v1/rooms/{path}/state"), 404)
    assert "pipeline" in problem(daemon.get("/v1/rooms/plain/state"), 404)["detail"]
    assert "'b'" in problem(daemon.get("/v1/rooms/table/state?key=b"), 404)["detail"].replace('"', "'")
    problem(daemon.get("/v1/rooms/table/state?keys=a"), 400)
    problem(daemon.get("/v1/rooms/ta%20ble/state"), 400, 404)
    problem(daemon.get("/v1/rooms/table/state", key=None), 401)
    problem(daemon.get("/v1/rooms/table/state", key=mint(roles=["others"])), 403)
    problem(daemon.request("PUT", "/v1/rooms/table/state", json={}), 405)
    assert daemon.room("plain")["state"] is None and daemon.room("table")["state"]["keys"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_large_table_comes_whole(start, reader, way):
    daemon = start()
    expected = {f"key-{n}": {"n": n, "pad": "x" * 100} for n in range(10_000)}
    events = [{"kind": "k", "key": key, "data": value} for key, value in expected.items()]
    for at in range(0, len(events), 500):
        daemon.publish("in", events[at:at + 500])
    eventually(lambda: (found := state(daemon, "table")) and found["keys"] == len(expected), "all keys", timeout=20)
    snapshot = reader(way, daemon).next()
    assert snapshot["keys"] == len(expected) and snapshot["data"] == expected
    daemon.kill9()
    daemon.start()
    eventually(lambda: (found := state(daemon, "table")) and found["data"] == expected, "the same after kill -9", timeout=20)


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_the_table_is_the_same_after_the_daemon_went_down(start, sse, end):
    daemon = start()
    for at in range(0, 400, 40):
        daemon.publish("in", [{"kind": "k", "key": key, "data": value} for key, value in changes(5, 400)[at:at + 40]])
    eventually(lambda: pipelines.listed(daemon)["p"]["events_in"] == 400, "all is worked on")
    before = settled(daemon)
    stream = sse(daemon, "table")
    table = Table().take(stream.welcome()).take(stream.next().data)
    for _ in range(3):
        getattr(daemon, end)()
        stream.ended()
        daemon.start()
        stream = sse(daemon, "table", last_id=table.cursor)
        found = eventually(lambda: state(daemon, "table"), "there is a state again")
        assert found["data"] == before["data"], "whole, or not there yet"
    say(daemon, later={"v": 1})
    while "later" not in (table.known or {}):
        table.take(stream.next().data)
    assert table.known == {**before["data"], "later": {"v": 1}} == state(daemon, "table")["data"]
    assert reader_after(daemon, sse).known == table.known


def reader_after(daemon, sse):
    """What a newcomer gets."""
    stream = sse(daemon, "table")
    return Table().take(stream.welcome()).take(stream.next().data)


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_an_empty_table_is_one_after_the_daemon_went_down_too(start, end):
    daemon = start()
    say(daemon, a=1)
    say(daemon, a=None)
    assert state(daemon, "table")["data"] == {}
    getattr(daemon, end)()
    working(daemon.start())
    eventually(lambda: state(daemon, "table") is not None, "an empty table", timeout=5)
    assert state(daemon, "table")["data"] == {}
