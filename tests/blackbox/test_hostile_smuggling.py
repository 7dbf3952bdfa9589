"""Requests whose end two readers could see in two places. A proxy in front that sees another end than the daemon lets a client
slip a second request past it; so what is not clear is refused and the connection closed, and never taken for two requests.

The hidden request is a publish: if it was heard, its room is there. The rules are those of RFC 9112, sections 2.2, 5, 6, 7 and 11.2.
"""

import json
import time

import pytest

from harness.raw import Raw, exchange, publish, request, statuses

SETTINGS = {"LIMITS__HEADER_TIMEOUT": "1s", "LIMITS__BODY_TIMEOUT": "1s", "LIMITS__WRITE_TIMEOUT": "1s"}
EVENT = b'{"kind":"k","data":1}'
REFUSED = ([], [400])


@pytest.fixture
def hidden(victim, room):
    """A room of which nobody may ever hear."""
    name = f"{room}-hidden"
    yield name
    assert victim.room(name) is None, "the hidden request was heard"


def carrier(victim, room, *headers, body):
    """A publish whose headers say themselves where it ends."""
    return publish(victim, room, *headers, body=body, length=False)


# Two lengths

@pytest.mark.parametrize("order", ["length-first", "coding-first"])
@pytest.mark.parametrize("ends", ["early", "late"])
def test_a_length_and_a_coding_together_are_refused_or_end_the_connection(victim, room, hidden, order, ends):
    # By 6.1 a server may go by the coding, but then has to close the connection after its answer.
    second = publish(victim, hidden, "Connection: close")
    if ends == "early":
        body, length = b"0\r\n\r\n" + second, 5 + len(second)
    else:
        body, length = b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENT + second), EVENT + second), 4
    headers = [f"Content-Length: {length}", "Transfer-Encoding: chunked"]
    found = exchange(victim, carrier(victim, room, *(headers if order == "length-first" else reversed(headers)), body=body))
    assert len(found) <= 1 and all(400 <= answer.status < 500 for answer in found), found


CLEAR = ["chunked", "CHUNKED", "\tchunked", "chunked\t", "chunked,", ",chunked", "identity, chunked", "gzip, chunked", "chunked, chunked"]
UNCLEAR = ["xchunked", "chunked, identity", "identity", '"chunked"', "chunked;q=1", "chunked\x0b", "\x0bchunked", "chun\x00ked", "", "chunke",
           "identity;chunked", "chunked chunked", "chunked, gzip"]


@pytest.mark.parametrize("coding, length", [*((coding, True) for coding in CLEAR + UNCLEAR), *((coding, False) for coding in UNCLEAR)],
                         ids=lambda value: {True: "with-length", False: "alone"}.get(value) or repr(value)[1:-1] or "empty")
def test_a_coding_that_is_not_clear_hides_no_request(victim, room, hidden, coding, length):
    second = publish(victim, hidden, "Connection: close")
    # Whoever sees no coding sees one request with this length; whoever sees chunks sees an empty body and then the other request.
    whole = b"0\r\n\r\n" + second
    headers = [*([f"Content-Length: {len(whole)}"] if length else []), f"Transfer-Encoding: {coding}"]
    found = exchange(victim, carrier(victim, room, *headers, body=whole))
    assert len(found) <= 1 and all(400 <= answer.status <= 501 for answer in found), found


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, chunked", "identity, chunked", "chunked, chunked", "x, chunked"])
def test_a_body_in_a_coding_that_is_not_known_is_not_taken_as_it_comes(victim, room, coding):
    # By 6.1 the answer is 501; what stands in the chunks is not what the client said.
    body = b"15\r\n" + EVENT + b"\r\n0\r\n\r\n"
    assert statuses(exchange(victim, carrier(victim, room, f"Transfer-Encoding: {coding}", "Connection: close", body=body))) in (*REFUSED, [415],
                                                                                                                                 [501])
    assert victim.room(room) is None


