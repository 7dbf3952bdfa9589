"""What a WebSocket client cannot make the daemon do: wait for ever for the end of what was begun, or hold without bound what
a client asks for and does not read. Such a client is cut off (heartbeat.timeout, limits.write_timeout).

That the daemon's memory stays bounded is checked after every test.
"""

import time
from contextlib import ExitStack

import pytest

from harness.frames import CONTINUATION, PING, TEXT, Frames, close_frame, echo_text, frame, text
from harness.process import eventually

SETTINGS = {"LIMITS__WRITE_TIMEOUT": "1s", "HEARTBEAT__INTERVAL": "300ms", "HEARTBEAT__TIMEOUT": "600ms"}
POLICY = 1008
MAX = 100 << 10  # limits.max_message_bytes as it is by default


@pytest.fixture
def client(victim):
    with Frames(victim) as connection:
        yield connection


def test_many_frames_that_promise_much_and_bring_nothing_cost_no_memory(victim):
    with ExitStack() as stack:
        clients = [stack.enter_context(Frames(victim)) for _ in range(200)]
        for one in clients:
            one.send(frame(TEXT, b"{", length=MAX * 4))
        for one in clients[::20]:
            assert one.closing()[0] == POLICY, "and they are not waited for: see heartbeat.timeout"


@pytest.mark.parametrize("endless", [frame(TEXT, b"x", fin=False), text(b"x" * 1000)[:500], b"\x81", b""],
                         ids=["message", "frame", "head", "nothing"])
def test_what_is_begun_and_never_ended_is_cut_off(client, endless):
    client.send(endless)
    assert client.closing()[0] == POLICY


@pytest.mark.parametrize("drip", [frame(CONTINUATION, b"", fin=False), b"x"], ids=["empty-fragments", "bytes-of-a-frame"])
def test_what_is_begun_and_goes_on_for_ever_is_cut_off(client, drip):
    # Each piece is something new, but it never becomes a message, and the client answers no ping.
    client.send(frame(TEXT, b"x", fin=False), b"" if len(drip) > 1 else frame(CONTINUATION, b"", length=90_000))
    deadline = time.monotonic() + 10
    while client.send(drip):
        assert time.monotonic() < deadline, "it is listened to for ever"
        time.sleep(0.05)  # drop by drop is the point
    assert client.closing()[0] == POLICY


def flooded(client, piece, seconds=20):
    """Sends the same again and again and reads nothing; returns when the daemon has hung up."""
    deadline = time.monotonic() + seconds
    client.socket.settimeout(0.5)
    sent = 0
    while time.monotonic() < deadline:
        try:
            client.socket.sendall(piece)
            sent += len(piece)
        except TimeoutError:
            continue  # the daemon takes nothing more: it waits for us to read
        except OSError:
            return
    raise AssertionError(f"a client that reads nothing was served for {seconds} s, {sent >> 20} MB")


@pytest.mark.parametrize("piece", [frame(PING, b"\xfe" * 125) * 500, text(echo_text(size=60_000)), text(b"[") * 500,
                                   text({"type": "get_stats"}) * 500, text({"type": "subscribe", "rooms": ["a b"]}) * 500],
                         ids=["pings", "large-commands", "broken-commands", "stats", "wrong-commands"])
def test_a_client_that_asks_much_and_reads_nothing_is_cut_off(victim, piece):
    with Frames(victim, receive_buffer=4096) as client:
        flooded(client, piece)


def test_a_client_that_publishes_much_and_reads_no_answer_is_cut_off_and_what_was_taken_is_kept(victim, room):
    publish = text({"type": "publish", "room": room, "kind": "k", "data": 1, "ack": "memory", "id": "x" * 150})
    with Frames(victim, receive_buffer=4096) as client:
        flooded(client, publish * 300)
    head = victim.room(room)
    assert head["held"] > 0 and head["head"] == head["first_seq"] + head["held"] - 1


def test_pings_without_end_do_not_keep_events_away(victim, room):
    with Frames(victim, f"?rooms={room}") as client:
        client.send(frame(PING, b"x") * 20_000)
        victim.publish_numbers(room, range(10))
        client.send(frame(PING, b"x") * 20_000)
        assert [client.message()["data"]["n"] for _ in range(10)] == list(range(10))


def test_a_hundred_connections_that_misbehave_at_once_leave_no_stream_behind(victim):
    attacks = [text("{}", rsv=7), text(b"\xff"), frame(TEXT, b"", length=1 << 62), frame(CONTINUATION), close_frame(1005), text("{}", mask=None)]
    with ExitStack() as stack:
        clients = [stack.enter_context(Frames(victim, "?rooms=host:*")) for _ in range(100)]
        for n, one in enumerate(clients):
            one.send(attacks[n % len(attacks)])
        for one in clients:
            one.closing()
    eventually(lambda: victim.get("/api/health").json()["connections"] == 0, "all of them are gone from the count of connections")
