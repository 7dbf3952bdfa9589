"""Requests that no honest client sends: slow ones, oversized ones, ones that are no HTTP, methods and versions that are not served.

After each of them the daemon serves an honest client, has not panicked and has not grown. Two requests in one are in
test_hostile_smuggling.py, names and texts in test_hostile_text.py, bodies in test_hostile_bodies.py.
"""

import time
from contextlib import ExitStack

import pytest

from harness.api import PROBLEM
from harness.raw import Raw, exchange, publish, request, statuses

SETTINGS = {"LIMITS__HEADER_TIMEOUT": "1s", "LIMITS__BODY_TIMEOUT": "1s", "LIMITS__BODY_BYTES": "1MiB", "LIMITS__BODIES_BYTES": "8MiB"}
BODY_MAX = 1 << 20
# A head that is cut off may be told so, or its connection is closed without a word.
LATE = ([], [408])
TOO_LARGE = ([], [400], [414], [431])


# Slow ones: how long a client may take is told by the clock, so these tests take their time.

def test_a_head_that_comes_a_byte_at_a_time_is_cut_off(victim):
    with Raw(victim) as connection:
        took = connection.drip(request(victim, "GET /v1/rooms HTTP/1.1", "X-Slow: " + "x" * 500), every=0.05)
        assert statuses(connection.answers()) in LATE
    assert 0.8 < took < 5, f"limits.header_timeout is 1 s; it took {took:.1f} s"


