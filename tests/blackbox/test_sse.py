"""What a reader of Server-Sent Events is promised, with a real `curl -N`: the form of the stream, where it begins, and that
a reader which comes back has missed nothing, whatever happened to the daemon meanwhile.
"""

import json
import time

import pytest

from harness.api import cursor_map, numbers, seqs
from harness.load import Publisher, assert_increasing, assert_no_hole
from harness.process import eventually


def data_of(messages):
    return [message.data for message in messages]


def test_the_headers_keep_proxies_and_caches_from_holding_the_stream_back(daemon, room, sse):
    status, headers = sse(daemon, room).head()
    assert status == 200
    assert headers["content-type"].split(";")[0] == "text/event-stream"
    assert {"no-cache", "no-transform"} <= {word.strip() for word in headers["cache-control"].split(",")}
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


def test_the_stream_says_when_to_come_back(daemon, room, sse):
    stream = sse(daemon, room)
    stream.welcome()
    assert 100 <= stream.retry <= 30_000


def test_the_welcome_comes_first_and_says_where_the_stream_begins(daemon, room, sse):
    head = daemon.publish_numbers(room, range(3))["last_seq"]
    stream = sse(daemon, room)
    welcome = stream.welcome()
    assert welcome["type"] == "welcome" and welcome["connection_id"] and welcome["timestamp"]
    assert welcome["rooms"] == [room] and welcome["heartbeat_ms"] > 0
    assert str(welcome["cursor"]) == str(head)
    assert stream.last_id == str(head), "a browser that breaks off at once must know where to go on"


def test_a_reader_that_saw_only_the_welcome_misses_nothing(daemon, room, sse):
    daemon.publish_numbers(room, range(3))
    stream = sse(daemon, room)
    cursor = str(stream.welcome()["cursor"])
    stream.stop()
    daemon.publish_numbers(room, range(3, 6))
    assert numbers(data_of(sse(daemon, room, last_id=cursor).take(3))) == [3, 4, 5]


@pytest.mark.parametrize("rooms", ["never:{0}", "never:{0},other:{0}", "never:{0}:*"], ids=["one", "two", "pattern"])
def test_a_reader_that_saw_only_the_welcome_of_an_empty_room_misses_nothing(daemon, room, sse, rooms):
    tag = room.split(":")[1]
    stream = sse(daemon, rooms.format(tag))
    cursor = str(stream.welcome()["cursor"])
    stream.stop()
    name = f"never:{tag}:x" if "*" in rooms else f"never:{tag}"
    daemon.publish_numbers(name, range(3))
    assert numbers(data_of(sse(daemon, rooms.format(tag), last_id=cursor).take(3))) == [0, 1, 2]


def test_an_event_of_one_room_is_unnamed_and_its_id_is_its_seq(daemon, room, sse):
    stream = sse(daemon, room)
    stream.welcome()
    told = daemon.publish(room, {"kind": "k", "data": {"a": 1}, "key": "pump", "priority": "low"})
    event = stream.event()
    assert event.name == "message" and event.id == str(told["first_seq"]) == str(event.data["seq"])
    assert event.data == daemon.history(room)["events"][0], "the same JSON as in the history"
    assert event.data["type"] == "event" and event.data["key"] == "pump" and event.data["priority"] == "low"


def test_an_id_on_several_rooms_names_each_room_s_number(daemon, room, sse):
    a, b = f"{room}-a", f"{room}-b"
    at_a = daemon.publish_numbers(a, range(1))["last_seq"]
    stream = sse(daemon, f"{a},{b}")
    assert cursor_map(stream.welcome()["cursor"])[a] == at_a
    at_b = daemon.publish_numbers(b, range(2))["last_seq"]
    assert cursor_map(stream.take(2)[-1].id) == {a: at_a, b: at_b}
    assert cursor_map(daemon.publish_numbers(a, range(1)) and stream.event().id) == {a: at_a + 1, b: at_b}


def test_a_cursor_of_several_rooms_goes_on_in_each_of_them(daemon, room, sse):
    names = [f"{room}-{letter}" for letter in "abc"]
    stream = sse(daemon, ",".join(names))
    stream.welcome()
    for name in names:
        daemon.publish_numbers(name, range(3))
    messages = stream.take(5)
    seen, cursor = data_of(messages), messages[-1].last_id
    stream.stop()
    for name in names:
        daemon.publish_numbers(name, range(3, 6))
    seen += data_of(sse(daemon, ",".join(names), last_id=cursor).take(13))
    for name in names:
        assert numbers(event for event in seen if event["room"] == name) == list(range(6)), name


def test_a_pattern_brings_rooms_made_later_too(daemon, room, sse):
    daemon.publish_numbers(f"{room}:old", range(1))
    stream = sse(daemon, f"{room}:*")
    stream.welcome()
    daemon.publish_numbers(f"{room}:new", range(2))
    daemon.publish_numbers(f"{room}-not", range(1))
    daemon.publish_numbers(f"{room}:old", range(1, 2))
    assert [(event["room"], event["data"]["n"]) for event in data_of(stream.take(3))] == [
        (f"{room}:new", 0), (f"{room}:new", 1), (f"{room}:old", 1)]


