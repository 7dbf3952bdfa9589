"""RFC 6455 on /v1/stream: the opening handshake. A good one is answered as RFC 6455 has it, one that is not is answered by an
HTTP error that says why, and never by an upgrade.
"""

import base64

import pytest

from harness.api import PROBLEM
from harness.frames import PING, Frames, close_frame, echo_text, frame, text, upgrade_head
from harness.process import eventually
from harness.raw import Raw, exchange, request

SETTINGS = {"LIMITS__HEADER_TIMEOUT": "1s"}


def refused(daemon, head, *expected):
    """The handshake is answered by one error of these statuses, as problem+json unless HTTP itself was broken. Returns the answer."""
    with Raw(daemon) as connection:
        connection.send(head)
        answer = connection.answer()
    assert answer and answer.status in expected, answer
    if answer.header("content-length") != "0":
        assert answer.header("content-type") == PROBLEM, answer.headers
    return answer


def test_a_good_handshake_is_answered_as_it_should_be(victim):
    with Frames(victim) as client:  # which checks the proof of the key
        assert client.headers["upgrade"].lower() == "websocket" and client.headers["connection"].lower() == "upgrade"
        assert "content-length" not in client.headers and "transfer-encoding" not in client.headers
        assert "sec-websocket-protocol" not in client.headers
        assert client.alive()


@pytest.mark.parametrize("headers", [
    {"upgrade": "WebSocket"}, {"connection": "upgrade"}, {"connection": "keep-alive, Upgrade"}, {"connection": "Upgrade,keep-alive"},
    {"connection": ["keep-alive", "Upgrade"]}, {"upgrade": ["h2c", "websocket"]}, {"upgrade": "h2c, websocket"}, {"User_Agent": "x" * 4000},
    {"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"Origin": "http://localhost:3000"},
], ids=["mixed-case", "lower-case", "keep-alive-first", "keep-alive-last", "two-connection-lines", "two-upgrade-lines", "two-upgrades",
        "long-agent", "zero-key", "origin"])
def test_a_handshake_may_be_written_in_other_ways(victim, headers):
    with Frames(victim, **headers) as client:
        assert client.alive()


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_handshake_may_come_in_pieces(victim, size):
    with Raw(victim) as connection:
        connection.send(upgrade_head(victim)[0], size=size)
        assert connection.answer(bodiless=True).status == 101


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame", ","])
def test_an_extension_that_is_offered_is_not_taken(victim, offer):
    with Frames(victim, Sec_WebSocket_Extensions=offer) as client:
        assert "sec-websocket-extensions" not in client.headers
        client.send(text("\x02\x00", rsv=4))  # what compressed text would look like
        client.fails(1002)


@pytest.mark.parametrize("offer, chosen", [("tidegate.v1+json", True), ("other, tidegate.v1+json", True), (["other", "tidegate.v1+json"], True),
                                           ("other", False), ("tidegate.v1", False), ("", False), (",,,", False)],
                         ids=["own", "second", "second-line", "other", "half", "empty", "commas"])
def test_of_the_subprotocols_only_the_daemon_s_own_is_chosen(victim, offer, chosen):
    with Frames(victim, Sec_WebSocket_Protocol=offer) as client:
        assert client.headers.get("sec-websocket-protocol") == ("tidegate.v1+json" if chosen else None)
        assert client.alive()


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection", "Host"])
def test_a_handshake_without_a_header_is_refused(victim, missing):
    refused(victim, upgrade_head(victim, drop=[missing])[0], 400, 426)


@pytest.mark.parametrize("key", ["", "x", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAA=", "A" * 22 + "!!", "A" * 1000,
                                 base64.b64encode(b"x" * 15).decode(), base64.b64encode(b"x" * 17).decode(), "not base64 at all"],
                         ids=["empty", "one-letter", "3-bytes", "17-bytes-cut", "no-base64-end", "long", "15-bytes", "17-bytes", "text"])
def test_a_handshake_whose_key_is_not_sixteen_bytes_is_refused(victim, key):
    refused(victim, upgrade_head(victim, Sec_WebSocket_Key=key)[0], 400)


def test_a_handshake_with_two_keys_is_refused(victim):
    refused(victim, upgrade_head(victim, Sec_WebSocket_Key=["AAAAAAAAAAAAAAAAAAAAAA==", "BBBBBBBBBBBBBBBBBBBBBA=="])[0], 400)


@pytest.mark.parametrize("version", ["0", "7", "8", "12", "14", "013", "-13", "thirteen", "", "9" * 100],
                         ids=["0", "7", "8", "12", "14", "013", "minus", "word", "empty", "huge"])
def test_another_version_is_refused_and_told_which_there_is(victim, version):
    # RFC 6455, 4.4: the answer has the version that the server speaks.
    answer = refused(victim, upgrade_head(victim, Sec_WebSocket_Version=version)[0], 400, 426)
    assert answer.header("sec-websocket-version") == "13", answer.headers


@pytest.mark.parametrize("headers", [{"Connection": "keep-alive"}, {"Connection": "close"}, {"Upgrade": "websockets"}, {"Upgrade": "xwebsocket"}],
                         ids=["keep-alive", "close", "websockets", "xwebsocket"])
def test_what_only_resembles_a_handshake_is_refused(victim, headers):
    refused(victim, upgrade_head(victim, **headers)[0], 400, 426)


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", "HTTP/2.0", "", "\"websocket"], ids=["h2c", "tls", "http2", "empty", "quote"])
def test_another_upgrade_is_never_made(victim, upgrade):
    with Raw(victim) as connection:
        connection.send(upgrade_head(victim, "?rooms=x&wait=0s", Upgrade=upgrade)[0])
        assert connection.answer().status in (200, 400, 426)


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "get"])
def test_a_handshake_by_another_method_is_refused(victim, method):
    with Raw(victim) as connection:
        connection.send(upgrade_head(victim, method=method)[0])
        answer = connection.answer(bodiless=method == "HEAD")
    assert answer and answer.status != 101 and answer.status < 500, answer


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9"])
def test_a_handshake_in_another_http_is_refused(victim, version):
    with Raw(victim) as connection:
        connection.send(upgrade_head(victim, version=version)[0])
        answer = connection.answer()
    assert answer is None or 400 <= answer.status <= 505, answer


