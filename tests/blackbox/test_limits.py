"""Limits for one address, one user, one connection and one body: a refusal names its limit and says when to come back, and 0 is off.

What counts as the client's address behind proxies is here too. Limits of logins are in test_login.py, of sizes in test_publish_refused.py.
"""

import gzip
import json
import threading
import time
import zlib

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from harness.api import Api, numbers, problem, seqs
from harness.load import assert_no_hole, in_threads
from harness.process import eventually
from harness.tokens import SECRET, mint
from harness.ws import refused

EVENT = {"kind": "k", "data": 1}
SSE = {"Accept": "text/event-stream"}


def over(answer, kind, limit):
    """A 429 that names the limit, and says in header and body when to come back; those seconds."""
    found = problem(answer, 429, kind=kind)
    assert limit in found["detail"], f"the limit is not named: {found}"
    seconds = int(answer.headers["retry-after"])
    assert seconds >= 1 and found.get("retryAfter") == seconds, f"{answer.headers} {found}"
    return seconds


def stream_status(daemon, rooms="x", key="", headers=None):
    """The status of an event stream that is closed at once."""
    with daemon.get("/v1/stream", params={"rooms": rooms}, key=key, headers={**SSE, **(headers or {})}, stream=True) as answer:
        return answer.status_code


def poll(daemon, key="", headers=None):
    return daemon.get("/v1/stream?rooms=x&wait=0s", key=key, headers=headers)


def forwarded(*addresses):
    return {"X-Forwarded-For": ", ".join(addresses)}


def test_streams_of_one_address_are_limited_on_every_transport(start_daemon, ws, sse):
    daemon = start_daemon(LIMITS__PER_IP_CONNECTIONS=2)
    ws(daemon, "x")
    sse(daemon, "x").welcome()
    answers = (refused(daemon, "x"), daemon.get("/v1/stream?rooms=x", headers=SSE, stream=True), poll(daemon))
    for answer in answers:
        over(answer, "too-many-connections", "per_ip_connections")
    assert daemon.get("/v1/rooms").status_code == 200, "other calls are no streams"


def test_a_place_is_given_back_when_a_stream_ends(start_daemon, ws, sse):
    daemon = start_daemon(LIMITS__PER_IP_CONNECTIONS=1)
    client = ws(daemon, "x")
    assert poll(daemon).status_code == 429
    client.close()
    eventually(lambda: poll(daemon).status_code == 200, "the place of the WebSocket is free", timeout=5)
    stream = sse(daemon, "x")
    stream.welcome()
    assert poll(daemon).status_code == 429
    stream.stop()
    eventually(lambda: poll(daemon).status_code == 200, "the place of the event stream is free", timeout=5)


def test_a_poll_takes_a_place_while_it_waits(start_daemon):
    daemon = start_daemon(LIMITS__PER_IP_CONNECTIONS=1)

    def wait():
        api = Api(daemon.url, daemon.key)
        while api.get("/v1/stream?rooms=y&wait=3s").status_code == 429:
            pass  # the other thread was looking just then

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    eventually(lambda: stream_status(daemon) == 429, "the poll holds the place", timeout=3)
    waiting.join(10)
    eventually(lambda: stream_status(daemon) == 200, "the place is free", timeout=5)


def test_streams_of_one_address_in_an_hour_are_limited(start_daemon, ws):
    daemon = start_daemon(LIMITS__PER_IP_CONNECTIONS_PER_HOUR=3)
    for _ in range(2):
        ws(daemon, "x").close()
    assert stream_status(daemon) == 200
    assert [poll(daemon).status_code for _ in range(5)] == [200] * 5, "polls do not count"
    assert over(refused(daemon, "x"), "too-many-connections", "per_ip_connections_per_hour") <= 3600
    over(daemon.get("/v1/stream?rooms=x", headers=SSE, stream=True), "too-many-connections", "per_ip_connections_per_hour")