@pytest.mark.parametrize("lines", [
    ["Transfer-Encoding : chunked"], [" Transfer-Encoding: chunked"], ["\tTransfer-Encoding: chunked"], ["X: y", " Transfer-Encoding: chunked"],
    ["X: y\nTransfer-Encoding: chunked"], ["X: y\rTransfer-Encoding: chunked"], ["Transfer-Encoding\t: chunked"], ["Transfer-Encoding:", " chunked"],
    ["Transfer-Encoding\x00: chunked"], ["Transfer_Encoding: chunked"], ["X: y\x00", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], [": x", "Transfer-Encoding: chunked"],
], ids=["space-colon", "space-first", "tab-first", "folded-before", "newline", "return", "tab-colon", "folded", "nul-name", "underscore", "nul-value",
        "identity-first", "identity-last", "no-name"])
def test_a_coding_that_only_some_readers_see_hides_no_request(victim, room, hidden, lines):
    second = publish(victim, hidden, "Connection: close")
    whole = b"0\r\n\r\n" + second
    found = exchange(victim, carrier(victim, room, f"Content-Length: {len(whole)}", *lines, body=whole))
    assert len(found) <= 1 and all(400 <= answer.status <= 501 for answer in found), found


@pytest.mark.parametrize("other", ["0", "5", "100000"])
@pytest.mark.parametrize("how", ["two-lines", "one-line", "first-wins"])
def test_two_lengths_that_differ_are_refused(victim, room, hidden, other, how):
    body = EVENT + publish(victim, hidden, "Connection: close")
    lines = {"two-lines": [f"Content-Length: {len(EVENT)}", f"Content-Length: {other}"], "one-line": [f"Content-Length: {len(EVENT)}, {other}"],
             "first-wins": [f"Content-Length: {other}", f"Content-Length: {len(EVENT)}"]}[how]
    assert statuses(exchange(victim, carrier(victim, room, *lines, body=body))) in REFUSED
    assert victim.room(room) is None


@pytest.mark.parametrize("lines", [["Content-Length: 21", "Content-Length: 21"], ["Content-Length: 21, 21"]], ids=["two-lines", "one-line"])
def test_the_same_length_twice_is_one_length_or_refused(victim, room, lines):
    found = statuses(exchange(victim, carrier(victim, room, *lines, "Connection: close", body=EVENT)))
    assert found in ([202], *REFUSED)


@pytest.mark.parametrize("length", ["+21", "-21", "0x15", "2 1", "21,", "2.1e1", "", "21;", "21\x0b", "21 x", '"21"', "٢١", "18446744073709551637",
                                    "9" * 100, "-0", "21\x00", "\x0b21", "21a"],
                         ids=lambda length: repr(length)[1:12] or "empty")
def test_a_length_that_is_no_number_is_refused(victim, room, hidden, length):
    body = EVENT + publish(victim, hidden, "Connection: close")
    assert statuses(exchange(victim, carrier(victim, room, f"Content-Length: {length}", body=body))) in (*REFUSED, [413], [431])
    assert victim.room(room) is None


@pytest.mark.parametrize("line", ["Content-Length : 21", " Content-Length: 21", "X: y\nContent-Length: 21", "Content-Length:\n 21",
                                  "Content-Length\x00: 21",
                                  "Content-Length: 0\nContent-Length: 21"],
                         ids=["space-colon", "space-first", "newline", "folded", "nul", "newline-twice"])
def test_a_length_that_only_some_readers_see_is_refused(victim, room, hidden, line):
    # One that a reader passes over leaves the event to be read as a request.
    found = statuses(exchange(victim, carrier(victim, room, line, "Connection: close", body=EVENT + publish(victim, hidden))))
    assert found in (*REFUSED, [202]), found
    if found == [202]:
        assert line == "X: y\nContent-Length: 21", "only a bare newline may end a line"


# Lines

