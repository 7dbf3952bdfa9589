"""What a WebSocket client is promised: the messages of docs/api.md, errors that leave the connection open, one cursor for all
transports, and replay that joins live without a hole under load. Slow readers are in test_slow_reader.py.
"""

import json
import random
import time

import pytest

from harness.api import numbers, seqs
from harness.load import Publisher, assert_no_hole, in_threads
from harness.ws import Ws


def test_the_welcome_comes_first(daemon, room, ws):
    head = daemon.publish_numbers(room, range(3))["last_seq"]
    welcome = ws(daemon, room).welcome
    assert welcome["connection_id"] and welcome["rooms"] == [room] and welcome["heartbeat_ms"] > 0 and welcome["timestamp"]
    assert str(welcome["cursor"]) == str(head)


def test_a_client_may_connect_without_rooms_and_subscribe_later(daemon, room, ws):
    client = ws(daemon)
    assert client.welcome["rooms"] == []
    head = daemon.publish_numbers(room, range(3))["last_seq"]
    answer = client.subscribe(room)
    assert answer["rooms"] == [room] and str(head) in str(answer["cursor"]) and "granted" in answer
    daemon.publish_numbers(room, range(3, 5))
    assert numbers(client.take(2)) == [3, 4]


@pytest.mark.parametrize("start", ["after", "tail", "since", "none"])
def test_subscribe_says_where_to_start_and_answers_before_the_first_event(daemon, room, ws, start):
    first = daemon.publish_numbers(room, range(10))["first_seq"]
    client = ws(daemon)
    client.send({"type": "subscribe", "id": "s1", "rooms": [room],
                 **{"after": {"after": str(first + 5)}, "tail": {"tail": 4}, "since": {"since": "-5m"}, "none": {}}[start]})
    answer = client.next()
    assert (answer["type"], answer["id"]) == ("subscribed", "s1")
    daemon.publish_numbers(room, [10])
    expected = {"after": range(6, 11), "tail": range(6, 11), "since": range(11), "none": range(10, 11)}[start]
    assert numbers(client.take(len(expected))) == list(expected)


def test_subscribe_takes_several_rooms_and_patterns(daemon, room, ws):
    client = ws(daemon)
    assert sorted(client.subscribe(f"{room}-a", f"{room}:*")["rooms"]) == sorted([f"{room}-a", f"{room}:*"])
    for name in ("-a", "-b", ":new"):
        daemon.publish_numbers(room + name, range(1))
    assert [event["room"] for event in client.take(2)] == [f"{room}-a", f"{room}:new"]


def test_rooms_that_overlap_bring_an_event_once(daemon, room, ws):
    client = ws(daemon, f"{room},{room}*")
    client.subscribe(room)
    daemon.publish_numbers(room, range(5))
    assert numbers(client.take(5)) == list(range(5))
    assert client.alive()


def test_unsubscribe_ends_a_room_and_leaves_the_others(daemon, room, ws):
    a, b = f"{room}-a", f"{room}-b"
    client = ws(daemon, f"{a},{b}")
    assert client.ask({"type": "unsubscribe", "rooms": [a]}, "unsubscribed")["rooms"] == [a]
    daemon.publish_numbers(a, range(1))
    daemon.publish_numbers(b, range(1))
    assert client.event()["room"] == b
    assert client.alive()


def test_publish_is_answered_with_the_number(daemon, room, ws):
    client, reader = ws(daemon), ws(daemon, room)
    answer = client.ask({"type": "publish", "room": room, "kind": "k", "data": {"a": [1]}, "priority": "high", "key": "pump",
                         "timestamp": 1714564800000, "ack": "synced"}, "published")
    assert answer["room"] == room and answer["ack"] == "synced"
    [event] = daemon.history(room)["events"]
    assert (event["seq"], event["kind"], event["data"], event["priority"], event["key"]) == (
        answer["seq"], "k", {"a": [1]}, "high", "pump")
    assert reader.event() == event


def test_publish_with_an_event_id_seen_before_is_not_published_again(daemon, room, ws):
    client = ws(daemon)
    message = {"type": "publish", "room": room, "kind": "k", "data": 1, "event_id": "order-7"}
    first = client.ask({**message, "id": "1"}, "published")["seq"]
    assert client.ask({**message, "id": "2"}, "published")["seq"] == first
    assert daemon.publish(room, {"kind": "k", "data": 1, "id": "order-7"})["duplicates"] == 1
    assert len(daemon.history(room)["events"]) == 1


def test_ping_is_answered_with_its_data(daemon, ws):
    client = ws(daemon)
    assert client.ask({"type": "ping", "data": {"t": [1, None]}}, "pong")["data"] == {"t": [1, None]}
    client.send({"type": "ping"})
    assert "id" not in client.until("pong")


def test_ping_frames_are_answered(daemon, ws):
    client = ws(daemon)
    assert client.connection.ping(b"are you there").wait(5)


