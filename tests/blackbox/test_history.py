"""What a reader of the history is promised: every event exactly once by paging, honest gaps, and the same after a restart.

Also the list of rooms and a room's detail.
"""

import time
from urllib.parse import quote

import pytest

from harness.api import instant, numbers, problem, rfc3339, seqs
from harness.process import eventually


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_paging_by_cursor_brings_every_event_exactly_once(daemon, room, limit):
    total = 40 if limit == 1 else 250
    told = daemon.publish_numbers(room, range(total))
    events = daemon.all_events(room, limit=limit)
    assert seqs(events) == list(range(told["first_seq"], told["last_seq"] + 1))
    assert numbers(events) == list(range(total))


def test_paging_reaches_back_to_the_disk(start_daemon, room):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=8)
    for start in range(0, 3000, 300):
        daemon.publish_numbers(room, range(start, start + 300))
    assert numbers(daemon.all_events(room, limit=77)) == list(range(3000))


def test_the_cursor_of_the_last_page_goes_on_with_what_comes_later(daemon, room):
    daemon.publish_numbers(room, range(3))
    page = daemon.history(room, after="0")
    assert page["more"] is False
    daemon.publish_numbers(room, range(3, 5))
    assert numbers(daemon.history(room, after=page["cursor"])["events"]) == [3, 4]


def test_without_parameters_the_newest_hundred_come(daemon, room):
    daemon.publish_numbers(room, range(250))
    page = daemon.history(room)
    assert numbers(page["events"]) == list(range(150, 250))
    assert page["more"] is False


def test_tail_brings_the_newest_oldest_first(daemon, room):
    daemon.publish_numbers(room, range(20))
    assert numbers(daemon.history(room, tail=5)["events"]) == [15, 16, 17, 18, 19]


def test_tail_of_more_than_there_is_brings_all_and_is_no_gap(daemon, room):
    daemon.publish_numbers(room, range(5))
    page = daemon.history(room, tail=500, limit=1000)
    assert numbers(page["events"]) == list(range(5)) and page["notices"] == []


def test_limit_cuts_a_page_and_more_says_so(daemon, room):
    daemon.publish_numbers(room, range(20))
    page = daemon.history(room, after="0", limit=5)
    assert numbers(page["events"]) == [0, 1, 2, 3, 4] and page["more"] is True
    page = daemon.history(room, after="0", limit=20)
    assert len(page["events"]) == 20 and page["more"] is False


def test_since_an_age_brings_what_arrived_since(daemon, room):
    daemon.publish_numbers(room, range(3))
    assert numbers(daemon.history(room, since="-5m")["events"]) == [0, 1, 2]


def test_since_counts_the_time_of_arrival_not_the_event_s_own(daemon, room):
    daemon.publish(room, {"kind": "n", "data": {"n": 0}})
    time.sleep(0.05)
    between = time.time()
    time.sleep(0.05)
    daemon.publish(room, {"kind": "n", "data": {"n": 1}, "timestamp": 0})
    assert numbers(daemon.history(room, since=rfc3339(between))["events"]) == [1]
    assert numbers(daemon.history(room, since=rfc3339(between - 10))["events"]) == [0, 1]


def test_since_later_than_everything_brings_nothing(daemon, room):
    daemon.publish_numbers(room, range(3))
    page = daemon.history(room, since=rfc3339(time.time() + 60))
    assert page["events"] == [] and page["more"] is False
    daemon.publish_numbers(room, range(3, 5))
    assert numbers(daemon.history(room, after=page["cursor"])["events"]) == [3, 4]


def test_since_works_across_a_restart(daemon, room):
    daemon.publish_numbers(room, range(2))
    daemon.restart()
    between = time.time()
    time.sleep(0.05)
    daemon.publish_numbers(room, range(2, 4))
    assert numbers(daemon.history(room, since=rfc3339(between))["events"]) == [2, 3]


@pytest.mark.parametrize("path", ["/v1/rooms/never:was", "/v1/rooms/never:was/events"])
def test_a_room_that_never_was_is_not_found(daemon, path):
    assert "never:was" in problem(daemon.get(path), 404)["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=-1", "limit=x", "tail=-1", "tail=x", "after=x", "after=-1", "since=noon",
                                   "since=-5", "after=0&tail=3", "tail=3&since=-5m", "after=0&since=-5m", "tial=3", "limit=1&limit=2"])
def test_a_wrong_parameter_is_refused(daemon, room, query):
    daemon.publish_numbers(room, range(3))
    problem(daemon.get(f"/v1/rooms/{room}/events?{query}"), 400)


def test_a_made_up_cursor_is_answered_with_a_gap_and_all_that_is_held(daemon, room):
    first = daemon.publish_numbers(room, range(5))["first_seq"]
    page = daemon.history(room, after=12345)
    [gap] = page["notices"]
    assert (gap["type"], gap["room"], int(gap["after"]), gap["first_seq"]) == ("gap", room, 12345, first)
    assert numbers(page["events"]) == list(range(5))


def test_a_cursor_ahead_of_the_head_is_answered_with_a_gap(daemon, room):
    head = daemon.publish_numbers(room, range(5))["last_seq"]
    page = daemon.history(room, after=head + 1000)
    [gap] = page["notices"]
    assert (gap["type"], gap["room"], int(gap["after"])) == ("gap", room, head + 1000)
    assert seqs(page["events"]) == [seq for seq in range(head - 4, head + 1) if seq >= gap["first_seq"]]


