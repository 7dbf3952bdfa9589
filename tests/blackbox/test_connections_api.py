"""Seeing inside: the list of connections, one of them, closing one; a ledger that adds up whatever a reader does; and the log."""

import json
import os
import re
import signal
import time

import pytest

from harness.api import instant, problem
from harness.process import eventually
from harness.tokens import SECRET, mint

SMALL = {"LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "60s"}
ADMIN = mint(sub="root", roles=["admin"], ttl=3000)
ROOM = "well:1"
PARTS = ("delivered", "filtered", "conflated", "shed", "missed", "waiting")


@pytest.fixture
def start(start_daemon):
    """Starts a daemon that takes ADMIN."""
    return lambda **settings: start_daemon(AUTH__JWT_SECRET=SECRET, **settings)


def listed(daemon, **params):
    answer = daemon.get("/v1/connections", key=ADMIN, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def one(daemon, client):
    """The connection of a WebSocket client."""
    answer = daemon.get(f"/v1/connections/{client.welcome['connection_id']}", key=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ledger(daemon, client):
    """Its ledger, which must add up."""
    found = one(daemon, client)["ledger"]
    assert set(found) == {"due", *PARTS}, found
    assert found["due"] == sum(found[part] for part in PARTS), f"does not add up: {found}"
    return found


def settled(daemon, client, **expected):
    """Waits until the ledger says so; it must add up every time one looks."""
    def look():
        found = ledger(daemon, client)
        return found if all(found[part] == value for part, value in expected.items()) else None

    return eventually(look, f"a ledger with {expected}", timeout=15, every=0.1)


def drained(daemon, client, due):
    """Reads until nothing waits any more of `due` events; the ledger, which must add up on the way, and how many messages of each type came."""
    types = {}
    while True:
        try:
            for _ in range(200):
                kind = client.next(0.3)["type"]
                types[kind] = types.get(kind, 0) + 1
        except AssertionError:  # nothing more for now
            if (found := ledger(daemon, client))["waiting"] == 0 and found["due"] >= due:
                assert found["due"] == due, found
                return found, types
        ledger(daemon, client)


def publish_much(daemon, count, pad=2000, room=ROOM, **more):
    for start in range(0, count, 250):
        daemon.publish(room, [{"kind": "n", "data": {"n": n, "pad": "x" * pad}, **{name: make(n) for name, make in more.items()}}
                              for n in range(start, min(start + 250, count))])


def samples(daemon):
    """All metrics: the sum of each name's samples."""
    found = {}
    for line in daemon.get("/metrics").text.splitlines():
        if line and not line.startswith("#"):
            name = re.split(r"[{ ]", line)[0]
            found[name] = found.get(name, 0) + float(line.rsplit(" ", 1)[1])
    return found


def test_a_connection_says_what_it_is(start, ws):
    daemon = start()
    before = time.time()
    client = ws(daemon, "well:*,tank:1", key=mint(sub="alice", ttl=300))
    for name in ("well:1", "well:2"):
        daemon.publish_numbers(name, range(2))
    client.take(4)
    settled(daemon, client, delivered=4)
    found = one(daemon, client)
    assert (found["id"], found["transport"], found["subject"]) == (client.welcome["connection_id"], "websocket", "alice")
    assert found["client_ip"] == "127.0.0.1" and found["peer"].startswith("127.0.0.1") and found["credential"]
    assert sorted(found["rooms"]) == ["tank:1", "well:*"] and found["following"] == 3 and found["answers"] is True
    assert before - 1 < instant(found["opened_at"]) < time.time() + 1 and 0 <= found["age_seconds"] < 30
    assert set(found["mailbox"]) == {"messages", "bytes", "lanes", "behind"} and set(found["mailbox"]["lanes"]) == {"critical", "high", "normal", "low"}
    assert found["ledger"] == {"due": 4, "delivered": 4, "filtered": 0, "conflated": 0, "shed": 0, "missed": 0, "waiting": 0}
    assert found["catch_ups"] == 0 and sum(found["shed"].values()) == 0 and found["last_delivery_at"]
    assert "well:2" in found["cursor"] and abs(instant(found["expires_at"]) - time.time() - 300) < 10


def test_how_long_events_took_is_told(start, ws):
    daemon = start()
    client = ws(daemon, ROOM)
    assert one(daemon, client)["latency_ms"] is None
    for n in range(200):
        daemon.publish_numbers(ROOM, [n])
        client.event()
    latency = one(daemon, client)["latency_ms"]
    assert 0 <= latency["last"] <= latency["max"] < 5000


def test_the_list_names_every_transport_and_forgets_who_has_left(start, ws, sse):
    daemon = start()
    client, stream = ws(daemon, "a"), sse(daemon, "b")
    welcome = stream.welcome()
    found = {entry["transport"]: entry for entry in listed(daemon)["connections"]}
    assert found["websocket"]["id"] == client.welcome["connection_id"] and found["sse"]["id"] == welcome["connection_id"]
    assert found["sse"]["rooms"] == ["b"] and found["sse"]["subject"] == "test" and found["sse"]["expires_at"] is None
    assert listed(daemon)["total"] == 2
    client.close()
    stream.stop()
    eventually(lambda: listed(daemon) == {"connections": [], "total": 0}, "both are gone", timeout=10)
    problem(daemon.get(f"/v1/connections/{client.welcome['connection_id']}", key=ADMIN), 404)


def test_the_list_is_cut_and_sorted(start, ws):
    daemon = start(**SMALL)
    oldest = ws(daemon, "quiet:1")
    much, stalled = ws(daemon, ROOM), ws(daemon, ROOM, slow=True)
    publish_much(daemon, 1500)
    much.take(1500)
    numbers = {name: client.welcome["connection_id"] for name, client in (("oldest", oldest), ("much", much), ("stalled", stalled))}
    eventually(lambda: ledger(daemon, much)["delivered"] == 1500, "delivered")
    for sort, first in (("age", "oldest"), ("delivered", "much"), ("waiting", "stalled")):
        found = listed(daemon, sort=sort, limit=1)
        assert found["total"] == 3 and [entry["id"] for entry in found["connections"]] == [numbers[first]], sort
    assert len(listed(daemon)["connections"]) == 3


@pytest.mark.parametrize("query", ["sort=beauty", "limit=x", "limit=-1", "limt=1"])
def test_a_wrong_parameter_is_refused(start, query):
    problem(start().get(f"/v1/connections?{query}", key=ADMIN), 400)


@pytest.mark.parametrize("number", ["999999", "0", "-1", "x", "1e9", "99999999999999999999999"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_connection_that_is_not_there_is_not_found(start, ws, method, number):
    daemon = start()
    client = ws(daemon, "a")
    problem(daemon.request(method, f"/v1/connections/{number}", key=ADMIN), *((404,) if number.isdigit() and len(number) < 20 else (400, 404)))
    assert client.alive()


def test_an_admin_closes_a_connection_and_no_other(start, ws, sse):
    daemon = start()
    client, stream, kept = ws(daemon, "a"), sse(daemon, "a"), ws(daemon, "a")
    for number in (client.welcome["connection_id"], stream.welcome()["connection_id"]):
        assert daemon.request("DELETE", f"/v1/connections/{number}", key=ADMIN).status_code == 204
        eventually(lambda: daemon.get(f"/v1/connections/{number}", key=ADMIN).status_code == 404, "it is gone", timeout=5)
    _, before = client.closed(5)
    assert before and (before[-1]["type"], before[-1]["code"]) == ("error", "kicked")
    messages, code = stream.ended(5)
    assert messages and (messages[-1].name, messages[-1].data["code"], code) == ("error", "kicked", 0)
    assert kept.alive()


def test_a_stalled_connection_can_be_closed(start, ws):
    daemon = start(**SMALL)
    stalled = ws(daemon, ROOM, slow=True)
    publish_much(daemon, 2000)
    assert daemon.request("DELETE", f"/v1/connections/{stalled.welcome['connection_id']}", key=ADMIN).status_code == 204
    eventually(lambda: listed(daemon)["total"] == 0, "it is gone", timeout=15)


def test_the_ledger_of_a_reader_that_keeps_up(start, ws):
    daemon = start()
    client = ws(daemon, ROOM)
    for _ in range(10):
        daemon.publish_numbers(ROOM, range(50))
        client.take(50)
        ledger(daemon, client)
    assert settled(daemon, client, delivered=500)["due"] == 500


def test_the_ledger_counts_replayed_events(start, ws):
    daemon = start()
    daemon.publish_numbers(ROOM, range(300))
    client = ws(daemon, ROOM, after=0)
    client.take(300)
    daemon.publish_numbers(ROOM, range(5))
    client.take(5)
    assert settled(daemon, client, delivered=305)["due"] == 305


@pytest.mark.parametrize("policy", ["catch_up", "displace", "reject"])
def test_the_ledger_of_a_slow_reader_adds_up_all_the_time(start, ws, policy):
    daemon = start(**SMALL, ROOMS__WELL__ON_FULL=policy)
    slow = ws(daemon, ROOM, slow=True)
    for _ in range(8):
        publish_much(daemon, 500)
        ledger(daemon, slow)
        for _ in range(10):
            assert slow.next()["type"] in ("event", "dropped")
    assert ledger(daemon, slow)["due"] <= 4000
    slow.read_on()
    found, _ = drained(daemon, slow, 4000)
    assert (found["shed"] > 0) == (policy != "catch_up")
    shed = one(daemon, slow)["shed"]
    assert sum(shed.values()) == found["shed"] and (policy == "catch_up" or set(name for name, n in shed.items() if n) == {policy_reason(policy)})
    assert policy != "catch_up" or one(daemon, slow)["catch_ups"] >= 1


def policy_reason(policy):
    return {"displace": "displaced", "reject": "rejected"}[policy]


def test_the_ledger_of_a_conflating_reader(start, ws):
    daemon = start(**SMALL, ROOMS__WELL__CONFLATE="true")
    slow = ws(daemon, ROOM, slow=True)
    publish_much(daemon, 3000, key=lambda n: f"pump-{n % 3}")
    slow.read_on()
    found, _ = drained(daemon, slow, 3000)
    assert found["conflated"] > 0 and found["shed"] == 0


def test_the_ledger_of_a_reader_that_missed_what_is_not_held_any_more(start, ws):
    daemon = start(**SMALL, ROOMS__WELL__RETENTION_COUNT=100, ROOMS__WELL__TAIL_EVENTS=50)
    slow = ws(daemon, ROOM, slow=True)
    publish_much(daemon, 4000)
    slow.read_on()
    found, types = drained(daemon, slow, 4000)
    assert found["missed"] > 0 and types["gap"] > 0, "missed, and not told"


def test_a_reader_whose_socket_takes_nothing_is_said_not_to_answer(start, ws, sse):
    daemon = start(**SMALL)
    stalled, quick = ws(daemon, ROOM, slow=True), ws(daemon, ROOM)
    stream = sse(daemon, ROOM)
    number = stream.welcome()["connection_id"]
    os.kill(stream.child.pid, signal.SIGSTOP)
    publish_much(daemon, 4000)
    quick.take(4000)
    eventually(lambda: one(daemon, stalled)["answers"] is False, "the WebSocket does not answer", timeout=15)
    eventually(lambda: daemon.get(f"/v1/connections/{number}", key=ADMIN).json()["answers"] is False, "the event stream does not answer", timeout=15)
    ledger(daemon, stalled)
    assert one(daemon, quick)["answers"] is True
    start_time = time.monotonic()
    assert listed(daemon)["total"] == 3 and time.monotonic() - start_time < 3, "the list waits for a reader that does not answer"
    assert samples(daemon)["tidegate_slow_connections"] >= 2
    stalled.read_on()
    stalled.take(4000)
    settled(daemon, stalled, delivered=4000, waiting=0)
    assert one(daemon, stalled)["answers"] is True


def test_the_figures_of_all_connections_add_up_after_they_left(start, ws):
    # Without the reader that is the daemon's own.
    daemon = start(**SMALL, ROOMS__GAS__ON_FULL="displace", ROOMS__TANK__CONFLATE="true", SINKS__WELLS__ENABLED="false")
    slow, quick, leaves = ws(daemon, "well:*,tank:*,gas:*", slow=True), ws(daemon, "well:*"), ws(daemon, ROOM, slow=True)
    publish_much(daemon, 2000)
    publish_much(daemon, 1000, room="gas:1")
    daemon.publish("tank:1", [{"kind": "n", "key": "a", "data": n} for n in range(500)])
    quick.until("event")
    for client in (leaves, slow, quick):
        client.close()
    eventually(lambda: listed(daemon)["total"] == 0, "all have left", timeout=15)
    found = samples(daemon)
    due = found["tidegate_deliveries_due_total"]
    names = ("delivered_total", "filtered_total", "conflated_total", "shed_total", "missed_total", "abandoned_total", "waiting")
    outcomes = {name: found.get(f"tidegate_events_{name}", 0) for name in names}
    assert due == sum(outcomes.values()) and outcomes["waiting"] == 0, f"due {due}: {outcomes}"
    assert due == 7500 and outcomes["abandoned_total"] > 0, f"what waited for two stalled readers was not abandoned: due {due}, {outcomes}"


def test_the_log_says_which_connection_it_is_about(start, ws):
    daemon = start(LOGGING__LEVEL="debug", LOGGING__FORMAT="text")
    client = ws(daemon, "a")
    number = client.welcome["connection_id"]
    daemon.request("DELETE", f"/v1/connections/{number}", key=ADMIN)
    client.closed(5)
    assert daemon.stderr.wait_for(rf'\bconnection="?{number}\b', 5), "no line of the log names the connection"


def test_a_log_as_json_is_one_object_a_line(start, ws):
    daemon = start(LOGGING__LEVEL="debug", LOGGING__FORMAT="json")
    client = ws(daemon, "a")
    client.send("{")
    client.until("error")
    daemon.get("/v1/rooms", key="nonsense\\\"")
    daemon.request("DELETE", f"/v1/connections/{client.welcome['connection_id']}", key=ADMIN)
    client.closed(5)
    daemon.terminate()
    found = [json.loads(line) for line in daemon.log_text().splitlines()]
    assert all(isinstance(line, dict) for line in found)
    about = [line for line in found if str({**line, **line.get("fields", {}), **line.get("span", {})}.get("connection")) == client.welcome["connection_id"]]
    assert about, "no line has the connection's number"
