"""RFC 6455 on /v1/stream, frame by frame: lengths, pings, reserved bits and opcodes, fragments.

The classes of cases are those of the Autobahn test suite. The endpoint is no echo server: its `ping` command stands for the
echo, and a message that is not JSON gets an error and the connection stays. Text is in test_websocket_utf8.py, closing in
test_websocket_closing.py, limits in test_websocket_limits.py, the handshake in test_websocket_handshake.py.
"""

import json
from unittest.mock import ANY

import pytest

from harness.frames import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frames, chopped, close_frame, echo_text, fragments, frame,
                            text)

SIZES = [0, 125, 126, 127, 128, 65535, 65536]
PROTOCOL_ERROR = 1002


@pytest.fixture
def client(victim):
    with Frames(victim) as connection:
        yield connection


def pieces(size):
    """How a frame of this size is chopped: byte by byte where that takes no time."""
    return 1 if size < 200 else 997


# 1: framing

@pytest.mark.parametrize("how", ["whole", "chopped"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_text_of_any_size_is_read(client, size, how):
    message = echo_text(size=size)
    client.send(text(message), size=pieces(size) if how == "chopped" else None)
    client.answered(json.loads(message)["data"])


@pytest.mark.parametrize("size", SIZES)
def test_text_that_is_no_json_is_an_error_and_the_connection_stays(client, size):
    client.send(text(b"*" * size))
    client.error("invalid_json")
    assert client.alive()


@pytest.mark.parametrize("how", ["whole", "chopped"])
@pytest.mark.parametrize("size", SIZES)
def test_binary_of_any_size_is_an_error_and_the_connection_stays(client, size, how):
    client.send(frame(BINARY, b"\xfe" * size), size=pieces(size + 1) if how == "chopped" else None)
    client.error("binary_unsupported")
    assert client.alive()


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"], ids=["zero", "ones", "last-byte"])
def test_any_mask_is_taken_off(client, mask):
    client.send(text(echo_text("masked"), mask=mask))
    client.answered("masked")


@pytest.mark.parametrize("width", [16, 64])
def test_a_length_in_more_bytes_than_it_needs_is_read_or_failed(client, width):
    # RFC 6455 forbids it to senders and does not say what a receiver does about it.
    client.send(text(echo_text("wide"), width=width))
    found = client.next()
    if found.opcode == CLOSE:
        assert found.payload[:2] == PROTOCOL_ERROR.to_bytes(2, "big")
    else:
        assert json.loads(found.payload)["data"] == "wide"


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE, CONTINUATION],
                         ids=["text", "binary", "ping", "pong", "close", "continuation"])
@pytest.mark.parametrize("payload", [b"", b"{}"], ids=["empty", "payload"])
def test_a_frame_without_a_mask_is_failed(client, opcode, payload):
    client.send(frame(opcode, payload if opcode != CLOSE or not payload else b"\x03\xe8", mask=None))
    client.fails(PROTOCOL_ERROR)


def test_what_comes_after_a_failed_frame_is_not_done(victim, room):
    with Frames(victim) as client:
        client.send(text("{}", mask=None) + text({"type": "publish", "room": room, "kind": "k", "data": 1}))
        assert client.fails(PROTOCOL_ERROR) == []
    assert victim.room(room) is None


def test_what_comes_with_the_handshake_in_one_packet_is_read(victim):
    with Frames(victim, early=text(echo_text("early")) + frame(PING, b"early")) as client:
        client.answered("early")
        assert client.pong() == b"early"


def test_many_messages_in_one_packet_are_answered_in_their_order(client):
    client.send(*(text(echo_text(n)) for n in range(500)))
    for n in range(500):
        client.answered(n)


def test_a_thousand_round_trips(client):
    for n in range(1000):
        client.send(text(echo_text(n)))
        client.answered(n)


def test_a_client_that_is_failed_while_it_goes_on_sending_is_not_cut_off_before_it_has_read_why(client):
    # A connection that is closed with something unread is reset, and a reset can take the close frame with it.
    client.send(text("{}", mask=None), *(text(echo_text(size=1000)) for _ in range(100)))
    assert client.closing() == (PROTOCOL_ERROR, ANY, [])
    client.send(close_frame(PROTOCOL_ERROR))
    client.ended()
    assert not client.reset


# 2: pings and pongs

@pytest.mark.parametrize("payload", [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125],
                         ids=["empty", "text", "binary", "125"])