def test_streams_of_one_user_are_limited_over_all_transports_and_tokens(start_daemon, ws, sse):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__PER_USER_CONNECTIONS=2)
    alice, again, bob = mint(sub="alice"), mint(sub="alice", ttl=900), mint(sub="bob")
    ws(daemon, "x", key=alice)
    stream = sse(daemon, "x", key=again)
    stream.welcome()
    for answer in (refused(daemon, "x", key=alice), daemon.get("/v1/stream?rooms=x", key=again, headers=SSE, stream=True), poll(daemon, key=alice)):
        over(answer, "too-many-connections", "per_user_connections")
    assert ws(daemon, "x", key=bob).alive() and ws(daemon, "x").alive(), "others are held up"
    stream.stop()
    eventually(lambda: poll(daemon, key=alice).status_code == 200, "the place is free", timeout=5)


def test_streams_opened_at_once_do_not_slip_past_the_limits(start_daemon, ws):
    for setting in ("PER_IP_CONNECTIONS", "PER_USER_CONNECTIONS", "PER_IP_CONNECTIONS_PER_HOUR"):
        daemon = start_daemon(**{f"LIMITS__{setting}": 3})
        opened = in_threads([lambda: clients_of(daemon, ws, ("9.9.9.9",)) for _ in range(16)])
        assert sum(found for [found] in opened) == 3, setting


@pytest.mark.parametrize("setting", [None, "0"], ids=["default", "off"])
def test_without_limits_nobody_is_limited(start_daemon, ws, setting):
    names = ("PER_IP_CONNECTIONS", "PER_IP_CONNECTIONS_PER_HOUR", "PER_USER_CONNECTIONS", "PER_CONNECTION_MESSAGES_PER_SECOND",
             "PER_CONNECTION_MESSAGES_PER_MINUTE", "PER_USER_PUBLISHES_PER_SECOND", "ROOMS_PER_PUBLISHER")
    daemon = start_daemon(**{f"LIMITS__{name}": setting for name in names})
    clients = [ws(daemon, "x") for _ in range(40)]
    for n in range(300):
        clients[0].send({"type": "ping", "data": n})
    assert [clients[0].until("pong")["data"] for _ in range(300)] == list(range(300))
    assert {daemon.post_events(f"a:{n}", json.dumps(EVENT)).status_code for n in range(60)} == {202}