def test_get_stats_says_what_this_connection_got(daemon, room, ws):
    client = ws(daemon, room)
    daemon.publish_numbers(room, range(7))
    client.take(7)
    stats = client.ask({"type": "get_stats"}, "stats")
    assert stats["connection_id"] == client.welcome["connection_id"] and stats["uptime_ms"] >= 0
    assert (stats["delivered"], stats["dropped"], stats["conflated"], stats["waiting"]) == (7, 0, 0, 0)
    assert room in json.dumps(stats["rooms"])


def test_a_heartbeat_comes_in_its_interval_and_carries_the_cursor(start_daemon, room, ws):
    daemon = start_daemon(HEARTBEAT__INTERVAL="500ms")
    head = daemon.publish_numbers(room, range(1))["last_seq"]
    client = ws(daemon, room)
    assert client.welcome["heartbeat_ms"] == 500
    for _ in range(2):
        heartbeat = client.until("heartbeat", timeout=3)
        assert str(heartbeat["cursor"]) == str(head) and heartbeat["timestamp"]


def test_a_made_up_cursor_is_answered_with_a_gap(daemon, room, ws):
    first = daemon.publish_numbers(room, range(3))["first_seq"]
    client = ws(daemon, room, after=12345)
    gap = client.until("gap")
    assert (gap["room"], int(gap["after"]), gap["first_seq"]) == (room, 12345, first)
    assert numbers(client.take(3)) == [0, 1, 2]


@pytest.mark.parametrize("pattern", [False, True], ids=["one-room", "pattern"])
def test_a_cursor_begun_on_sse_goes_on_over_websocket_and_by_polling(daemon, room, sse, ws, pattern):
    rooms = f"{room}*" if pattern else room
    daemon.publish_numbers(room, range(30))
    stream = sse(daemon, rooms, since="-5m")
    messages = stream.take(10)
    seen = [message.data for message in messages]
    stream.stop()
    client = ws(daemon, rooms, after=messages[-1].last_id)
    seen += client.take(10)
    cursor = seen[-1]["seq"] if not pattern else f"{room}={seen[-1]['seq']}"
    client.close()
    page = daemon.poll(rooms, after=cursor)
    seen += page["events"]
    daemon.publish_numbers(room, range(30, 35))
    seen += [message.data for message in sse(daemon, rooms, last_id=page["cursor"]).take(5)]
    assert numbers(seen) == list(range(35))


@pytest.mark.parametrize("message, code", [
    ("{", "invalid_json"), ("", "invalid_json"), ('{"type":"ping"', "invalid_json"),
    ('{"type":"dance","id":"e"}', "unknown_type"),
    ('{"type":"subscribe","id":"e","rooms":"well:1"}', "invalid_field"),
    ('{"type":"subscribe","id":"e","rooms":[1]}', "invalid_field"),
    ('{"type":"subscribe","id":"e","rooms":["x"],"tail":"many"}', "invalid_field"),
    ('{"type":"publish","id":"e","room":"x","kind":5,"data":1}', "invalid_field"),
    ('{"type":"publish","id":"e","room":"x","kind":"k","data":1,"priority":"urgent"}', "invalid_field"),
    ('{"type":"publish","id":"e","room":"x","kind":"k","data":1,"ack":"maybe"}', "invalid_field"),
    (b"\x00\x01", "binary_unsupported"), (b'{"type":"ping"}', "binary_unsupported"),
    ("[]", None), ("1", None), ("null", None), ("{}", None), ('{"type":5}', None), ('{"type":null,"id":"e"}', None),
    ('{"type":"subscribe","id":"e"}', None), ('{"type":"subscribe","id":"e","rooms":[]}', None),
    ('{"type":"subscribe","id":"e","rooms":["a b"]}', None), ('{"type":"subscribe","id":"e","rooms":["a*b"]}', None),
    ('{"type":"subscribe","id":"e","rooms":["' + "x" * 201 + '"]}', None),
    ('{"type":"subscribe","id":"e","rooms":["x"],"after":"0","tail":1}', None),
    ('{"type":"subscribe","id":"e","rooms":["x"],"romms":[]}', None),
    ('{"type":"unsubscribe","id":"e","rooms":7}', None),
    ('{"type":"publish","id":"e","room":"well:*","kind":"k","data":1}', None),
    ('{"type":"publish","id":"e","room":"x","data":1}', None), ('{"type":"publish","id":"e","kind":"k","data":1}', None),
    ('{"type":"publish","id":"e","room":"x","kind":"k"}', None),
    ('{"type":"welcome","id":"e"}', None),
], ids=lambda value: str(value)[:48] if value else None)
def test_a_message_that_is_not_understood_gets_an_error_and_the_connection_stays(daemon, ws, message, code):
    client = ws(daemon)
    client.send(message)
    error = client.until("error")
    assert error["message"] and error["code"] and (code is None or error["code"] == code), error
    if isinstance(message, str) and '"id":"e"' in message:
        assert error["id"] == "e"
    assert client.alive()
    assert daemon.get("/v1/rooms").json()["total"] == 0, "an error changes nothing"