@pytest.mark.parametrize("how", ["whole", "chopped"])
def test_a_ping_is_answered_with_its_payload(client, payload, how):
    client.send(frame(PING, payload), size=1 if how == "chopped" else None)
    assert client.pong() == payload
    assert client.alive()


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["ping", "pong"])
@pytest.mark.parametrize("size", [126, 65535, 65536])
def test_a_ping_or_pong_over_125_bytes_is_failed(client, opcode, size):
    client.send(frame(opcode, b"\xfe" * size))
    client.fails(PROTOCOL_ERROR)


@pytest.mark.parametrize("payload", [b"", b"unasked"], ids=["empty", "payload"])
def test_a_pong_that_nobody_asked_for_is_passed_over(client, payload):
    client.send(frame(PONG, payload))
    assert client.alive()


def test_a_pong_nobody_asked_for_is_not_mixed_up_with_a_ping(client):
    client.send(frame(PONG, b"unasked"), frame(PING, b"ping"))
    assert client.pong() == b"ping"
    assert client.alive()


@pytest.mark.parametrize("how", ["one-by-one", "in-one-packet", "byte-by-byte"])
def test_ten_pings_are_answered_in_their_order(client, how):
    pings = [frame(PING, b"payload-%d" % n) for n in range(10)]
    if how == "one-by-one":
        for ping in pings:
            client.send(ping)
    else:
        client.send(*pings, size=1 if how == "byte-by-byte" else None)
    assert [client.pong() for _ in range(10)] == [b"payload-%d" % n for n in range(10)]


# 3: reserved bits

@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode, payload", [(TEXT, b""), (TEXT, b"{}"), (BINARY, b"\xfe"), (PING, b"x"), (PONG, b"x"), (CLOSE, b"\x03\xe8")],
                         ids=["text-empty", "text", "binary", "ping", "pong", "close"])
def test_a_frame_with_a_reserved_bit_is_failed(client, rsv, opcode, payload):
    client.send(frame(opcode, payload, rsv=rsv))
    client.fails(PROTOCOL_ERROR)


@pytest.mark.parametrize("how", ["whole", "frame-by-frame", "byte-by-byte"])
def test_what_came_before_a_reserved_bit_is_answered_and_what_comes_after_is_not(client, how):
    frames = [text(echo_text("before")), text(echo_text("with"), rsv=4), frame(PING, b"after")]
    if how == "frame-by-frame":
        client.send(frames[0])
        client.answered("before")
        client.send(*frames[1:])
    else:
        client.send(*frames, size=1 if how == "byte-by-byte" else None)
        client.answered("before")
    assert client.fails(PROTOCOL_ERROR) == []


def test_a_reserved_bit_in_a_later_fragment_is_failed(client):
    client.send(frame(TEXT, b'{"type":', fin=False), frame(CONTINUATION, b'"ping"}', rsv=4))
    client.fails(PROTOCOL_ERROR)


# 4: reserved opcodes

@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
@pytest.mark.parametrize("payload", [b"", b"reserved opcode payload"], ids=["empty", "payload"])
def test_a_reserved_opcode_is_failed(client, opcode, payload):
    client.send(frame(opcode, payload))
    client.fails(PROTOCOL_ERROR)


@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
@pytest.mark.parametrize("how", ["whole", "chopped"])
def test_what_came_before_a_reserved_opcode_is_answered_and_what_comes_after_is_not(client, opcode, how):
    client.send(text(echo_text("before")), frame(opcode, b"x"), frame(PING, b"after"), size=1 if how == "chopped" else None)
    client.answered("before")
    assert client.fails(PROTOCOL_ERROR) == []


@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
def test_a_reserved_opcode_inside_a_fragmented_message_is_failed(client, opcode):
    client.send(frame(TEXT, b'{"type":', fin=False), frame(opcode, b""), frame(CONTINUATION, b'"ping"}'))
    assert client.fails(PROTOCOL_ERROR) == []


# 5: fragments

@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE], ids=["ping", "pong", "close"])
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8fragment"], ids=["empty", "payload"])
def test_a_control_frame_in_fragments_is_failed(client, opcode, payload):
    client.send(frame(opcode, payload, fin=False), frame(CONTINUATION, b"rest"))
    assert client.fails(PROTOCOL_ERROR) == []