@pytest.mark.parametrize("fold", ["\r\n ", "\r\n\t", "\n "], ids=["space", "tab", "newline"])
def test_a_folded_line_is_refused_or_one_line(victim, hidden, fold):
    # By 5.2: 400, or the fold becomes a space.
    head = request(victim, "GET /livez HTTP/1.1", f"X-Fold: a{fold}POST /v1/rooms/{hidden}/events HTTP/1.1", "Connection: close")
    assert statuses(exchange(victim, head)) in ([200], *REFUSED)


def test_lines_that_end_in_a_bare_newline_are_one_request_or_refused(victim):
    head = request(victim, "GET /livez HTTP/1.1", "Connection: close").replace(b"\r\n", b"\n")
    assert statuses(exchange(victim, head)) in ([200], *REFUSED)


@pytest.mark.parametrize("end", ["\n\n", "\n\r\n", "\r\n\n", "\r\r", "\r\n\r", "\n\r"], ids=lambda end: repr(end)[1:-1])
def test_the_end_of_a_head_hides_no_request(victim, hidden, end):
    # Here a reader that goes by CRLF alone sees a header with a strange value, and no second request.
    second = publish(victim, hidden, "Connection: close")
    head = request(victim, "GET /livez HTTP/1.1", f"Content-Length: {len(second)}")[:-4] + end.encode()
    assert statuses(exchange(victim, head + second)) in ([200], [200, 400], [200, 408], [408], *REFUSED)


@pytest.mark.parametrize("char", ["\r", "\n", "\0"], ids=["return", "newline", "nul"])
@pytest.mark.parametrize("where", ["method", "path", "query", "version", "header-name", "header-value", "host"])
def test_a_control_character_in_a_head_hides_no_request(victim, hidden, char, where):
    second = publish(victim, hidden, "Connection: close").decode()
    line, header, host = "GET /livez?q HTTP/1.1", "X-Header: value", f"Host: {victim.address}"
    if where in ("method", "path", "query", "version"):
        line = {"method": f"GET{char}{second}", "path": f"GET /livez{char}{second}", "query": f"GET /livez?q{char}{second}",
                "version": f"GET /livez HTTP/1.1{char}{second}"}[where]
    elif where == "host":
        host = f"{host}{char}{second}"
    else:
        header = f"X-He{char}{second}" if where == "header-name" else f"X-Header: v{char}{second}"
    # What is hidden has no line of its own to begin at; only a newline within the head could give it one, and then it is no header.
    found = exchange(victim, request(victim, line, host, header, host=False, key=False))
    assert len(found) <= 1, found


# Chunks

@pytest.mark.parametrize("size", ["0x15", "+15", "-15", " 15", "15 ", "15\t", "1 5", "g", "", "10000000000000015", "FFFFFFFFFFFFFFFF",
                                  "ffffffffffffffffff", "15\x00", "15\x0b",
                                  "0" * 5000 + "15", "15\n"],
                         ids=lambda size: repr(size)[1:14] or "empty")
def test_a_chunk_size_that_is_no_number_hides_no_request(victim, room, hidden, size):
    body = f"{size}\r\n".encode() + EVENT + b"\r\n0\r\n\r\n"
    found = statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=body)))
    assert found in (*REFUSED, [202], [408]), found
    assert found != [202] or size.strip(" \t0") == "15", "whitespace and zeros are all that may be forgiven"


@pytest.mark.parametrize("body", [b"5\r\nabcdefgh\r\n0\r\n\r\n", b"15\r\n" + EVENT + b"0\r\n\r\n", b"15\r\n" + EVENT + b"\n0\r\n\r\n",
                                  b"15\n" + EVENT + b"\r\n0\r\n\r\n",
                                  b"15\r\n" + EVENT + b"\r0\r\n\r\n", b"15;\n" + EVENT + b"\r\n0\r\n\r\n", b"15\r" + EVENT + b"\r\n0\r\n\r\n",
                                  b"15\r\n" + EVENT + b"XX0\r\n\r\n"],
                         ids=["longer", "no-end", "newline-end", "newline-size", "return-end", "newline-extension", "return-size", "other-end"])