def test_zero_stands_before_everything_and_is_no_gap(daemon, room):
    daemon.publish_numbers(room, range(5))
    page = daemon.history(room, after=0)
    assert page["notices"] == [] and numbers(page["events"]) == list(range(5))


def test_what_retention_took_away_is_said_as_a_gap(start_daemon, room):
    daemon = start_daemon(ROOMS__DEFAULT__RETENTION_COUNT=100)
    first = daemon.publish_numbers(room, range(50))["first_seq"]
    for start in range(50, 1050, 100):
        daemon.publish_numbers(room, range(start, start + 100))

    def trimmed():
        detail = daemon.room(room)
        return 100 <= detail["held"] <= 200 and detail

    detail = eventually(trimmed, "the room holds 100 to 200 events")
    page = daemon.history(room, after=first, limit=1000)
    [gap] = page["notices"]
    assert (gap["type"], int(gap["after"]), gap["first_seq"]) == ("gap", first, detail["first_seq"])
    assert gap.get("lost", gap["first_seq"] - first - 1) == gap["first_seq"] - first - 1
    assert seqs(page["events"]) == list(range(gap["first_seq"], first + 1050))


def test_a_restart_keeps_the_history_and_numbering_goes_on(daemon, room):
    daemon.publish_numbers(room, range(100))
    before = daemon.all_events(room)
    daemon.restart()
    assert daemon.all_events(room) == before
    assert daemon.publish(room, {"kind": "n", "data": {"n": 100}})["first_seq"] == before[-1]["seq"] + 1


def test_kill_9_keeps_all_that_was_acknowledged_and_no_number_comes_back(daemon, room):
    daemon.publish_numbers(room, range(100))
    before = daemon.all_events(room)
    for ack in ("memory", "logged", "synced"):
        daemon.publish(room, {"kind": "n", "data": {"n": ack}}, ack=ack)
    head = daemon.room(room)["head"]
    daemon.kill9()
    daemon.start()
    after = daemon.all_events(room)
    assert after[:100] == before
    assert {"logged", "synced"} <= set(numbers(after[100:]))
    assert daemon.publish(room, {"kind": "n", "data": {"n": "new"}})["first_seq"] > head


def test_a_jump_of_numbers_after_a_crash_is_no_gap(daemon, room):
    daemon.publish_numbers(room, range(10), ack="synced")
    daemon.kill9()
    daemon.start()
    daemon.publish_numbers(room, range(10, 20))
    page = daemon.history(room, after=0)
    assert page["notices"] == [] and numbers(page["events"]) == list(range(20))
    page = daemon.history(room, after=page["events"][9]["seq"])
    assert page["notices"] == [] and numbers(page["events"]) == list(range(10, 20))


def test_the_room_list_counts_and_is_sorted_by_name(daemon):
    for name in ("well:2", "well:1", "rig:1"):
        daemon.publish_numbers(name, range(3))
    listed = daemon.get("/v1/rooms").json()
    assert listed["total"] == 3 and [room["room"] for room in listed["rooms"]] == ["rig:1", "well:1", "well:2"]


def test_the_room_list_takes_a_pattern_and_a_limit(daemon):
    for name in ("well:1", "well:2", "rig:1"):
        daemon.publish_numbers(name, range(3))
    listed = daemon.get("/v1/rooms", params={"pattern": "well:*"}).json()
    assert [room["room"] for room in listed["rooms"]] == ["well:1", "well:2"] and listed["total"] == 2
    assert [room["room"] for room in daemon.get("/v1/rooms", params={"pattern": "rig:1"}).json()["rooms"]] == ["rig:1"]
    listed = daemon.get("/v1/rooms", params={"limit": 1}).json()
    assert len(listed["rooms"]) == 1 and listed["total"] == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "pattern=a*b", "patern=a*"])
def test_a_wrong_parameter_of_the_room_list_is_refused(daemon, query):
    problem(daemon.get(f"/v1/rooms?{query}"), 400, 422)


def test_a_room_s_detail_says_what_it_holds(daemon):
    told = daemon.publish_numbers("well:W/1", range(5))
    detail = daemon.room("well:W/1")
    assert detail["room"] == "well:W/1" and detail["namespace"] == "well"
    assert (detail["first_seq"], detail["head"], detail["held"]) == (told["first_seq"], told["last_seq"], 5)
    assert detail["subscribers"] == 0 and detail["events_per_second"] >= 0
    assert abs(instant(detail["last_timestamp"]) - time.time()) < 10
    assert isinstance(detail["settings"], dict) and detail["state"] is None
    assert daemon.get("/v1/rooms/" + quote("well:W/1", safe=":/")).json()["head"] == told["last_seq"]


def test_a_room_s_detail_counts_its_readers(daemon, room, ws):
    daemon.publish_numbers(room, range(1))
    reader = ws(daemon, room)
    assert daemon.room(room)["subscribers"] == 1
    reader.close()
    eventually(lambda: daemon.room(room)["subscribers"] == 0, "a reader that left is not counted")
