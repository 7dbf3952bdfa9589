"""RFC 6455 on /v1/stream: how a connection is closed, by a client in every way, and by the daemon.

A close is answered by a close, then the daemon closes the TCP connection; nothing else is sent or done after a close. Codes
that may stand in a close frame are those of RFC 6455, section 7.4, and of the IANA registry that goes with it.
"""

import time

import pytest

from harness.frames import CLOSE, CONTINUATION, PING, PONG, TEXT, Frames, close_frame, echo_text, frame, text

SETTINGS = {"LIMITS__WRITE_TIMEOUT": "2s"}
NORMAL, PROTOCOL_ERROR, NOT_UTF8 = 1000, 1002, 1007
# 1012 and 1013 are in the registry: service restart, try again later. 1014 (bad gateway) is too, but no client of ours has one behind it.
MAY_BE_SENT = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]
# 1004 is reserved; 1005, 1006 and 1015 stand for what was not sent; the others are not given to anybody.
MUST_NOT_BE_SENT = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999]
UNDEFINED = [5000, 65535]


@pytest.fixture
def client(victim):
    with Frames(victim) as connection:
        yield connection


def test_a_close_without_a_code_is_answered(client):
    client.send(close_frame())
    code, _, before = client.closing()
    assert code in (None, NORMAL) and before == []
    client.ended()


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_a_close_with_a_code_is_answered_with_it(client, code):
    client.send(close_frame(code))
    assert client.closing()[0] in (code, NORMAL)
    client.ended()


@pytest.mark.parametrize("code", MUST_NOT_BE_SENT)
def test_a_close_with_a_code_that_none_may_send_is_a_protocol_error(client, code):
    client.send(close_frame(code))
    assert client.closing()[0] == PROTOCOL_ERROR
    client.ended()


@pytest.mark.parametrize("code", UNDEFINED)
def test_a_close_with_a_code_beyond_all_is_answered_somehow(client, code):
    client.send(close_frame(code))
    assert client.closing()[0] in (code, NORMAL, PROTOCOL_ERROR)
    client.ended()


@pytest.mark.parametrize("reason", [b"", b"done", "es ist genug \U0001f980".encode(), b"x" * 123, "ä".encode() * 61],
                         ids=["empty", "text", "utf8", "123", "122-utf8"])
def test_a_close_with_a_reason_is_answered(client, reason):
    client.send(close_frame(NORMAL, reason))
    assert client.closing()[0] == NORMAL
    client.ended()


@pytest.mark.parametrize("size", [None, 1, 3], ids=["whole", "1", "3"])
def test_a_close_in_packets_is_answered(client, size):
    client.send(close_frame(NORMAL, b"in packets"), size=size)
    assert client.closing()[0] == NORMAL
    client.ended()


@pytest.mark.parametrize("size", [124, 200, 65536])
def test_a_close_with_a_reason_that_is_too_long_is_failed(client, size):
    client.send(close_frame(NORMAL, b"x" * size))
    assert client.closing()[0] == PROTOCOL_ERROR


def test_a_close_with_half_a_code_is_failed(client):
    client.send(frame(CLOSE, b"\x03"))
    assert client.closing()[0] == PROTOCOL_ERROR