def test_all_streams_together_are_limited(start_daemon, ws):
    daemon = start_daemon(LIMITS__CONNECTIONS=3)
    clients = [ws(daemon, "x") for _ in range(3)]
    answer = refused(daemon, "x")
    problem(answer, 429, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert daemon.get("/livez", key=None).status_code == 200, "the process answers, and its probe says that it does not"
    assert daemon.get("/v1/rooms").status_code == 200 and clients[0].alive()
    clients[0].close()
    eventually(lambda: stream_status(daemon) == 200, "the place is free", timeout=5)


def test_messages_over_the_rate_are_refused_and_not_done(start_daemon, ws, room):
    daemon = start_daemon(LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND=5)
    client, other = ws(daemon), ws(daemon)
    for n in range(9):
        client.send({"type": "publish", "id": str(n), "room": room, "kind": "n", "data": {"n": n}})
    answers = [client.next() for _ in range(9)]
    done = [int(answer["id"]) for answer in answers if answer["type"] == "published"]
    assert 5 <= len(done) < 9
    for answer in (answer for answer in answers if answer["type"] != "published"):
        assert (answer["type"], answer["code"]) == ("error", "rate_limited") and answer["retryAfter"] > 0
    assert numbers(daemon.history(room)["events"]) == done
    assert other.alive(), "another connection is held up"
    eventually(client_pings(client), "it is served again", timeout=3, every=0.4)


def client_pings(client):
    def ping():
        client.send({"type": "ping"})
        return client.next()["type"] == "pong"

    return ping


@pytest.mark.parametrize("setting", ["PER_CONNECTION_MESSAGES_PER_SECOND", "PER_CONNECTION_MESSAGES_PER_MINUTE"])
def test_a_client_that_does_not_slow_down_is_closed(start_daemon, ws, setting):
    daemon = start_daemon(**{f"LIMITS__{setting}": 5})
    client, other = ws(daemon, "x"), ws(daemon, "x")
    for n in range(60):
        try:
            client.send({"type": "ping", "data": n})
        except (OSError, ConnectionClosed):  # the close may come while we still send
            break
    code, before = client.closed()
    assert code == 1008
    errors = [message for message in before if message["type"] == "error"]
    assert len(errors) >= 10 and {message["code"] for message in errors[:9]} == {"rate_limited"}
    assert setting.lower() in json.dumps(errors), "the limit is not named"
    assert other.alive()


def test_a_client_over_the_rate_that_does_slow_down_is_kept(start_daemon, ws):
    daemon = start_daemon(LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND=3)
    client = ws(daemon, "x")
    refusals = 0
    while refusals < 15:
        for _ in range(6):
            client.send({"type": "ping"})
        answers = [client.next() for _ in range(6)]
        refusals += sum(answer["type"] == "error" for answer in answers)
        time.sleep(max([answer.get("retryAfter", 0) for answer in answers]))  # as it was told
    eventually(client_pings(client), "it is served", timeout=5, every=0.5)


def test_publishes_of_one_user_are_limited(start_daemon, room):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__PER_USER_PUBLISHES_PER_SECOND=5)
    alice, bob = (Api(daemon.url, mint(sub=name, roles=["operator"])) for name in ("alice", "bob"))
    answers = [alice.post_events(room, json.dumps(EVENT)) for _ in range(20)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {202, 429} and statuses[:5] == [202] * 5
    refusal = next(answer for answer in answers if answer.status_code == 429)
    seconds = over(refusal, None, "per_user_publishes_per_second")
    assert bob.post_events(room, json.dumps(EVENT)).status_code == 202, "another user is held up"
    assert len(daemon.all_events(room)) == statuses.count(202) + 1, "refused, and published nevertheless"
    time.sleep(seconds)  # as it was told
    assert alice.post_events(room, json.dumps(EVENT)).status_code == 202


def test_rooms_that_one_user_brings_to_be_are_limited(start_daemon, ws):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__ROOMS_PER_PUBLISHER=2)
    daemon.publish_numbers("old:1", range(1))
    alice, bob = (Api(daemon.url, mint(sub=name, roles=["operator"])) for name in ("alice", "bob"))
    for name in ("a:1", "a:2", "a:1", "old:1"):
        assert alice.post_events(name, json.dumps(EVENT)).status_code == 202, name
    found = problem(alice.post_events("a:3", json.dumps(EVENT)), 429, kind="too-many-rooms")
    assert "rooms_per_publisher" in found["detail"]
    client = ws(daemon, key=alice.key)
    assert client.ask({"type": "publish", "room": "a:3", **EVENT}, "error")["code"] == "too_many_rooms"
    assert client.ask({"type": "publish", "room": "a:2", **EVENT}, "published")
    assert daemon.room("a:3") is None
    assert bob.post_events("a:3", json.dumps(EVENT)).status_code == 202
    assert alice.post_events("a:3", json.dumps(EVENT)).status_code == 202, "it is there now, by another"


def test_rooms_brought_to_be_at_once_do_not_slip_past_the_limit(start_daemon):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__ROOMS_PER_PUBLISHER=3)
    for user in range(10):
        apis = [Api(daemon.url, mint(sub=f"user-{user}", roles=["operator"])) for _ in range(12)]
        for api in apis:
            api.get("/livez")  # each has its connection, so that all publish in the same moment
        statuses = in_threads([lambda n=n, api=api: api.post_events(f"{user}:{n}", json.dumps(EVENT)).status_code for n, api in enumerate(apis)])
        assert sorted(statuses) == [202] * 3 + [429] * 9
    assert daemon.get("/v1/rooms").json()["total"] == 30


