"""Lines that are published as they come: a body of NDJSON without a declared length, which may have no end.

Real curl (`-T -`) sends what a pipe gives it; where chunks must be cut at a certain byte they go over a socket by hand.
"""

import json
import signal
import subprocess
import time

import pytest

from harness.api import Api, numbers, problem, seqs
from harness.daemon import Daemon
from harness.nginx import certificate
from harness.process import eventually, spawn
from harness.raw import Raw, publish, request, statuses
from harness.tokens import SECRET, mint

LINES = "Content-Type: application/x-ndjson"


def line(n, **more):
    """One event's line."""
    return (json.dumps({"kind": "n", "data": {"n": n}, **more}, ensure_ascii=False) + "\n").encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Curl:
    """A curl that publishes what is written to it, until `end`."""

    def __init__(self, daemon, room, *options, key="", ack=None):
        url = f"{daemon.url}/v1/rooms/{room}/events" + (f"?ack={ack}" if ack else "")
        self.child = spawn(["curl", "-sS", "--noproxy", "*", "-X", "POST", "-T", "-", "-H", LINES, "-H", f"Authorization: Bearer {key or daemon.key}",
                            "-w", "\n%{http_code} %{http_version}", *options, url],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)

    def write(self, data):
        self.child.stdin.write(data)

    def end(self, timeout=60):
        """The body ends; the answer's status, its JSON, and the version of HTTP that was spoken."""
        out, error = self.child.communicate(timeout=timeout)
        body, _, said = out.decode().rpartition("\n")
        assert body, f"curl got no answer: {said} {error.decode()}"
        status, version = said.split()
        return int(status), json.loads(body), version


class Slow(Raw):
    """A publish of lines over a socket, chunk by chunk."""

    def __init__(self, daemon, room, *headers):
        super().__init__(daemon)
        self.send(publish(daemon, room, LINES, "Transfer-Encoding: chunked", *headers, body=b"", length=False))

    def chunk(self, data):
        return self.send(chunk(data))

    def refusal(self, status, kind, timeout=15):
        """The one answer, a problem of this kind, after which the connection has ended."""
        [answer] = self.answers(timeout)
        found = json.loads(answer.body)
        assert (answer.status, answer.header("content-type")) == (status, "application/problem+json"), answer
        assert found["type"].endswith(f":{kind}") and answer.header("connection") == "close", (answer.headers, found)
        return found


@pytest.fixture
def reader(daemon, room, sse):
    """Reads the room."""
    stream = sse(daemon, room)
    stream.welcome()
    return stream


def follow(sse, daemon, room):
    stream = sse(daemon, room)
    stream.welcome()
    return stream


def number(reader):
    return reader.event().data["data"]["n"]


@pytest.mark.parametrize("ack", ["memory", "logged", "synced"])
def test_each_line_is_there_while_the_body_is_still_open(daemon, room, reader, ack):
    curl = Curl(daemon, room, ack=ack)
    found = []
    for n in range(20):
        curl.write(line(n))
        event = reader.event().data
        assert event["data"]["n"] == n
        found.append(event["seq"])
    assert curl.child.poll() is None, "nobody ended the body"
    status, said, _ = curl.end()
    assert (status, said) == (202, {"count": 20, "first_seq": found[0], "last_seq": found[-1], "ack": ack})


def test_each_line_is_there_over_http_2(start_daemon, tmp_path, room, sse):
    authority, key = certificate(tmp_path)
    daemon = start_daemon(started=False, SERVER__TLS_CERT=authority, SERVER__TLS_KEY=key)
    over_tls(daemon, authority)
    reader = follow(sse, daemon, room)
    curl = Curl(daemon, room, "--http2", "--cacert", str(authority))
    for n in range(20):
        curl.write(line(n))
        assert number(reader) == n
    status, said, version = curl.end()
    assert (status, said["count"], version) == (202, 20, "2")


def over_tls(daemon: Daemon, authority):
    """Starts a daemon that speaks TLS; its clients know its certificate."""
    daemon.start()
    daemon.url = daemon.url.replace("http://", "https://")
    daemon.authority, daemon.session.verify = authority, str(authority)