def test_a_cursor_of_a_pattern_misses_no_room_made_in_the_meantime(daemon, room, sse):
    daemon.publish_numbers(f"{room}:a", range(2))
    stream = sse(daemon, f"{room}:*", tail=1)
    stream.event()
    stream.stop()
    daemon.publish_numbers(f"{room}:b", range(2))
    daemon.publish_numbers(f"{room}:a", range(2, 4))
    seen = data_of(sse(daemon, f"{room}:*", last_id=stream.last_id).take(4))
    assert numbers(event for event in seen if event["room"] == f"{room}:a") == [2, 3]
    assert numbers(event for event in seen if event["room"] == f"{room}:b") == [0, 1]


@pytest.mark.parametrize("way", ["header", "last_event_id", "after"])
def test_a_reader_that_comes_back_with_its_last_id_has_missed_nothing(daemon, room, sse, way):
    daemon.publish_numbers(room, range(20))
    stream = sse(daemon, room, after=0)
    stream.take(8)
    stream.stop()
    daemon.publish_numbers(room, range(20, 30))
    at = str(daemon.history(room, after=0)["events"][7]["seq"])
    back = sse(daemon, room, last_id=at) if way == "header" else sse(daemon, room, **{way: at})
    assert numbers(data_of(back.take(22))) == list(range(8, 30))


@pytest.mark.parametrize("query", ["last_event_id", "after", "tail"])
def test_the_header_wins_over_the_query(daemon, room, sse, query):
    first = daemon.publish_numbers(room, range(10))["first_seq"]
    stream = sse(daemon, room, last_id=first + 6, **{query: 9 if query == "tail" else first})
    assert numbers(data_of(stream.take(3))) == [7, 8, 9]


def test_tail_and_since_choose_the_beginning(daemon, room, sse):
    daemon.publish_numbers(room, range(10))
    assert numbers(data_of(sse(daemon, room, tail=3).take(3))) == [7, 8, 9]
    assert numbers(data_of(sse(daemon, room, since="-5m").take(10))) == list(range(10))


def test_a_reader_that_comes_and_goes_while_all_is_published_sees_each_event_once_in_order(start_daemon, room, sse):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=16)
    first = daemon.publish_numbers(room, [-1])["first_seq"]
    publisher = Publisher(daemon, room, pause=0.002)
    seen, cursor = [], first
    for _ in range(12):
        stream = sse(daemon, room, last_id=cursor)
        seen += data_of(stream.take(15))
        stream.stop()
        cursor = seen[-1]["seq"]
    last = max(publisher.stop().values())
    seen += data_of(sse(daemon, room, last_id=cursor).take(last - cursor))
    assert_no_hole(seqs(seen), first + 1, last)
    assert numbers(seen) == list(range(len(seen)))


def test_a_reader_comes_back_after_a_restart_and_has_missed_nothing(daemon, room, sse):
    first = daemon.publish_numbers(room, [-1])["first_seq"]
    publisher = Publisher(daemon, room)
    stream = sse(daemon, room, last_id=first)
    seen = stream.take(20)
    daemon.terminate()
    rest, _ = stream.ended()
    seen += [message for message in rest if message.name == "message"]
    daemon.start()
    publisher.wait_acked(20)
    acked = publisher.stop()
    seen = data_of(seen)
    seen += data_of(sse(daemon, room, last_id=seen[-1]["seq"]).take(max(acked.values()) - seen[-1]["seq"]))
    assert_no_hole(seqs(seen), first + 1, max(acked.values()))
    assert set(acked.items()) <= {(event["data"]["n"], event["seq"]) for event in seen}


def test_a_reader_comes_back_after_kill_9_and_has_missed_nothing_acknowledged(daemon, room, sse):
    first = daemon.publish_numbers(room, [-1])["first_seq"]
    publisher = Publisher(daemon, room)
    seen, cursor = [], first
    for _ in range(3):
        stream = sse(daemon, room, last_id=cursor)
        wanted = len(seen) + 20
        while len(seen) < wanted:
            message = stream.next()
            # What was delivered and lost in the crash was never acknowledged: a cursor on it is answered with a gap.
            assert message.name in ("message", "welcome", "gap"), message
            seen += [message] if message.name == "message" else []
        daemon.kill9()
        rest, _ = stream.ended()
        seen += [message for message in rest if message.name == "message"]
        cursor = seen[-1].data["seq"]
        daemon.start()
        publisher.wait_acked(5)
    acked = publisher.stop()
    stream = sse(daemon, room, last_id=cursor)
    while seen[-1].data["seq"] < max(acked.values()):
        message = stream.next()
        if message.name == "message":
            seen.append(message)
        else:
            assert message.name in ("welcome", "heartbeat", "gap"), message
    seen = data_of(seen)
    assert_increasing(seqs(seen))
    missed = {n: seq for n, seq in acked.items() if (n, seq) not in {(event["data"]["n"], event["seq"]) for event in seen}}
    assert not missed, f"acknowledged and never seen: {missed}"