def test_headers_are_limited(start_daemon):
    for setting, good, bad in ((None, 4_000, 20_000), ("32KiB", 20_000, 60_000)):
        daemon = start_daemon(LIMITS__HEADER_BYTES=setting)
        assert daemon.get("/v1/rooms", headers={"X-Pad": "x" * good}).status_code == 200
        assert daemon.get("/v1/rooms", headers={"X-Pad": "x" * bad}).status_code == 431


def nested(depth):
    return '{"kind":"k","data":' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize("setting, good, bad", [(None, 50, 70), (10, 5, 20), (200, 100, 300)], ids=["default", "10", "200"])
def test_the_depth_of_json_is_limited(start_daemon, ws, room, setting, good, bad):
    daemon = start_daemon(LIMITS__JSON_DEPTH=setting)
    assert daemon.post_events(room, nested(good)).status_code == 202
    found = json.dumps(problem(daemon.post_events(room, nested(bad)), 400, 413, 422))
    assert any(word in found for word in ("deep", "depth", "nested")), found
    client = ws(daemon)
    client.send('{"type":"publish","id":"1","room":"%s",%s' % (room, nested(bad)[1:]))
    assert client.until("error") and client.alive()
    client.send('{"type":"ping","data":%s%s}' % ("[" * bad, "]" * bad))
    assert client.until("error") and client.alive()
    assert len(daemon.history(room)["events"]) == 1


def gzipped(daemon, room, body, encoding="gzip", content_type="application/json"):
    headers = {"Content-Type": content_type, "Content-Encoding": encoding}
    return daemon.request("POST", f"/v1/rooms/{room}/events", data=body, headers=headers)


def test_a_gzip_body_is_taken(daemon, room):
    events = [{"kind": "n", "data": {"n": n}} for n in range(200)]
    lines = "\n".join(json.dumps(event) for event in events).encode()
    for encoding, body, kind in (("gzip", json.dumps(events).encode(), "application/json"), ("GZIP", lines, "application/x-ndjson")):
        answer = gzipped(daemon, room, gzip.compress(body), encoding, kind)
        assert answer.status_code == 202 and answer.json()["count"] == 200, answer.text
    assert numbers(daemon.all_events(room)) == list(range(200)) * 2


def test_a_gzip_body_counts_as_what_it_unpacks_to(start_daemon, room):
    daemon = start_daemon(LIMITS__BODY_BYTES="64KiB")
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(b" " * (1 << 20)) for _ in range(200)) + bomb.flush()
    before = daemon.rss_bytes()
    answer = gzipped(daemon, room, packed[:60_000])
    problem(answer, 413)
    assert answer.elapsed.total_seconds() < 2 and daemon.rss_bytes() - before < 32 << 20
    assert daemon.room(room) is None
    problem(gzipped(daemon, room, gzip.compress(json.dumps([{"kind": "k", "data": "x" * 1000}] * 70).encode())), 413)
    assert gzipped(daemon, room, gzip.compress(json.dumps([{"kind": "k", "data": "x" * 1000}] * 50).encode())).status_code == 202


@pytest.mark.parametrize("change", [lambda packed: packed[:-10], lambda packed: b"nonsense", lambda packed: packed[:20] + b"\0\0" + packed[22:],
                                    lambda packed: packed + b"trailing"], ids=["cut", "nonsense", "broken", "trailing"])
def test_a_gzip_body_that_is_broken_is_refused_whole(daemon, room, change):
    packed = gzip.compress(json.dumps([{"kind": "k", "data": n} for n in range(100)]).encode())
    problem(gzipped(daemon, room, change(packed)), 400)
    assert daemon.room(room) is None


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "nonsense"])
def test_another_encoding_is_refused(daemon, room, encoding):
    found = problem(gzipped(daemon, room, json.dumps(EVENT).encode(), encoding), 415)
    assert "gzip" in found["detail"], "it does not say what is taken"