def test_ten_thousand_lines_arrive_once_and_in_order(daemon, room):
    body = b"".join(line(n, key="größe €😀") for n in range(10_000))
    curl = Curl(daemon, room)
    at, size = 0, 1
    while at < len(body):  # cut anywhere, in lines and in letters
        curl.write(body[at:at + size])
        at, size = at + size, size * 7 % 9973 + 1
    status, said, _ = curl.end()
    assert (status, said["count"]) == (202, 10_000), said
    events = daemon.all_events(room)
    assert numbers(events) == list(range(10_000))
    assert (said["first_seq"], said["last_seq"]) == (events[0]["seq"], events[-1]["seq"])
    assert {event["key"] for event in events} == {"größe €😀"}


def test_chunks_may_end_in_the_middle_of_a_line_and_of_a_letter(daemon, room):
    body = b"\r\n".join(line(n, key="ä€😀").strip() for n in range(30)) + b"\n\n \n"
    with Slow(daemon, room, "Connection: close") as upload:
        for byte in body:
            upload.chunk(bytes([byte]))
        upload.send(b"0\r\n\r\n")
        assert statuses(upload.answers()) == [202]
    events = daemon.all_events(room)
    assert numbers(events) == list(range(30)) and {event["key"] for event in events} == {"ä€😀"}


def test_a_last_line_without_a_break_counts_when_the_body_ends(daemon, room, reader):
    curl = Curl(daemon, room)
    curl.write(line(0) + line(1).strip())
    assert number(reader) == 0
    status, said, _ = curl.end()
    assert (status, said["count"]) == (202, 2)
    assert number(reader) == 1


def test_the_connection_goes_on_after_a_body_that_was_taken(daemon, room):
    with Slow(daemon, room) as upload:
        upload.send(chunk(line(0)) + b"0\r\n\r\n" + request(daemon, f"GET /v1/rooms/{room}/events HTTP/1.1", "Connection: close"))
        assert statuses(upload.answers()) == [202, 200]


def test_a_body_larger_than_any_that_is_declared_may_be(start_daemon, room):
    daemon = start_daemon(LIMITS__BODY_BYTES="16KiB", LIMITS__EVENT_BYTES="1KiB", LIMITS__BODY_EVENTS=50)
    body = b"".join(line(n, key="k" * (n % 190 + 1)) for n in range(3000))
    curl = Curl(daemon, room)
    curl.write(body)
    status, said, _ = curl.end()
    assert (status, said["count"]) == (202, 3000), said
    assert numbers(daemon.all_events(room)) == list(range(3000))


def test_what_was_published_before_is_told_as_a_repetition(daemon, room, reader):
    daemon.publish(room, {"kind": "n", "data": {"n": 0}, "id": "a"})
    curl = Curl(daemon, room)
    assert number(reader) == 0
    curl.write(line(1, id="b"))
    assert number(reader) == 1
    curl.write(line(0, id="a"))
    curl.write(line(2, id="c"))
    assert number(reader) == 2
    status, said, _ = curl.end()
    events = daemon.all_events(room)
    assert (status, said["count"], said["duplicates"]) == (202, 2, 1) and numbers(events) == [0, 1, 2]
    assert (said["first_seq"], said["last_seq"]) == tuple(seqs(events)[1:])


@pytest.mark.parametrize("bad, status, kind", [(b'{"kind":1,"data":1}\n', 422, "invalid-event"), (b'{"kind":\n', 400, "broken-json"),
                                               (b'{"kind":"k","data":"' + b"x" * 110_000, 413, "event-too-large")],
                         ids=["field", "json", "too-large"])
def test_a_bad_line_ends_the_body_and_what_was_before_it_is_there(daemon, room, reader, bad, status, kind):
    with Slow(daemon, room) as upload:
        for n in range(3):
            upload.chunk(line(n))
            last = reader.event().data
            assert last["data"]["n"] == n
        upload.chunk(line(3) + b"\n" + line(4) + bad)
        found = upload.refusal(status, kind)
    assert (found["published"], found["last_seq"]) == (3, last["seq"]), found
    assert "first 3 " in found["detail"], found
    assert "item 5" in found["detail"] if kind != "invalid-event" else found["errors"][0]["item"] == 5, found
    assert numbers(daemon.all_events(room)) == [0, 1, 2], "a step is published whole or not at all"


def test_curl_is_told_where_it_went_wrong(daemon, room, reader):
    curl = Curl(daemon, room)
    curl.write(line(0))
    assert number(reader) == 0
    curl.write(b"nonsense\n")
    status, found, _ = curl.end()
    assert (status, found["published"], found["type"]) == (400, 1, "urn:tidegate:problem:broken-json")