def test_errors_do_not_disturb_what_is_subscribed(daemon, room, ws):
    client = ws(daemon, room)
    daemon.publish_numbers(room, [0])
    for message in ("{", b"\x00", '{"type":"dance"}', '{"type":"subscribe","rooms":["a b"]}'):
        client.send(message)
        client.until("error")
    daemon.publish_numbers(room, [1])
    assert numbers([client.event()]) == [1]


def test_a_message_over_the_limit_is_an_error_and_close_1009(start_daemon, room, ws):
    daemon = start_daemon(LIMITS__MAX_MESSAGE_BYTES="10KiB")
    client, other = ws(daemon, room), ws(daemon, room)
    client.send({"type": "ping", "data": "x" * 9_000})
    client.until("pong")
    client.send({"type": "ping", "data": "x" * 11_000})
    code, before = client.closed()
    assert code == 1009
    assert [message["type"] for message in before if message["type"] != "heartbeat"] == ["error"] and before[-1]["message"]
    assert other.alive()


def test_a_message_over_the_limit_in_many_small_frames_is_close_1009_too(start_daemon, ws):
    client = ws(start_daemon(LIMITS__MAX_MESSAGE_BYTES="10KiB"))
    client.connection.send(["x" * 1_000] * 20)
    assert client.closed()[0] == 1009


@pytest.mark.parametrize("query", ["rooms=a%20b", "rooms=x&after=0&tail=2", "rooms=x&tial=2", "rooms=x&tail=x"])
def test_a_wrong_upgrade_is_refused_with_a_reason(daemon, query):
    answer = daemon.get(f"/v1/stream?{query}", headers={
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("tail_events", [None, 16], ids=["from-memory", "from-disk"])
def test_replay_joins_live_without_a_hole_while_many_publish(start_daemon, room, tail_events):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=tail_events)
    first = daemon.publish_numbers(room, range(200))["first_seq"]
    publishers = [Publisher(daemon, room, name=f"p{i}", total=150, pause=0.004, seed=i) for i in range(4)]
    last = first + 200 + 4 * 150 - 1

    def subscriber(seed):
        chance = random.Random(seed)

        def follow():
            time.sleep(chance.random() * 1.5)  # joining at a random moment is the point
            head = daemon.publish_numbers(f"{room}-clock", [seed]) and first + chance.randrange(200)
            client = Ws(daemon, room, after=head)
            try:
                return head, [client.event()["seq"] for _ in range(last - head)]
            finally:
                client.close()
        return follow

    for after, seen in in_threads([subscriber(seed) for seed in range(24)]):
        assert_no_hole(seen, after + 1, last)
    for publisher in publishers:
        acked = publisher.join()
        assert list(acked.values()) == sorted(acked.values()), "one producer's events stand in its order"
    assert_no_hole(seqs(daemon.all_events(room)), first, last)


def test_a_reader_that_joins_live_only_sees_all_from_its_welcome_on(daemon, room, ws):
    daemon.publish_numbers(room, range(1))
    publishers = [Publisher(daemon, room, name=f"p{i}") for i in range(2)]
    readers = []
    for _ in range(10):
        readers.append(ws(daemon, room))
        publishers[0].wait_acked(3)
    last = max(seq for publisher in publishers for seq in publisher.stop().values())
    for reader in readers:
        start = int(reader.welcome["cursor"])
        assert_no_hole(seqs(reader.take(last - start)), start + 1, last)


def test_a_stopping_daemon_closes_its_clients_with_going_away(daemon, room, ws):
    client = ws(daemon, room)
    daemon.terminate()
    assert client.closed()[0] in (1001, 1012)


def test_a_client_that_vanishes_disturbs_nobody(daemon, room, ws):
    stay = ws(daemon, room)
    for _ in range(5):
        ws(daemon, room).socket.close()
    daemon.publish_numbers(room, range(50))
    assert numbers(stay.take(50)) == list(range(50))


def test_a_close_is_answered(daemon, ws):
    client = ws(daemon)
    client.connection.close(1000)
    assert client.connection.protocol.close_rcvd is not None, "the server went without answering the close"
    assert client.connection.protocol.close_rcvd.code == 1000


def test_a_stop_says_goodbye_to_every_stream(start_daemon, ws):
    daemon = start_daemon()
    clients = [ws(daemon, "x") for _ in range(50)]
    daemon.terminate()
    for client in clients:
        code, _ = client.closed()
        assert code == 1012


def test_a_failed_subscribe_changes_nothing(start_daemon, room, ws):
    daemon = start_daemon(LIMITS__ROOMS=3)
    daemon.publish_numbers(room, range(3))
    client = ws(daemon)
    error = client.ask({"type": "subscribe", "rooms": [room, "n1", "n2", "n3", "n4"], "tail": 1}, "error")
    assert error["code"] == "too_many_rooms"
    assert client.ask({"type": "get_stats"}, "stats")["rooms"] == []
    assert client.ask({"type": "subscribe", "rooms": [room], "tail": 1}, "subscribed")["rooms"] == [room]
    assert client.event()["data"]["n"] == 2
