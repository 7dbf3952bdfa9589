"""Rooms that come, go, and come back: what is idle gives its memory back and loses nothing, neither events nor numbers."""

import json
import socket

from harness.api import numbers, problem
from harness.process import eventually


def in_memory(daemon):
    """How many rooms are; those that the daemon itself follows always are."""
    return daemon.get("/api/health").json()["rooms"]


def test_an_idle_room_leaves_the_memory_and_keeps_its_events_and_numbering(start_daemon, room):
    daemon = start_daemon(ROOMS__DEFAULT__IDLE_AFTER="1s")
    own = in_memory(daemon)
    last = daemon.publish_numbers(room, range(5))["last_seq"]
    assert in_memory(daemon) == own + 1
    eventually(lambda: in_memory(daemon) == own, "the room has left the memory", timeout=15)
    assert [found["room"] for found in daemon.get("/v1/rooms").json()["rooms"]].count(room) == 1, "it is still listed"
    assert daemon.publish_numbers(room, range(5, 7))["first_seq"] == last + 1
    assert numbers(daemon.all_events(room)) == list(range(7))


def test_a_room_that_is_followed_does_not_leave(start_daemon, room, ws):
    daemon = start_daemon(ROOMS__DEFAULT__IDLE_AFTER="1s")
    own, other = in_memory(daemon), f"{room}-other"
    daemon.publish_numbers(other, range(1))
    client = ws(daemon, room)
    eventually(lambda: in_memory(daemon) == own + 1, "the room that nobody follows has left", timeout=15)
    daemon.publish_numbers(room, range(3))
    assert numbers(client.take(3)) == [0, 1, 2]


def test_a_reader_by_pattern_gets_what_comes_after_a_room_left_and_came_back(start_daemon, room, ws):
    daemon = start_daemon(ROOMS__DEFAULT__IDLE_AFTER="1s")
    own = in_memory(daemon)
    daemon.publish_numbers(f"{room}:a", range(3))
    eventually(lambda: in_memory(daemon) == own, "the room has left the memory", timeout=15)
    client = ws(daemon, f"{room}:*")
    daemon.publish_numbers(f"{room}:a", range(3, 6))
    assert numbers(client.take(3)) == [3, 4, 5]


def test_too_many_bodies_at_once_are_told_to_come_back(start_daemon, room):
    daemon = start_daemon(LIMITS__BODY_BYTES="1KiB", LIMITS__BODIES_BYTES="1KiB")
    host, port = daemon.address.rsplit(":", 1)

    def publish():
        return daemon.post_events(room, json.dumps({"kind": "k", "data": 1}))

    def refused():
        with socket.create_connection((host, int(port))) as slow:
            # A body that has begun and does not end holds its place, unless one of ours was there first; then it is tried again.
            slow.sendall((f"POST /v1/rooms/{room}/events HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {daemon.key}\r\n"
                          "Content-Length: 1000\r\n\r\n" + "{" * 500).encode())
            answers = [publish() for _ in range(20)]
            return [answer for answer in answers if answer.status_code == 429]

    answer = eventually(refused, "a publish is told to come back", timeout=20)[0]
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    eventually(lambda: publish().status_code == 202, "it is taken again", timeout=10)
