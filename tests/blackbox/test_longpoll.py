"""What a client that can only poll is promised: an answer at once when there is something, else after its wait, and a chain of
cursors that loses nothing.
"""

import threading
import time

import pytest

from harness import pipelines
from harness.api import cursor_map, numbers, problem, seqs
from harness.load import Publisher, assert_no_hole
from harness.process import eventually


def test_what_is_there_comes_at_once(daemon, room):
    daemon.publish_numbers(room, range(5))
    start = time.monotonic()
    page = daemon.poll(room, after=0, wait="20s")
    assert time.monotonic() - start < 5
    assert numbers(page["events"]) == list(range(5)) and page["notices"] == []


def test_an_event_is_the_same_json_as_in_the_history(daemon, room):
    daemon.publish(room, {"kind": "k", "data": {"a": 1}, "key": "x", "priority": "low"})
    assert daemon.poll(room, after=0)["events"] == daemon.history(room)["events"]


def test_a_poll_waits_and_answers_as_soon_as_something_comes(daemon, room):
    cursor = daemon.poll(room, wait="0s")["cursor"]
    pages = []
    start = time.monotonic()
    waiting = threading.Thread(target=lambda: pages.append(daemon.poll(room, after=cursor, wait="20s")), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), f"answered before there was anything: {pages}"
    with daemon.session.__class__() as session:
        daemon.publish(room, {"kind": "n", "data": {"n": 0}}, session=session)
    waiting.join(10)
    assert pages and numbers(pages[0]["events"]) == [0]
    assert time.monotonic() - start < 10


def test_a_poll_without_anything_answers_empty_after_its_wait(daemon, room):
    start = time.monotonic()
    page = daemon.poll(room, wait="400ms")
    assert 0.3 <= time.monotonic() - start < 5
    assert page["events"] == [] and page["notices"] == [] and "cursor" in page


def test_the_cursor_of_an_empty_answer_goes_on_where_the_poll_stood(daemon, room):
    daemon.publish_numbers(room, range(3))
    cursor = daemon.poll(room, wait="0s")["cursor"]
    daemon.publish_numbers(room, range(3, 5))
    assert numbers(daemon.poll(room, after=cursor)["events"]) == [3, 4]


@pytest.mark.parametrize("rooms", ["never:{0}", "never:{0},x:{0}", "never:{0}*"], ids=["one", "two", "pattern"])
def test_the_cursor_of_a_room_that_never_was_misses_none_of_its_first_events(daemon, room, rooms):
    rooms = rooms.format(tag := room.split(":")[1])
    cursor = daemon.poll(rooms, wait="0s")["cursor"]
    daemon.publish_numbers(f"never:{tag}", range(2))
    assert numbers(daemon.poll(rooms, after=cursor)["events"]) == [0, 1]


@pytest.mark.parametrize("tail_events", [None, 8], ids=["from-memory", "from-disk"])
def test_a_chain_of_cursors_loses_nothing_while_events_are_published(start_daemon, room, tail_events):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=tail_events)
    first = daemon.publish_numbers(room, range(300))["first_seq"]
    publishers = [Publisher(daemon, room, name=f"p{i}", total=150, seed=i) for i in range(2)]
    last, cursor, seen = first + 300 + 2 * 150 - 1, "0", []
    while not seen or seen[-1] < last:
        page = daemon.poll(room, after=cursor, wait="5s")
        assert page["notices"] == [], page["notices"]
        seen += seqs(page["events"])
        cursor = page["cursor"]
    for publisher in publishers:
        publisher.join()
    assert_no_hole(seen, first, last)


def test_a_chain_over_several_rooms_loses_nothing(daemon, room):
    names = [f"{room}:{letter}" for letter in "abc"]
    publishers = [Publisher(daemon, name, name=name, total=100, pause=0.002) for name in names]
    seen, cursor = {name: [] for name in names}, "0"
    while sum(map(len, seen.values())) < 300:
        page = daemon.poll(f"{room}:*", after=cursor, wait="5s")
        for event in page["events"]:
            seen[event["room"]].append(event["seq"])
        cursor = page["cursor"]
    for publisher in publishers:
        acked = publisher.join()
        assert seen[publisher.room] == sorted(acked.values())
    assert cursor_map(cursor) == {name: found[-1] for name, found in seen.items()}


def test_the_cursor_lives_through_a_restart(daemon, room):
    daemon.publish_numbers(room, range(3))
    cursor = daemon.poll(room, after=0)["cursor"]
    daemon.restart()
    daemon.publish_numbers(room, range(3, 5))
    assert numbers(daemon.poll(room, after=cursor)["events"]) == [3, 4]


def test_tail_and_since_choose_the_beginning(daemon, room):
    daemon.publish_numbers(room, range(10))
    assert numbers(daemon.poll(room, tail=3)["events"]) == [7, 8, 9]
    assert numbers(daemon.poll(room, since="-5m")["events"]) == list(range(10))


def test_a_gap_is_told_at_once_among_the_notices(daemon, room):
    first = daemon.publish_numbers(room, range(3))["first_seq"]
    page = daemon.poll(room, after=12345, wait="10s")
    [gap] = page["notices"]
    assert (gap["type"], gap["room"], gap["first_seq"]) == ("gap", room, first)


def test_a_room_s_state_is_told_at_once_among_the_notices(start_daemon):
    daemon = start_daemon(started=False)
    pipelines.write(daemon, table='[pipeline]\nfrom = "raw"\nstart = "beginning"\n[[output]]\nroom = "table"\nkey = "{key}"\nstate = true\n')
    daemon.start().publish("raw", {"kind": "k", "key": "a", "data": 1})
    eventually(lambda: pipelines.state(daemon, "table"), "the state is there")
    start = time.monotonic()
    page = daemon.poll("table", wait="15s")
    assert time.monotonic() - start < 7
    [snapshot] = page["notices"]
    assert (snapshot["type"], snapshot["data"], page["cursor"]) == ("snapshot", {"a": 1}, snapshot["cursor"])


def test_a_plain_client_without_accept_polls(daemon, room):
    daemon.publish_numbers(room, range(1))
    answer = daemon.get(f"/v1/stream?rooms={room}&after=0", headers={"Accept": "*/*"})
    assert answer.status_code == 200 and answer.headers["content-type"].split(";")[0] == "application/json"
    assert answer.headers["cache-control"].startswith("no-")


@pytest.mark.parametrize("query", ["wait=61s", "wait=soon", "wait=-1s", "wiat=1s"])
def test_a_wrong_wait_is_refused(daemon, query):
    problem(daemon.get(f"/v1/stream?rooms=x&{query}"), 400)


def test_a_poll_in_hand_is_answered_when_the_daemon_stops(daemon, room):
    statuses = []
    waiting = threading.Thread(target=lambda: statuses.append(daemon.get(f"/v1/stream?rooms={room}&wait=30s", timeout=40).status_code), daemon=True)
    waiting.start()
    waiting.join(0.5)  # gives the request the time to arrive; nothing announces it
    assert waiting.is_alive()
    daemon.terminate()
    waiting.join(10)
    assert statuses and statuses[0] in (200, 503), f"the poll was cut off: {statuses}"


def test_too_many_matching_rooms_are_said_and_the_others_are_served(start_daemon, room):
    daemon = start_daemon(LIMITS__ROOMS_PER_CONNECTION=2)
    for letter in "abc":
        daemon.publish_numbers(f"{room}:{letter}", range(2))
    page = daemon.poll(f"{room}:*", after=0)
    assert len(page["events"]) == 4 and [notice["code"] for notice in page["notices"]] == ["too_many_rooms"]