def test_a_chunk_that_does_not_end_as_it_should_is_refused(victim, room, hidden, body):
    found = statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", body=body + publish(victim, hidden, "Connection: close"))))
    assert found in (*REFUSED, [408], [413]), found
    assert victim.room(room) is None


@pytest.mark.parametrize("extension", [";a", ";a=b", ';a="b"', "; a=b; c=d"])
def test_a_chunk_with_an_extension_is_read(victim, room, extension):
    body = b"15" + extension.encode() + b"\r\n" + EVENT + b"\r\n0\r\n\r\n"
    assert statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=body))) == [202]


def test_a_chunk_extension_does_not_end_at_a_newline(victim, room, hidden):
    second = publish(victim, hidden, "Connection: close")
    body = b"15;\n" + b"x\r\n" + EVENT + b"\r\n0\r\n\r\n" + second
    found = statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=body)))
    assert found in (*REFUSED, [202], [408]), found


@pytest.mark.parametrize("piece, times", [(b"1;" + b"x" * 1000 + b"\r\n \r\n", 2000), (b"1" + b";x=y" * 300_000 + b"\r\n \r\n", 1),
                                          (b"1\r\n \r\n", 300_000)],
                         ids=["extensions", "one-extension", "tiny-chunks"])
def test_chunks_that_are_mostly_wrapping_are_bounded(victim, room, piece, times):
    body = piece * times + b"15\r\n" + EVENT + b"\r\n0\r\n\r\n"
    found = statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=body)))
    assert found in (*REFUSED, [202], [413], [408], [431]), found


@pytest.mark.parametrize("trailer", ["X: y", "Content-Length: 5", "Transfer-Encoding: chunked", "Authorization: Bearer x", "Host: other",
                                     "X: " + "y" * 2_000_000, "x: y\r\n" * 20_000 + "x: y",
                                     "X y", " X: y", "X: y\n", "X: y\0", ": y"],
                         ids=["plain", "length", "coding", "credential", "host", "huge", "many", "no-colon", "space-first", "newline", "nul",
                              "no-name"])
def test_a_trailer_changes_nothing(victim, room, hidden, trailer):
    body = b"15\r\n" + EVENT + b"\r\n0\r\n" + trailer.encode() + b"\r\n\r\n"
    found = statuses(exchange(victim, carrier(victim, room, "Transfer-Encoding: chunked", "Connection: close", body=body + publish(victim, hidden))))
    assert found in ([202], *REFUSED, [408], [413], [431]), found


# Bodies that nobody reads

@pytest.mark.parametrize("line", ["GET /livez HTTP/1.1", "GET /v1/rooms HTTP/1.1", "GET /v1/rooms/x/events HTTP/1.1",
                                  "GET /v1/stream?rooms=x&wait=0s HTTP/1.1",
                                  "GET /metrics HTTP/1.1", "POST /no/such/page HTTP/1.1", "PUT /v1/rooms/x/events HTTP/1.1",
                                  "DELETE /v1/rooms HTTP/1.1",
                                  "POST /v1/rooms/a%20b/events HTTP/1.1", "POST /v1/rooms/x/events?nonsense=1 HTTP/1.1", "OPTIONS /v1/rooms HTTP/1.1",
                                  "HEAD /livez HTTP/1.1", "TRACE / HTTP/1.1"],
                         ids=lambda line: line[:-9].replace("/", "_").replace(" ", ""))
@pytest.mark.parametrize("key", [True, False], ids=["key", "no-key"])
@pytest.mark.parametrize("times", [1, 2000], ids=["small", "large"])
def test_a_body_that_nobody_reads_is_not_the_next_request(victim, hidden, line, key, times):
    body = publish(victim, hidden, "X-Pad: x") * times
    with Raw(victim) as connection:
        connection.send(request(victim, line, f"Content-Length: {len(body)}", key=key, body=body))
        connection.send(request(victim, "GET /readyz HTTP/1.1", "Connection: close"))
        first = connection.answer(bodiless=line.startswith("HEAD"))
        assert first is None or first.status < 500, first
        found = connection.answers()
        assert statuses(found) in ([], [200]), "after the body comes the honest request, or nothing"