@pytest.mark.parametrize("bad", [b'{"kind":1,"data":1}\n', b'{"kind":1,"data":1}'], ids=["break", "no-break"])
def test_a_body_that_comes_at_once_is_published_whole_or_not_at_all(daemon, room, bad):
    with Raw(daemon) as connection:
        connection.send(publish(daemon, room, LINES, "Transfer-Encoding: chunked", "Connection: close", length=False,
                                body=chunk(line(0)) + chunk(line(1)) + chunk(bad) + b"0\r\n\r\n"))
        [answer] = connection.answers()
    found = json.loads(answer.body)
    assert (answer.status, found["errors"][0]["item"], found["published"]) == (422, 2, 0), found
    assert "last_seq" not in found and daemon.room(room) is None


@pytest.mark.parametrize("body", [b"", b"\n \r\n\n"], ids=["nothing", "blank-lines"])
def test_a_body_without_a_line_is_refused(daemon, room, body):
    with Slow(daemon, room, "Connection: close") as upload:
        upload.send((chunk(body) if body else b"") + b"0\r\n\r\n")
        [answer] = upload.answers()
    assert answer.status == 422 and json.loads(answer.body)["type"].endswith(":no-event")


@pytest.mark.parametrize("end", ["close", "kill"])
def test_what_is_complete_when_its_sender_breaks_off_is_there_and_nothing_else(daemon, room, reader, end):
    # The last line is an event as it stands, but nobody said that it is whole.
    if end == "close":
        with Slow(daemon, room) as upload:
            upload.chunk(line(0) + line(1) + line(2).strip())
            assert [number(reader), number(reader)] == [0, 1]
    else:
        curl = Curl(daemon, room)
        curl.write(line(0) + line(1) + line(2).strip())
        assert [number(reader), number(reader)] == [0, 1]
        curl.child.send_signal(signal.SIGKILL)
    # The reader, and whoever asks.
    eventually(lambda: sockets(daemon) <= 2, "the daemon has seen that it is gone")
    daemon.publish(room, {"kind": "n", "data": {"n": 9}})
    assert numbers(daemon.all_events(room)) == [0, 1, 9]


def sockets(daemon):
    [found] = [one for one in daemon.get("/metrics").text.splitlines() if one.startswith("tidegate_sockets ")]
    return float(found.split()[1])


def test_a_body_that_rests_for_too_long_is_ended(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__BODY_TIMEOUT="700ms")
    reader = follow(sse, daemon, room)
    with Slow(daemon, room) as upload:
        upload.chunk(line(0) + line(1).strip())
        assert number(reader) == 0
        start = time.monotonic()
        found = upload.refusal(408, "body-timeout")
    assert 0.4 < time.monotonic() - start < 5, "it may rest for 700 ms"
    assert found["published"] == 1 and numbers(daemon.all_events(room)) == [0]


def test_a_body_may_take_longer_than_it_may_rest(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__BODY_TIMEOUT="1s")
    reader = follow(sse, daemon, room)
    curl = Curl(daemon, room)
    start, n = time.monotonic(), 0
    while time.monotonic() - start < 3:
        curl.write(line(n) if n % 2 else b"\n")
        assert n % 2 == 0 or number(reader) == n
        time.sleep(0.25)  # that it comes slowly is the point
        n += 1
    assert curl.end()[0] == 202


def test_a_rate_slows_it_down_and_loses_nothing(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__PER_USER_PUBLISHES_PER_SECOND=5)
    reader = follow(sse, daemon, room)
    curl = Curl(daemon, room)
    start = time.monotonic()
    for n in range(15):
        curl.write(line(n))
        assert number(reader) == n
    took = time.monotonic() - start
    assert 1.5 < took < 10, f"fifteen steps at five a second, five of them at once: {took:.1f} s"
    status, said, _ = curl.end()
    assert (status, said["count"]) == (202, 15)


def test_a_rate_that_says_to_come_back_too_late_is_told(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__PER_USER_PUBLISHES_PER_SECOND=1, LIMITS__BODY_TIMEOUT="300ms")
    reader = follow(sse, daemon, room)
    with Slow(daemon, room) as upload:
        upload.chunk(line(0))
        assert number(reader) == 0
        upload.chunk(line(1))
        found = upload.refusal(429, "rate-limited")
    assert found["published"] == 1 and found["retryAfter"] >= 1, found