@pytest.mark.parametrize("body", ["length", "chunked"])
def test_a_handshake_with_a_body_takes_no_frame_for_it_and_no_body_for_frames(victim, room, body):
    # What a proxy takes for the body of a request must not be taken for messages of a stream. To refuse it is right as well.
    hidden = text({"type": "publish", "room": room, "kind": "k", "data": 1, "ack": "memory"})
    length = {"Content_Length": str(len(hidden))} if body == "length" else {"Transfer_Encoding": "chunked"}
    with Raw(victim) as connection:
        connection.send(upgrade_head(victim, **length)[0] + (hidden if body == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)))
        answer = connection.answer(bodiless=True)
        if answer and answer.status == 101:
            connection.send(text(echo_text("after the body")) + close_frame(1000))
            assert b"after the body" in connection.rest(), "what comes after the body is not heard"
    assert victim.room(room) is None, "the body was taken for messages"


def test_after_a_refused_handshake_no_frame_is_heard(victim, room):
    head, _ = upgrade_head(victim, drop=["Sec-WebSocket-Key"])
    with Raw(victim) as connection:
        connection.send(head + text({"type": "publish", "room": room, "kind": "k", "data": 1}) + frame(PING, b"x"))
        assert [answer.status for answer in connection.answers()] in ([400], [400, 400], [426], [426, 400])
    assert victim.room(room) is None


def test_after_a_refused_handshake_the_connection_may_be_used(victim):
    head, _ = upgrade_head(victim, drop=["Sec-WebSocket-Key"])
    good = request(victim, "GET /livez HTTP/1.1", "Connection: close")
    assert [answer.status for answer in exchange(victim, head + good)] in ([400, 200], [400])


def test_frames_without_a_handshake_are_no_http(victim):
    answers = exchange(victim, text(echo_text("hello")) + frame(PING, b"hello"))
    assert [answer.status for answer in answers] in ([400], [])


def test_a_handshake_that_never_ends_is_cut_off(victim):
    head, _ = upgrade_head(victim)
    with Raw(victim) as connection:
        connection.send(head[:-2])
        connection.send(b"X-More: x\r\n" * 10)
        assert connection.answer() is None


def test_many_handshakes_that_are_refused_leave_no_stream_behind(victim):
    for _ in range(200):
        refused(victim, upgrade_head(victim, "?rooms=host:*", Sec_WebSocket_Version="8")[0], 400, 426)
    eventually(lambda: victim.get("/api/health").json()["connections"] == 0, "none of them is in the count of connections")
