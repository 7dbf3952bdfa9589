"""Messages and frames over limits.max_message_bytes, and lengths that lie: an error, then close 1009.

That the daemon's memory stays bounded is checked after every test. What never ends is in test_websocket_endless.py.
"""

import pytest

from harness.frames import BINARY, CONTINUATION, PING, TEXT, Frames, chopped, close_frame, echo_text, fragments, frame, text

PROTOCOL_ERROR, TOO_BIG = 1002, 1009
MAX = 100 << 10  # limits.max_message_bytes as it is by default


@pytest.fixture
def client(victim):
    with Frames(victim) as connection:
        yield connection


def told_too_big(client):
    """The connection ends with an error that says why, and close 1009."""
    before = client.fails(TOO_BIG)
    assert [message["type"] for message in before] == ["error"] and "max_message_bytes" in before[0]["message"], before


@pytest.mark.parametrize("size", [MAX - 1, MAX])
@pytest.mark.parametrize("cut", [None, 1000, 30_000], ids=["whole", "1000", "30000"])
def test_a_message_just_under_the_limit_is_taken(client, size, cut):
    message = echo_text(size=size)
    client.send(*fragments(TEXT, chopped(message, cut) if cut else [message]))
    assert client.message()["type"] == "pong"
    assert client.alive()


@pytest.mark.parametrize("size", [MAX + 1, MAX + 2, 2 * MAX])
@pytest.mark.parametrize("cut", [None, 1000, 30_000], ids=["whole", "1000", "30000"])
def test_a_message_just_over_the_limit_is_an_error_and_close_1009(client, size, cut):
    message = echo_text(size=size)
    client.send(*fragments(TEXT, chopped(message, cut) if cut else [message]))
    told_too_big(client)


def test_a_binary_message_over_the_limit_is_an_error_and_close_1009(client):
    client.send(frame(BINARY, b"\xfe" * (MAX + 1)))
    told_too_big(client)


@pytest.mark.parametrize("cut", [1000, 60_000, None], ids=["1000", "60000", "whole"])
def test_a_message_far_over_the_limit_is_cut_off_and_told(client, cut):
    message = echo_text(size=20 << 20)
    client.send(*fragments(TEXT, chopped(message, cut) if cut else [message]))
    told_too_big(client)


def test_a_client_far_over_the_limit_is_not_cut_off_before_it_has_read_why(client):
    # A connection that is closed with something unread is reset, and a reset can take the close frame with it.
    client.send(text(echo_text(size=1 << 20)))
    told_too_big(client)
    assert not client.reset


@pytest.mark.parametrize("length", [1 << 20, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_a_frame_that_promises_too_much_is_refused_at_its_head(client, length, opcode):
    client.send(frame(opcode, b"no more than this", length=length))
    told_too_big(client)


@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CONTINUATION], ids=["text", "binary", "ping", "continuation"])
def test_a_length_with_its_highest_bit_set_is_failed(client, length, opcode):
    client.send(frame(opcode, b"no more than this", length=length))
    client.fails(PROTOCOL_ERROR, TOO_BIG)


@pytest.mark.parametrize("length", [1 << 20, 1 << 40])
def test_a_continuation_that_promises_too_much_is_refused_at_its_head(client, length):
    client.send(frame(TEXT, b'{"type":', fin=False), frame(CONTINUATION, b"x", length=length))
    client.fails(TOO_BIG)


@pytest.mark.parametrize("said, sent", [(5, 500), (0, 10), (500, 5)], ids=["less", "nothing", "more"])
def test_a_length_that_lies_ends_one_connection_only(victim, said, sent):
    with Frames(victim) as bystander, Frames(victim) as liar:
        liar.send(frame(TEXT, b"\xff" * sent, length=said))
        liar.send(close_frame(1000))
        assert bystander.alive()


def test_a_message_as_large_as_the_setting_allows_is_answered(start_daemon):
    daemon = start_daemon(LIMITS__MAX_MESSAGE_BYTES="8MiB")
    with Frames(daemon) as client:
        for size in (1 << 20, 4 << 20, 8 << 20):
            client.send(text(echo_text(size=size)))
            assert client.message()["type"] == "pong", size


def test_a_small_limit_holds_too(start_daemon):
    daemon = start_daemon(LIMITS__MAX_MESSAGE_BYTES="100B")
    with Frames(daemon) as client:
        client.send(text(echo_text(size=100)))
        assert client.message()["type"] == "pong"
        client.send(text(echo_text(size=101)))
        told_too_big(client)