@pytest.mark.parametrize("reason", [b"\xff", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\xc3"],
                         ids=["ff", "surrogate", "beyond", "truncated"])
def test_a_close_whose_reason_is_not_utf8_is_failed(client, reason):
    client.send(close_frame(NORMAL, reason))
    assert client.closing()[0] in (NOT_UTF8, PROTOCOL_ERROR)


def test_a_code_and_a_reason_that_are_both_wrong_are_failed(client):
    client.send(close_frame(1005, b"\xff\xff"))
    assert client.closing()[0] in (NOT_UTF8, PROTOCOL_ERROR)


@pytest.mark.parametrize("after", [frame(PING, b"after"), text(echo_text("after")), close_frame(NORMAL), close_frame(1005), text(b"\xff"),
                                   frame(PONG, b""), frame(TEXT, b"begun", fin=False), frame(3), b"\xff" * 200],
                         ids=["ping", "text", "close", "wrong-close", "wrong-text", "pong", "fragment", "opcode", "garbage"])
@pytest.mark.parametrize("how", ["one-packet", "two-packets"])
def test_what_comes_after_a_close_is_not_answered(client, after, how):
    if how == "one-packet":
        client.send(close_frame(NORMAL), after)
    else:
        client.send(close_frame(NORMAL))
        client.send(after)
    assert client.closing() == (NORMAL, "", [])
    client.ended()


@pytest.mark.parametrize("how", ["one-packet", "two-packets"])
def test_a_publish_after_a_close_is_not_done(victim, room, how):
    late = text({"type": "publish", "room": room, "kind": "k", "data": 1, "ack": "memory"})
    with Frames(victim) as client:
        client.send(close_frame(NORMAL), late if how == "one-packet" else b"")
        if how == "two-packets":
            client.send(late)
        assert client.closing() == (NORMAL, "", [])
        client.ended()
    assert victim.room(room) is None


def test_a_publish_before_a_close_in_the_same_packet_is_done(victim, room):
    with Frames(victim) as client:
        client.send(text({"type": "publish", "room": room, "kind": "k", "data": 1, "ack": "memory"}), close_frame(NORMAL))
        assert client.closing()[0] == NORMAL
        client.ended()
    assert len(victim.history(room)["events"]) == 1


def test_what_was_asked_before_a_close_is_answered_before_it(client):
    client.send(*(text(echo_text(n)) for n in range(50)), close_frame(NORMAL))
    code, _, before = client.closing()
    assert code == NORMAL and [message["data"] for message in before] == list(range(50))


def test_a_large_message_and_a_close_in_one_packet_are_both_answered(client):
    client.send(text(echo_text(size=100_000)), close_frame(NORMAL), frame(PING, b"after"))
    code, _, before = client.closing()
    assert code == NORMAL and [message["type"] for message in before] == ["pong"]
    client.ended()


def test_a_reader_that_closes_gets_no_event_after_the_close(victim, room):
    with Frames(victim, f"?rooms={room}") as client:
        client.send(close_frame(NORMAL))
        victim.publish_numbers(room, range(3))
        code, _, _ = client.closing()
        assert code == NORMAL
        client.ended()


def test_a_connection_that_breaks_off_inside_a_frame_leaves_nothing_behind(victim, room):
    for piece in (text(echo_text(size=1000))[:500], b"\x81", frame(CONTINUATION)[:1], close_frame(NORMAL, b"x" * 50)[:7],
                  frame(TEXT, b"x", fin=False)):
        client = Frames(victim, f"?rooms={room}")
        client.send(piece)
        client.close()
    victim.publish_numbers(room, range(3))
    with Frames(victim, f"?rooms={room}&tail=3") as after:
        assert [after.message()["data"]["n"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("leaves", ["no-answer", "wrong-answer", "goes-on"])
def test_a_client_that_does_not_answer_a_close_as_it_should_is_not_waited_for(client, leaves):
    client.send(text("{}", rsv=1))
    assert client.closing()[0] == PROTOCOL_ERROR
    if leaves == "wrong-answer":
        client.send(close_frame(1005, b"\xff"))
    start = time.monotonic()
    while leaves == "goes-on" and client.send(frame(PING, b"still here")):
        assert time.monotonic() - start < 8, "it is listened to for ever"
        time.sleep(0.05)  # a client that floods would be stopped by its own full socket
    client.ended(timeout=8)


def test_a_client_that_never_reads_its_close_is_not_waited_for(victim):
    # Its TCP connection takes nothing any more, so that not even the close gets through.
    with Frames(victim, receive_buffer=4096) as client:
        deadline = time.monotonic() + 30
        client.socket.settimeout(0.5)
        try:
            while True:
                client.socket.sendall(text(echo_text(size=60_000)))
        except TimeoutError:
            pass  # both directions are full
        except OSError:
            return
        client.socket.settimeout(1)
        while time.monotonic() < deadline:
            try:
                client.socket.sendall(b"\xff" * 1000)
            except TimeoutError:
                continue
            except OSError:
                return
        raise AssertionError("a client that takes nothing is still connected after 30 s")