def test_mailboxes_together_stay_within_their_limit_and_nobody_loses_an_event(start_daemon, ws):
    daemon = start_daemon(LIMITS__MAILBOXES_BYTES="1MiB", LIMITS__MAILBOX_BYTES="1MiB", LIMITS__MAILBOX_MESSAGES=10_000,
                          LIMITS__SEND_BUFFER="64KiB", LIMITS__WRITE_TIMEOUT="60s")
    slow = [ws(daemon, "well:1", slow=True) for _ in range(6)]
    quick = ws(daemon, "well:1")
    first = last = None
    for start in range(0, 3000, 250):
        told = daemon.publish_numbers("well:1", range(start, start + 250), pad=2000)
        first, last = first or told["first_seq"], told["last_seq"]
        assert metric(daemon, "tidegate_mailboxes_bytes") <= 3 << 20, "seven mailboxes fill up as they like"
        eventually(lambda: metric(daemon, "tidegate_mailboxes_bytes") <= 1.1 * (1 << 20), "the fullest have given up what waited", timeout=3)
        assert_no_hole(seqs(quick.take(250)), told["first_seq"], last)
    for client in slow:
        client.read_on()
        assert_no_hole(seqs(client.take(3000)), first, last)


def metric(daemon, name):
    """The sum of a metric's samples."""
    found = [line for line in daemon.get("/metrics").text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    assert found, f"no metric {name}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def clients_of(daemon, ws, *chains):
    """Opens a WebSocket for each chain of X-Forwarded-For; whether it was opened."""
    found = []
    for chain in chains:
        try:
            ws(daemon, "x", headers=forwarded(*chain))
            found.append(True)
        except InvalidStatus as refusal:
            assert refusal.response.status_code == 429
            found.append(False)
    return found


def test_behind_a_trusted_proxy_each_client_has_limits_of_its_own(start_daemon, ws):
    daemon = start_daemon(LIMITS__TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8", LIMITS__PER_IP_CONNECTIONS=1)
    chains = [("9.9.9.1",), ("9.9.9.2",), ("9.9.9.1",), ("2001:db8::1",), ("2001:db8::1",), ("9.9.9.3", "10.1.2.3"), ("9.9.9.3", "10.4.5.6")]
    assert clients_of(daemon, ws, *chains) == [True, True, False, True, False, True, False]


def test_a_client_cannot_choose_its_address_by_what_it_writes_before_the_proxy(start_daemon, ws):
    daemon = start_daemon(LIMITS__TRUSTED_PROXIES="127.0.0.1", LIMITS__PER_IP_CONNECTIONS=1)
    assert clients_of(daemon, ws, ("1.1.1.1", "9.9.9.9"), ("2.2.2.2", "9.9.9.9"), ("127.0.0.1", "9.9.9.9"), ("9.9.9.9", "127.0.0.1")) == [True] + [False] * 3


def test_without_a_trusted_proxy_the_header_means_nothing(start_daemon, ws):
    for proxies in (None, "10.0.0.0/8"):
        daemon = start_daemon(LIMITS__TRUSTED_PROXIES=proxies, LIMITS__PER_IP_CONNECTIONS=1)
        assert clients_of(daemon, ws, ("9.9.9.1",), ("9.9.9.2",)) == [True, False]


@pytest.mark.parametrize("value", ["nonsense", "", ",", "9.9.9.9.9", "unknown, unknown", "1.1.1.1;2.2.2.2", "x" * 3000])
def test_a_header_of_nonsense_counts_as_the_proxy_itself(start_daemon, ws, value):
    daemon = start_daemon(LIMITS__TRUSTED_PROXIES="127.0.0.1", LIMITS__PER_IP_CONNECTIONS=1)
    ws(daemon, "x", headers={"X-Forwarded-For": value})
    over(refused(daemon, "x"), "too-many-connections", "per_ip_connections")
    assert ws(daemon, "x", headers=forwarded("9.9.9.9")).alive()


@pytest.mark.parametrize("value", ["localhost", "10.0.0.0/33", "300.1.1.1", "::/200"])
def test_a_proxy_that_is_no_address_is_a_fault_at_start(start_daemon, value):
    result = start_daemon(started=False).run("check", LIMITS__TRUSTED_PROXIES=value)
    assert result.code == 2 and "limits.trusted_proxies" in result.stderr.lower().replace("__", "."), result