@pytest.mark.parametrize("beginning", [b"", b"\r\n", b"GET", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n"],
                         ids=["nothing", "empty-line", "method", "first-line", "headers"])
def test_a_head_that_is_begun_and_never_ended_is_cut_off(victim, beginning):
    with Raw(victim) as connection:
        connection.send(beginning)
        assert statuses(connection.answers(timeout=5)) in LATE


def test_a_second_head_that_is_never_ended_is_cut_off_too(victim):
    good = request(victim, "GET /livez HTTP/1.1")
    assert statuses(exchange(victim, good + b"GET /livez HTT")) in ([200], [200, 408])


def test_hundreds_of_slow_heads_keep_nobody_out(victim):
    with ExitStack() as stack:
        slow = [stack.enter_context(Raw(victim)) for _ in range(300)]
        for one in slow:
            one.send(b"GET /v1/rooms HTTP/1.1\r\nX-Slow: ")
        assert victim.get("/readyz").status_code == 200
        assert all(statuses(one.answers(timeout=10)) in LATE for one in slow)


@pytest.mark.parametrize("body", [b"", b'{"kind":"k",'], ids=["nothing", "half"])
@pytest.mark.parametrize("coding", ["Content-Length: 100", "Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_that_never_ends_is_answered_408(victim, room, body, coding):
    sent = b"%x\r\n%s\r\n" % (len(body), body) if "chunked" in coding and body else body
    with Raw(victim) as connection:
        connection.send(publish(victim, room, coding, body=sent, length=False))
        [answer] = connection.answers(timeout=8)
    assert answer.status == 408 and answer.header("content-type") == PROBLEM, answer
    assert victim.room(room) is None


def test_a_body_that_comes_a_byte_at_a_time_is_answered_408(victim, room):
    body = b'{"kind":"k","data":"%s"}' % (b"x" * 500)
    with Raw(victim) as connection:
        connection.send(publish(victim, room, f"Content-Length: {len(body)}", body=b"", length=False))
        took = connection.drip(body, every=0.05)
        assert statuses(connection.answers()) == [408]
    assert 0.8 < took < 5, f"limits.body_timeout is 1 s; it took {took:.1f} s"
    assert victim.room(room) is None


@pytest.mark.parametrize("line", ["GET /v1/rooms HTTP/1.1", "GET /livez HTTP/1.1", "POST /no/such/page HTTP/1.1", "PUT /v1/rooms/x/events HTTP/1.1",
                                  "POST /v1/rooms/a%20b/events HTTP/1.1"], ids=["list", "probe", "no-page", "method", "room-name"])
@pytest.mark.parametrize("key", [True, False], ids=["key", "no-key"])
def test_a_slow_body_that_nobody_wants_is_not_waited_for(victim, line, key):
    with Raw(victim) as connection:
        connection.send(request(victim, line, "Content-Length: 1000000", key=key))
        answer = connection.answer(timeout=3)
        assert answer and answer.status < 500, answer
        start = time.monotonic()
        connection.drip(b"x" * 400, every=0.05)
        while connection.send(b"x"):
            assert time.monotonic() - start < 10, "its connection is kept for as long as it drips"
            time.sleep(0.05)  # drop by drop is the point


# Oversized ones

@pytest.mark.parametrize("size", [9_000, 64_000, 2_000_000])
@pytest.mark.parametrize("where", ["header", "name", "cookie", "credential", "path", "query", "method"])
def test_a_head_that_is_too_large_is_refused(victim, size, where):
    big = "x" * size
    data = {
        "header": lambda: request(victim, "GET /v1/rooms HTTP/1.1", f"X-Big: {big}"),
        "name": lambda: request(victim, "GET /v1/rooms HTTP/1.1", f"{big}: x"),
        "cookie": lambda: request(victim, "GET /v1/rooms HTTP/1.1", f"Cookie: tidegate_session={big}"),
        "credential": lambda: request(victim, "GET /v1/rooms HTTP/1.1", f"Authorization: Bearer {big}", key=False),
        "path": lambda: request(victim, f"GET /v1/rooms/{big} HTTP/1.1"),
        "query": lambda: request(victim, f"GET /v1/rooms?pattern={big} HTTP/1.1"),
        "method": lambda: request(victim, f"{big} /v1/rooms HTTP/1.1"),
    }[where]()
    assert statuses(exchange(victim, data)) in TOO_LARGE


@pytest.mark.parametrize("count", [300, 20_000])
@pytest.mark.parametrize("header", ["a: b", "Host: x", "Cookie: a=b", "X-Forwarded-For: 10.0.0.1"], ids=["tiny", "host", "cookie", "forwarded"])
def test_too_many_headers_are_refused(victim, count, header):
    assert statuses(exchange(victim, request(victim, "GET /v1/rooms HTTP/1.1", *[header] * count))) in TOO_LARGE


def test_as_many_headers_as_a_busy_proxy_adds_are_taken(victim):
    headers = [f"X-Header-{n}: {'v' * 40}" for n in range(60)]
    assert statuses(exchange(victim, request(victim, "GET /v1/rooms HTTP/1.1", *headers, "Connection: close"))) == [200]


@pytest.mark.parametrize("path", ["/v1/rooms?pattern=", "/v1/rooms/x/events?after=", "/v1/stream?wait=0s&rooms=",
                                  "/v1/stream?wait=0s&rooms=x&after=", "/?x=", "/livez?"],
                         ids=["pattern", "after", "rooms", "cursor", "page", "probe"])
@pytest.mark.parametrize("text", ["x", "%78", "%", "&a", "%00", "=", ",", "*,"], ids=["letters", "escaped", "percent", "ampersand", "nul", "equals",
                                                                                     "comma", "star"])
def test_a_query_of_8_kb_is_answered_by_an_error_or_not_at_all(victim, path, text):
    query = (text * 8000)[:8000]
    [answer] = exchange(victim, request(victim, f"GET {path}{query} HTTP/1.1", "Connection: close"))
    assert answer.status in (200, 400, 404, 414, 422, 431), answer


def test_a_query_of_7_kb_is_read(victim):
    rooms = ",".join(f"well:{n:03}" for n in range(700))
    [answer] = exchange(victim, request(victim, f"GET /v1/stream?rooms={rooms}&wait=0s HTTP/1.1", "Connection: close"))
    assert answer.status in (200, 400, 414, 431) and (answer.status == 200 or len(rooms) > 4000), answer


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_body_over_the_limit_is_answered_413(victim, room, coding):
    body = b'{"kind":"k","data":"%s"}' % (b"x" * (2 * BODY_MAX))
    if coding == "chunked":
        wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[at:at + 8000] for at in range(0, len(body), 8000)))
        data = publish(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=wire + b"0\r\n\r\n", length=False)
    else:
        data = publish(victim, room, "Connection: close", body=body)
    assert statuses(exchange(victim, data)) == [413]
    assert victim.room(room) is None


@pytest.mark.parametrize("length", [BODY_MAX + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64],
                         ids=["one-over", "terabyte", "2^63-1", "2^63", "2^64-1", "2^64"])
def test_a_length_that_promises_too_much_is_refused_before_the_body_comes(victim, room, length):
    with Raw(victim) as connection:
        connection.send(publish(victim, room, f"Content-Length: {length}", body=b'{"kind":', length=False))
        assert statuses(connection.answers(timeout=5)) in ([], [400], [413], [431])
    assert victim.room(room) is None


def test_a_chunked_body_without_end_is_answered_413_and_cut_off(victim, room):
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    with Raw(victim) as connection:
        connection.send(publish(victim, room, "Transfer-Encoding: chunked", body=b"", length=False))
        sent = 0
        while connection.send(chunk * 16):
            sent += len(chunk) * 16
            assert sent < 100 * BODY_MAX, "it is read for ever"
        assert statuses(connection.answers()) in ([413], [])
    assert victim.room(room) is None


@pytest.mark.parametrize("sent", [b"\0" * 65536, b"\xff" * 65536, b"\r\n" * 50_000, b"\n" * 50_000, b" " * 65536, b"GET " * 20_000,
                                  b"\x16\x03\x01" * 20_000],
                         ids=["nul", "ff", "empty-lines", "newlines", "spaces", "get", "tls"])
def test_garbage_is_refused_and_not_read_for_ever(victim, sent):
    with Raw(victim) as connection:
        total = 0
        while connection.send(sent):
            total += len(sent)
            assert total < 50 << 20, "it is read for ever"
        assert statuses(connection.answers()) in TOO_LARGE


# What is not served

@pytest.mark.parametrize("line", ["GET /livez", "GET /livez HTTP/0.9", "GET /livez HTTP/1.2", "GET /livez HTTP/2.0", "GET /livez HTTP/3.0",
                                  "GET /livez HTTP/9.9",
                                  "GET /livez HTTP/1.10", "GET /livez HTTP/11", "GET /livez http/1.1", "GET /livez HTTPS/1.1",
                                  "GET /livez HTTP/1.1 x",
                                  "GET /livez  HTTP/1.1x", "GET", "/livez", "", " GET /livez HTTP/1.1", "GET/livez HTTP/1.1", "GET\t/livez\tHTTP/1.1",
                                  "GET livez HTTP/1.1", "GET /li vez HTTP/1.1", "GET \\livez HTTP/1.1", "G\x01T /livez HTTP/1.1",
                                  "GET /livez\x0c HTTP/1.1",
                                  "G(ET) /livez HTTP/1.1", "GET /livez\x00 HTTP/1.1", "PRI * HTTP/2.0"],
                         ids=lambda line: repr(line)[1:-1].replace("/", "_") or "nothing")
def test_a_first_line_that_is_no_http_1_is_refused(victim, line):
    found = statuses(exchange(victim, request(victim, line, "Connection: close")))
    # HTTP/1.2 would be read as 1.1; an empty line before a request is passed over, and what is left then is no request.
    assert found in ([], [400], [404], [405], [426], [505]) or (line == "GET /livez HTTP/1.2" and found == [200]), found


def test_an_old_client_without_host_is_served(victim):
    [answer] = exchange(victim, b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.status == 200


@pytest.mark.parametrize("hosts", [[], ["Host: a", "Host: b"], ["Host: a b"], ["Host: /"], ["Host: a\x0bb"]],
                         ids=["none", "two", "space", "slash", "control"])
def test_a_request_that_does_not_say_one_host_is_refused(victim, hosts):
    # RFC 9112, 3.2: 400 to any HTTP/1.1 request without exactly one good Host.
    [answer] = exchange(victim, request(victim, "GET /livez HTTP/1.1", *hosts, "Connection: close", host=False))
    assert answer.status == 400


@pytest.mark.parametrize("target, status", [("http://somewhere.example/livez", 200), ("HTTP://x/livez", 200), ("/livez#part", None), ("*", None),
                                            ("//livez", None), ("somewhere.example:80", None), ("http://", None), ("http://x:99999999/livez", None),
                                            ("http://[::1/livez", None), ("file:///etc/passwd", None), ("/livez?a#b", None), ("?", None)])
def test_a_target_in_another_form_does_no_harm(victim, target, status):
    found = statuses(exchange(victim, request(victim, f"GET {target} HTTP/1.1", "Connection: close")))
    assert found in ([[status]] if status else ([], [200], [400], [401], [404])), found


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "PROPFIND", "OPTIONS", "get", "GETGET", "X" * 500, "!#$%&'*+-.^_`|~"])
@pytest.mark.parametrize("path", ["/livez", "/v1/rooms", "/v1/rooms/x/events", "/v1/stream?rooms=x&wait=0s", "/", "*", "example.org:443"])
def test_another_method_is_refused_and_nothing_is_sent_back_or_on(victim, method, path):
    head = request(victim, f"{method} {path} HTTP/1.1", "X-Secret: do-not-repeat-me", "Connection: close")
    found = exchange(victim, head)
    assert len(found) <= 1 and all(400 <= answer.status < 500 or method == "OPTIONS" for answer in found), found
    for answer in found:
        assert b"do-not-repeat-me" not in answer.body and victim.key.encode() not in answer.body, "TRACE is how a header is stolen"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/api/health", "/metrics", "/v1/rooms", "/v1/rooms/none", "/v1/rooms/none/events", "/",
                                  "/no/such/page",
                                  "/v1/stream?rooms=x&wait=0s"])
def test_head_is_answered_without_a_body(victim, path):
    with Raw(victim) as connection:
        connection.send(request(victim, f"HEAD {path} HTTP/1.1", "Connection: close"))
        assert connection.answer(bodiless=True).status in (200, 404, 405)
        connection.ended()


def test_an_event_stream_asked_for_by_head_is_not_kept_open(victim):
    with Raw(victim) as connection:
        connection.send(request(victim, "HEAD /v1/stream?rooms=x HTTP/1.1", "Accept: text/event-stream", "Connection: close"))
        assert connection.answer(timeout=5, bodiless=True).status in (200, 405)
        connection.ended()