def test_a_made_up_cursor_is_answered_with_a_gap_and_the_stream_goes_on(daemon, room, sse):
    first = daemon.publish_numbers(room, range(3))["first_seq"]
    stream = sse(daemon, room, last_id=12345)
    gap = stream.notice("gap").data
    assert (gap["type"], gap["room"], int(gap["after"]), gap["first_seq"]) == ("gap", room, 12345, first)
    assert numbers(data_of(stream.take(3))) == [0, 1, 2]


def test_a_cursor_ahead_of_the_head_is_answered_with_a_gap_and_the_stream_goes_on(daemon, room, sse):
    head = daemon.publish_numbers(room, range(3))["last_seq"]
    stream = sse(daemon, room, last_id=head + 1000)
    assert stream.notice("gap").data["room"] == room
    daemon.publish_numbers(room, range(3, 4))
    while (event := stream.event().data)["seq"] <= head:
        pass  # what is held may come again after a cursor that was never given out
    assert event["data"]["n"] == 3


def test_a_cursor_that_cannot_be_read_is_no_error_page_but_a_gap_or_a_clear_refusal(daemon, room, sse):
    daemon.publish_numbers(room, range(3))
    stream = sse(daemon, room, last_id="what=ever,%%")
    status, headers = stream.head()
    if status == 200:
        stream.notice("gap")
    else:
        assert status == 400 and headers["content-type"].split(";")[0] == "application/problem+json"


def test_what_retention_took_away_is_said_before_the_first_event(start_daemon, room, sse):
    daemon = start_daemon(ROOMS__DEFAULT__RETENTION_COUNT=50)
    first = daemon.publish_numbers(room, range(10))["first_seq"]
    for start in range(10, 510, 100):
        last = daemon.publish_numbers(room, range(start, start + 100))["last_seq"]
    eventually(lambda: daemon.room(room)["held"] <= 100, "retention took events away")
    stream = sse(daemon, room, last_id=first)
    gap = stream.notice("gap").data
    assert gap["room"] == room and int(gap["after"]) == first and gap["first_seq"] > first + 1
    seen = data_of(stream.take(last - gap["first_seq"] + 1))
    assert_no_hole(seqs(seen), gap["first_seq"], last)


def test_a_heartbeat_comes_in_its_interval_and_carries_the_cursor(start_daemon, room, sse):
    daemon = start_daemon(HEARTBEAT__INTERVAL="500ms")
    stream = sse(daemon, room)
    assert stream.welcome()["heartbeat_ms"] == 500
    seq = daemon.publish_numbers(room, range(1))["last_seq"]
    stream.event()
    for _ in range(3):
        heartbeat = stream.notice("heartbeat", timeout=3)
        assert heartbeat.id == str(heartbeat.data["cursor"]) == str(seq)
        assert heartbeat.data["type"] == "heartbeat" and heartbeat.data["timestamp"]


def test_comments_keep_a_quiet_stream_awake(start_daemon, room, sse):
    stream = sse(start_daemon(HEARTBEAT__COMMENT="300ms"), room)
    stream.welcome()
    stream.wait(lambda: stream.comments, "a comment", timeout=20)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_data_written_over_several_lines_arrives_whole(daemon, room, sse, newline):
    stream = sse(daemon, room)
    stream.welcome()
    data = {"text": "line one\nline two\r\n\ndata: no field\u2028", "list": [1, {"deep": None}]}
    pretty = json.dumps({"kind": "k", "data": data}, indent=2).replace("\n", newline)
    daemon.post_events(room, pretty)
    daemon.publish_numbers(room, [7])
    assert stream.event().data["data"] == data
    assert stream.event().data["data"]["n"] == 7


def test_an_event_reaches_a_reader_at_once(daemon, room, sse):
    stream = sse(daemon, room)
    stream.welcome()
    times = []
    for n in range(20):
        start = time.monotonic()
        daemon.publish_numbers(room, [n])
        stream.event()
        times.append(time.monotonic() - start)
    assert sorted(times)[10] < 0.1, f"publish to arrival: {times}"


@pytest.mark.parametrize("query", ["", "rooms=", "rooms=a%20b", "rooms=a*b", "rooms=x&after=0&tail=2", "rooms=x&tial=2", "rooms=x&tail=x",
                                   "rooms=x&since=noon", "rooms=" + "x" * 201])
def test_a_wrong_request_is_refused_before_a_stream_begins(daemon, query):
    answer = daemon.get(f"/v1/stream?{query}", headers={"Accept": "text/event-stream"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