@pytest.mark.parametrize("size", [None, 1], ids=["whole", "byte-by-byte"])
@pytest.mark.parametrize("parts", [2, 3, 10])
def test_a_message_in_fragments_is_read(client, parts, size):
    message = echo_text("in fragments")
    client.send(*fragments(TEXT, chopped(message, -(-len(message) // parts))), size=size)
    client.answered("in fragments")


def test_a_message_may_be_cut_anywhere(client):
    message = echo_text("cut anywhere")
    for at in range(len(message) + 1):
        client.send(*fragments(TEXT, [message[:at], message[at:]]))
        client.answered("cut anywhere")


def test_fragments_may_be_empty(client):
    client.send(*fragments(TEXT, [b"", b"", echo_text("between"), b"", b""]))
    client.answered("between")
    client.send(*fragments(TEXT, [b"", b"", b""]))
    client.error("invalid_json")


@pytest.mark.parametrize("size", [None, 1], ids=["whole", "byte-by-byte"])
def test_pings_between_fragments_are_answered_at_once(client, size):
    first, *rest = fragments(TEXT, chopped(echo_text("with pings"), 10))
    client.send(first, size=size)
    for n, part in enumerate(rest):
        client.send(frame(PING, b"%d" % n), size=size)
        assert client.pong() == b"%d" % n, "the pong does not wait for the end of the message"
        client.send(frame(PONG, b"unasked"), part, size=size)
    client.answered("with pings")


def test_pings_between_fragments_in_one_packet_are_answered_before_the_message(client):
    first, *rest = fragments(TEXT, chopped(echo_text("with pings"), 20))
    client.send(first, *(frame(PING, b"%d" % n) + part for n, part in enumerate(rest)))
    assert [client.pong() for _ in rest] == [b"%d" % n for n in range(len(rest))]
    client.answered("with pings")


@pytest.mark.parametrize("fin", [True, False], ids=["last", "more"])
@pytest.mark.parametrize("how", ["whole", "chopped"])
@pytest.mark.parametrize("payload", [b"", b"non-continuation payload"], ids=["empty", "payload"])
def test_a_continuation_of_nothing_is_failed(client, fin, how, payload):
    client.send(frame(CONTINUATION, payload, fin=fin), text(echo_text("after")), size=1 if how == "chopped" else None)
    assert client.fails(PROTOCOL_ERROR) == []


@pytest.mark.parametrize("fin", [True, False], ids=["last", "more"])
def test_a_continuation_after_a_whole_message_is_failed(client, fin):
    client.send(*fragments(TEXT, chopped(echo_text("whole"), 20)), frame(CONTINUATION, b"x", fin=fin), text(echo_text("after")))
    client.answered("whole")
    assert client.fails(PROTOCOL_ERROR) == []


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("fin", [True, False], ids=["last", "more"])
def test_a_new_message_inside_a_fragmented_one_is_failed(client, opcode, fin):
    client.send(frame(TEXT, b'{"type":', fin=False), frame(opcode, echo_text("new"), fin=fin))
    assert client.fails(PROTOCOL_ERROR) == []


def test_binary_in_fragments_is_an_error_and_the_connection_stays(client):
    client.send(*fragments(BINARY, [b"\xfe", b"\xff", b""]))
    client.error("binary_unsupported")
    assert client.alive()


def test_a_message_begun_and_never_ended_holds_up_nobody(victim, room):
    with Frames(victim, f"?rooms={room}") as client:
        client.send(frame(TEXT, b'{"type":', fin=False))
        client.send(frame(PING, b"sync"))
        assert client.pong() == b"sync"
        victim.publish_numbers(room, range(3))
        assert [client.message()["data"]["n"] for _ in range(3)] == [0, 1, 2]


def test_a_close_inside_a_fragmented_message_is_answered(client):
    client.send(frame(TEXT, b'{"type":', fin=False), close_frame(1000))
    assert client.closing() == (1000, "", [])
    client.ended()


# 10: a message in very many fragments

@pytest.mark.parametrize("size", [1300, 100, 7])
def test_a_message_in_many_small_fragments_is_read(client, size):
    message = echo_text(size=65536)
    client.send(*fragments(TEXT, chopped(message, size)))
    client.answered(json.loads(message)["data"])


def test_a_message_of_which_each_byte_is_a_fragment_is_read(client):
    message = echo_text(size=20_000)
    client.send(*fragments(TEXT, chopped(message, 1)))
    client.answered(json.loads(message)["data"])


def test_a_message_with_a_hundred_thousand_empty_fragments_is_read(client):
    client.send(frame(TEXT, echo_text("empty"), fin=False), frame(CONTINUATION, b"", fin=False) * 100_000, frame(CONTINUATION, b""))
    client.answered("empty")