def test_lines_wait_for_a_place_among_the_bodies_under_way(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__BODY_BYTES="64KiB", LIMITS__BODIES_BYTES="64KiB")
    reader = follow(sse, daemon, room)
    with Raw(daemon) as hog:
        hog.send(publish(daemon, "other", "Content-Length: 65536", body=b" " * 65535, length=False))
        eventually(lambda: daemon.post_events("other", json.dumps({"kind": "k", "data": 1})).status_code == 429, "all places are taken")
        curl = Curl(daemon, room)
        curl.write(line(0))
        curl.write(line(1))
    assert [number(reader), number(reader)] == [0, 1]
    assert curl.end()[0] == 202


def test_where_there_is_no_place_for_long_it_is_told_why(start_daemon, room, sse):
    daemon = start_daemon(LIMITS__ROOMS=1, LIMITS__BODY_TIMEOUT="400ms")
    follow(sse, daemon, "other")
    with Slow(daemon, room) as upload:
        start = time.monotonic()
        upload.chunk(line(0))
        found = upload.refusal(503, "too-many-rooms")
    assert found["published"] == 0 and time.monotonic() - start > 0.15, "it was tried again for a while"


def test_a_stop_ends_it_and_tells_what_is_published(daemon, room, reader):
    with Slow(daemon, room) as upload:
        upload.chunk(line(0))
        upload.chunk(line(1) + b'{"kind":')
        last = reader.take(2)[-1].data["seq"]
        daemon.process.send_signal(signal.SIGTERM)
        found = upload.refusal(503, "stopping")
    assert (found["published"], found["last_seq"]) == (2, last)
    assert daemon.wait() == 0
    daemon.start()
    assert numbers(daemon.all_events(room)) == [0, 1]


def test_it_ends_with_its_token(start_daemon, room, sse):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
    reader = follow(sse, daemon, room)
    api = Api(daemon.url, mint(ttl=2, roles=["operator"]))
    api.address = daemon.address
    with Slow(api, room) as upload:
        upload.chunk(line(0))
        assert number(reader) == 0
        found = upload.refusal(401, "token-expired")
    assert found["published"] == 1


@pytest.mark.parametrize("at", ["rest", "step"])
def test_it_ends_when_its_key_is_taken_back(start_daemon, room, sse, at):
    daemon = start_daemon()
    made = daemon.run("key", "create", "pump", "--role", "operator")
    assert made.code == 0, made
    key = made.stdout.strip()
    eventually(lambda: daemon.get("/v1/rooms", key=key).status_code == 200, "the key is taken", timeout=6)
    reader = follow(sse, daemon, room)
    api = Api(daemon.url, key)
    api.address = daemon.address
    with Slow(api, room) as upload:
        upload.chunk(line(0))
        assert number(reader) == 0
        assert daemon.run("key", "revoke", "pump").code == 0
        eventually(lambda: daemon.get("/v1/rooms", key=key).status_code == 401, "the key is taken back", timeout=6)
        if at == "step":
            upload.chunk(line(1))
        found = upload.refusal(401, "token-revoked", timeout=5)
    assert found["published"] == 1 and numbers(daemon.all_events(room)) == [0]


@pytest.mark.parametrize("query, key, status", [("ack=later", "", 400), ("ac=memory", "", 400), ("", "wrong", 401), ("", "reader", 403)],
                         ids=["ack", "parameter", "key", "rights"])
def test_a_head_that_is_not_right_is_refused_at_once(start_daemon, room, query, key, status):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
    key = {"": daemon.key, "reader": mint(roles=["viewer"])}.get(key, key)
    url = f"POST /v1/rooms/{room}/events?{query} HTTP/1.1"
    with Raw(daemon) as connection:
        connection.send(request(daemon, url, LINES, f"Authorization: Bearer {key}", "Transfer-Encoding: chunked", key=False))
        answer = connection.answer()
    assert answer.status == status and "published" not in json.loads(answer.body), answer
    assert daemon.room(room) is None


def test_one_publishers_rooms_are_counted_here_too(start_daemon, room):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__ROOMS_PER_PUBLISHER=1)
    api = Api(daemon.url, mint(roles=["operator"]))
    bodies = [api.request("POST", f"/v1/rooms/{name}/events", data=iter([line(0)]), headers={"Content-Type": "application/x-ndjson"})
              for name in (room, room + "2")]
    assert bodies[0].status_code == 202
    problem(bodies[1], 429, kind="too-many-rooms")