@pytest.mark.parametrize("content_type, status", [("text/plain", 415), ("application/json", 202)])
def test_a_body_and_what_follows_it_are_told_apart(victim, room, content_type, status):
    second = f"{room}-second"
    found = exchange(victim, publish(victim, room, f"Content-Type: {content_type}") + publish(victim, second, "Connection: close"))
    assert statuses(found) in ([status, 202], [status])


# Several requests, honestly

def test_pipelined_requests_are_answered_in_their_order(victim, room):
    victim.publish_numbers(room, range(50))
    first = victim.room(room)["first_seq"]
    heads = [request(victim, f"GET /v1/rooms/{room}/events?after={first + n - 1}&limit=1 HTTP/1.1") for n in range(50)]
    with Raw(victim) as connection:
        connection.send(b"".join(heads))
        for n in range(50):
            assert json.loads(connection.answer().body)["events"][0]["data"] == {"n": n}


def test_pipelined_publishes_are_numbered_in_their_order(victim, room):
    wire = b"".join(publish(victim, room, body=b'{"kind":"k","data":{"n":%d}}' % n) for n in range(100))
    with Raw(victim) as connection:
        connection.send(wire, size=1000)
        assert [connection.answer().status for _ in range(100)] == [202] * 100
    assert [event["data"]["n"] for event in victim.history(room)["events"]] == list(range(100))


def test_after_connection_close_nothing_more_is_heard(victim, hidden):
    found = exchange(victim, request(victim, "GET /livez HTTP/1.1", "Connection: close") + publish(victim, hidden))
    assert statuses(found) == [200]


def test_after_a_broken_request_nothing_more_is_heard(victim, hidden):
    assert statuses(exchange(victim, request(victim, "GET /livez HTTP/1.1", "no colon") + publish(victim, hidden))) in REFUSED


def test_a_client_that_asks_without_end_and_reads_no_answer_is_cut_off(victim):
    flood = request(victim, "GET /metrics HTTP/1.1") * 100
    deadline = time.monotonic() + 15
    with Raw(victim) as connection:
        connection.socket.settimeout(0.5)
        while time.monotonic() < deadline:
            try:
                connection.socket.sendall(flood)
            except TimeoutError:
                continue  # the daemon takes nothing more: it waits for us to read, up to limits.write_timeout
            except OSError:
                return
    raise AssertionError("a client that reads no answer was served for 15 s")


@pytest.mark.parametrize("expect", ["100-continue", "100-CONTINUE"])
def test_a_client_that_waits_for_100_gets_it_or_the_answer(victim, room, expect):
    with Raw(victim) as connection:
        connection.send(publish(victim, room, f"Content-Length: {len(EVENT)}", f"Expect: {expect}", body=b"", length=False))
        assert connection.answer(timeout=5).status == 100
        connection.send(EVENT)
        assert connection.answer().status == 202


@pytest.mark.parametrize("line, key, status", [
    ("POST /v1/rooms/x/events HTTP/1.1", False, 401), ("POST /v1/rooms/x/events?nonsense=1 HTTP/1.1", True, 400),
    ("POST /no/such/page HTTP/1.1", True, 404),
    ("PUT /v1/rooms/x/events HTTP/1.1", True, 405), ("POST /v1/rooms/a%20b/events HTTP/1.1", True, 400),
], ids=["no-key", "parameter", "no-page", "method", "room-name"])
def test_a_client_that_waits_for_100_is_refused_at_once_where_its_head_says_enough(victim, line, key, status):
    # RFC 9110, 10.1.1: then the final answer comes in place of 100, so that the body is never sent.
    with Raw(victim) as connection:
        connection.send(request(victim, line, f"Content-Length: {len(EVENT)}", "Expect: 100-continue", key=key))
        assert connection.answer(timeout=5).status == status
