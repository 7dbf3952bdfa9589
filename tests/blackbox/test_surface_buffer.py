"""The surface `buffer`: what its dashboard is promised, row by row. Messages are taken one at a time, written in batches, read back
newest first, and counted in a stream of figures."""

import json
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from harness.api import instant
from harness.load import in_threads
from harness.postgres import Postgres
from harness.process import Lines, eventually, kill, spawn
from harness.tokens import SECRET, mint

JS = Path(__file__).parent / "js"
FIELDS = {"total_messages", "current_rps", "messages_per_second", "queue_depth", "queue_length", "total_batches", "avg_batch_size", "timestamp"}
MILLISECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def post(daemon, body, session=None, **options):
    """A message as a dashboard posts it; the answer as it came."""
    return (session or daemon.session).post(f"{daemon.url}/messages", json=body, timeout=20,
                                            headers={"Authorization": f"Bearer {daemon.key}"}, **options)


def message(n, **more):
    return {"user_id": n, "channel_id": 1, "content": f"Test {n}", **more}


def take(daemon, numbers):
    """Posts a message for each number and returns the answers."""
    answers = [post(daemon, message(n)) for n in numbers]
    assert all(answer.status_code == 202 for answer in answers), [answer.text for answer in answers if answer.status_code != 202]
    return [answer.json() for answer in answers]


def newest(daemon, **params):
    answer = daemon.get("/messages", params=params)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.json()


class Stats:
    """A reader of /ws/stats."""

    def __init__(self, daemon, query="", headers=None):
        headers = {"Authorization": f"Bearer {daemon.key}"} if headers is None else headers
        self.connection = connect(f"ws://{daemon.address}/ws/stats{query}", additional_headers=headers, proxy=None, compression=None,
                                  ping_interval=None, close_timeout=1, legacy=True)

    def next(self, timeout=5):
        return json.loads(self.connection.recv(timeout))

    def until(self, wanted, timeout=15):
        deadline = time.monotonic() + timeout
        while True:
            found = self.next(max(0.01, deadline - time.monotonic()))
            if wanted(found):
                return found


@pytest.fixture
def store(request):
    """Where messages are kept: in the log, or where a test is for both, in a real PostgreSQL too."""
    if getattr(request, "param", "embedded") == "embedded":
        yield None
        return
    server = Postgres()
    yield server.start()
    server.end()


@pytest.fixture
def daemon(start_daemon, store):
    """A running daemon over that store."""
    return start_daemon(**({"SINK__DATABASE_URL": store.url, "SINK__RETRY_MAX": "200ms", "SINK__CONNECT_TIMEOUT": "1s"} if store else {}))


BOTH = pytest.mark.parametrize("store", ["embedded", "postgres"], indirect=True)
POSTGRES = pytest.mark.parametrize("store", ["postgres"], indirect=True)


@pytest.fixture
def stats():
    """Opens readers of /ws/stats."""
    opened = []

    def begin(*arguments, **options):
        opened.append(Stats(*arguments, **options))
        return opened[-1]

    yield begin
    for reader in opened:
        reader.connection.close()


class TestIngest:
    """POST /messages → 202 with an id; 422 says which field; durable before the answer."""

    @BOTH
    def test_a_hundred_curls_at_once_are_all_taken_and_numbered(self, daemon):
        def curl(n):
            return subprocess.Popen(["curl", "-sS", "--noproxy", "*", "-X", "POST", f"{daemon.url}/messages", "-H", "Content-Type: application/json",
                                     "-H", f"Authorization: Bearer {daemon.key}", "-w", "\n%{http_code}",
                                     "-d", json.dumps({"user_id": n, "channel_id": 1, "content": f"Test {n}"})],
                                    stdout=subprocess.PIPE, text=True)

        outputs = [child.communicate(timeout=60)[0].rsplit("\n", 1) for child in [curl(n) for n in range(1, 101)]]
        assert {status for _, status in outputs} == {"202"}
        answers = [json.loads(body) for body, _ in outputs]
        assert {answer["status"] for answer in answers} == {"queued"}
        assert len({answer["id"] for answer in answers}) == 100
        seqs = sorted(answer["seq"] for answer in answers)
        assert seqs == list(range(seqs[0], seqs[0] + 100))
        kept = eventually(lambda: len(found := newest(daemon, limit=1000)) == 100 and found, "all hundred are kept")
        assert sorted(found["user_id"] for found in kept) == list(range(1, 101))
        assert {found["id"] for found in kept} == {answer["id"] for answer in answers}

    @BOTH
    def test_users_and_channels_may_be_texts_and_come_back_as_they_were_sent(self, daemon):
        told = post(daemon, {"user_id": "ann", "channel_id": 18446744073709551615, "content": "Grüße 🌊\n", "mood": "fine"}).json()
        found = eventually(lambda: newest(daemon), "it is kept")[0]
        assert {name: found[name] for name in ("id", "seq", "user_id", "channel_id", "content")} == {
            "id": told["id"], "seq": told["seq"], "user_id": "ann", "channel_id": 18446744073709551615, "content": "Grüße 🌊\n"}
        assert re.fullmatch(MILLISECONDS, found["created_at"]) and abs(instant(found["created_at"]) - time.time()) < 20

    @pytest.mark.parametrize("body, places", [
        ({}, ["user_id", "channel_id", "content"]),
        ({"user_id": 1, "channel_id": 1}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": ""}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": " \n"}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": 5}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": None}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": "a\0b"}, ["content"]),
        ({"user_id": 1, "channel_id": 1, "content": "x" * 70000}, ["content"]),
        ({"user_id": 1.5, "channel_id": True, "content": "x"}, ["user_id", "channel_id"]),
        ({"user_id": "", "channel_id": [1], "content": "x"}, ["user_id", "channel_id"]),
        ({"user_id": 1, "channel_id": 1, "content": "x", "id": {}}, ["id"]),
        ([], [None]),
        ("text", [None]),
    ], ids=lambda value: json.dumps(value)[:40])
    def test_a_wrong_message_is_422_and_every_wrong_field_is_named(self, daemon, body, places):
        answer = post(daemon, body)
        assert answer.status_code == 422 and answer.headers["content-type"] == "application/json", answer.text
        detail = answer.json()["detail"]
        assert [fault["loc"] for fault in detail] == [["body", *([place] if place else [])] for place in places]
        assert all(set(fault) == {"loc", "msg", "type"} and fault["msg"] and fault["type"] for fault in detail)
        assert daemon.room("messages") is None, "something was published"

    def test_what_is_not_json_is_422_too_and_another_type_of_body_415(self, daemon):
        def send(body, kind):
            return daemon.request("POST", "/messages", data=body, headers={"Content-Type": kind})

        broken = send(b'{"user_id": 1,', "application/json")
        assert (broken.status_code, broken.json()["detail"][0]["loc"], broken.json()["detail"][0]["type"]) == (422, ["body"], "json_invalid")
        other = send(b"user_id=1", "text/plain")
        assert other.status_code == 415 and isinstance(other.json()["detail"], str)

    @BOTH
    def test_what_was_answered_survives_a_kill_at_once(self, daemon):
        for n in range(3):
            told = take(daemon, [n])[0]
            daemon.kill9()
            daemon.start()
            eventually(lambda: [found["id"] for found in newest(daemon, limit=1)] == [told["id"]], "the newest is there")

    def test_a_message_with_an_id_of_its_own_is_taken_once(self, daemon):
        first, again = post(daemon, message(1, id="m-1")), post(daemon, message(1, id="m-1"))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == {"id": "m-1", "status": "queued", "seq": first.json()["seq"]}
        assert again.json() == {**first.json(), "duplicate": True}
        assert post(daemon, message(2, id=12)).json()["id"] == "12"
        assert [event["data"]["id"] for event in daemon.all_events("messages")] == ["m-1", "12"]

    def test_what_is_published_to_the_room_is_a_message_and_a_message_is_an_event_of_the_room(self, daemon, ws):
        reader = ws(daemon, "messages")
        told = take(daemon, [7])[0]
        event = reader.event()
        assert (event["kind"], event["seq"]) == ("message", told["seq"]) and "key" not in event
        assert event["data"] == {"id": told["id"], **message(7)}
        daemon.publish("messages", {"kind": "message", "data": {"user_id": "native", "channel_id": 2, "content": "hello"}})
        found = eventually(lambda: len(found := newest(daemon)) == 2 and found, "both are kept")[0]
        assert (found["user_id"], found["channel_id"], found["content"]) == ("native", 2, "hello")

    def test_who_may_not_is_told_in_the_surfaces_words(self, start_daemon):
        daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
        nobody = requests.post(f"{daemon.url}/messages", json=message(1), timeout=20)
        assert nobody.status_code == 401 and nobody.headers["www-authenticate"] == "Bearer" and set(nobody.json()) == {"detail"}
        viewer = mint(sub="v", roles=["viewer"], rooms=["messages"])
        answer = daemon.request("POST", "/messages", key=viewer, json=message(1))
        assert answer.status_code == 403 and set(answer.json()) == {"detail"}
        assert daemon.get("/messages", key=viewer).status_code == 200
        assert daemon.get("/messages", key=mint(sub="o", roles=["viewer"], rooms=["other"])).status_code == 403
        assert daemon.get(f"/messages?token={daemon.key}", key=None).status_code == 200

    def test_who_posts_too_much_is_told_when_to_come_back(self, start_daemon):
        daemon = start_daemon(LIMITS__PER_USER_PUBLISHES_PER_SECOND="1")
        answers = [post(daemon, message(n)) for n in range(5)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and answers[0].status_code == 202
        assert set(refused[0].json()) == {"detail"} and int(refused[0].headers["retry-after"]) >= 1

    def test_the_dashboards_origin_may_call(self, daemon):
        asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
        preflight = daemon.request("OPTIONS", "/messages", key=None, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert {"GET", "POST", "OPTIONS"} <= set(re.split(r",\s*", preflight.headers["access-control-allow-methods"]))
        other = daemon.request("OPTIONS", "/messages", key=None, headers={**asked, "Origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in other.headers


@BOTH
class TestBatches:
    """50 messages or 2 s, whichever is first, in one step; nothing lost, none twice."""

    def test_fifty_make_a_batch_at_once_and_the_rest_after_two_seconds(self, daemon, stats):
        reader = stats(daemon)
        began = time.monotonic()
        in_threads([lambda n=n: post(daemon, message(n), session=requests.Session()) for n in range(60)])
        full = reader.until(lambda found: found["total_batches"] >= 1)
        assert (full["total_messages"], full["total_batches"], full["avg_batch_size"], full["queue_depth"]) == (50, 1, 50.0, 10), full
        rest = reader.until(lambda found: found["total_batches"] >= 2)
        assert (rest["total_messages"], rest["total_batches"], rest["avg_batch_size"], rest["queue_depth"]) == (60, 2, 30.0, 0), rest
        assert time.monotonic() - began > 1.9, "the second batch did not wait for more"

    def test_a_single_message_waits_two_seconds_for_others(self, daemon, stats):
        reader = stats(daemon)
        began = time.monotonic()
        take(daemon, [1])
        assert reader.until(lambda found: found["queue_depth"] == 1)["total_messages"] == 0
        assert reader.until(lambda found: found["total_messages"] == 1)["queue_depth"] == 0
        assert 1.9 < time.monotonic() - began < 6


@POSTGRES
class TestWhileTheDatabaseIsAway:
    """The sink down: messages wait in the log, nothing lost, none twice."""

    def test_messages_are_taken_and_wait_and_are_kept_once_when_it_is_back(self, daemon, store, stats):
        reader = stats(daemon)
        told = take(daemon, range(5))
        reader.until(lambda found: found["total_messages"] == 5)
        store.kill9()
        told += take(daemon, range(5, 70))
        waiting = reader.until(lambda found: found["queue_depth"] == 65)
        assert (waiting["total_messages"], waiting["queue_length"]) == (5, 65), waiting
        away = daemon.get("/messages")
        assert away.status_code == 503 and set(away.json()) == {"detail"} and "retry-after" in away.headers
        assert "127.0.0.1" not in away.text and str(store.port) not in away.text
        eventually(lambda: daemon.get("/health", key=None).json()["status"] == "degraded", "health says so")
        store.start()
        back = reader.until(lambda found: found["queue_depth"] == 0, timeout=30)
        assert back["total_messages"] == 70, back
        assert [found["id"] for found in newest(daemon, limit=1000)] == [answer["id"] for answer in reversed(told)]
        eventually(lambda: daemon.get("/health", key=None).json()["status"] == "ok", "health says so")

    def test_a_daemon_killed_meanwhile_brings_them_after_its_start(self, daemon, store, stats):
        told = take(daemon, range(3))
        store.kill9()
        told += take(daemon, range(3, 60))
        daemon.kill9()
        daemon.start()
        told += take(daemon, range(60, 63))
        store.start()
        final = stats(daemon).until(lambda found: found["total_messages"] == 63 and found["queue_depth"] == 0, timeout=30)
        assert final["total_batches"] >= 2
        assert [found["id"] for found in newest(daemon, limit=1000)] == [answer["id"] for answer in reversed(told)]

    def test_a_batch_is_written_as_a_whole_or_not_at_all(self, daemon, store, stats):
        """One transaction: whoever looks into the database sees fifty or none, and total and rows always agree."""
        reader = stats(daemon)
        daemon.publish("messages", [{"kind": "message", "data": message(n)} for n in range(500)])
        seen = []
        while not seen or seen[-1][0] < 500:
            # A single statement sees one moment.
            seen += store.query("SELECT (SELECT count(*) FROM tidegate_events), "
                                "(SELECT coalesce(sum(messages), 0)::bigint FROM tidegate_sinks WHERE name = 'buffer')")
        assert all(rows % 50 == 0 and rows == total for rows, total in seen), seen
        final = reader.until(lambda found: found["total_messages"] == 500)
        assert (final["total_batches"], final["avg_batch_size"]) == (10, 50.0), final


class TestStats:
    """WebSocket /ws/stats: the figures every 500 ms."""

    def test_the_first_comes_at_once_and_has_just_these_fields(self, daemon, stats):
        found = stats(daemon).next(0.4)
        assert set(found) == FIELDS
        assert all(found[name] == 0 for name in FIELDS - {"timestamp"})
        assert re.fullmatch(MILLISECONDS, found["timestamp"]) and abs(instant(found["timestamp"]) - time.time()) < 5

    def test_one_comes_every_half_second_to_each_reader(self, daemon, stats):
        readers = [stats(daemon) for _ in range(3)]
        for reader in readers:
            reader.next()
            found = [reader.next() for _ in range(7)]
            assert all(set(one) == FIELDS for one in found)
            gaps = [instant(b["timestamp"]) - instant(a["timestamp"]) for a, b in zip(found, found[1:])]
            assert 0.45 < sum(gaps) / len(gaps) < 0.55 and max(gaps) < 1.2, gaps

    def test_the_rate_counts_messages_over_ten_seconds(self, daemon, stats):
        reader = stats(daemon)
        daemon.publish("messages", [{"kind": "message", "data": message(n)} for n in range(100)])
        found = reader.until(lambda found: found["total_messages"] == 100)
        assert found["current_rps"] == found["messages_per_second"] == 10.0, "messages, not batches"
        stored = time.monotonic()
        assert found["queue_depth"] == found["queue_length"] == 0
        gone = reader.until(lambda found: found["current_rps"] == 0.0, timeout=20)
        assert 9 < time.monotonic() - stored < 14 and gone["total_messages"] == 100

    def test_who_comes_back_with_a_cursor_gets_the_figures_since_in_their_order(self, daemon, stats):
        reader = stats(daemon)
        reader.next()  # the moment's, which is nobody else's
        told = [reader.next() for _ in range(4)]
        again = stats(daemon, "?last_event_id=0")
        assert [again.next() for _ in range(4)] == told
        seq = next(event["seq"] for event in daemon.all_events("sink:buffer") if event["data"] == told[1])
        assert stats(daemon, f"?last_event_id={seq}").next() == told[2]
        header = stats(daemon, "?last_event_id=0", headers={"Authorization": f"Bearer {daemon.key}", "Last-Event-ID": str(seq)})
        assert header.next() == told[2], "the header wins"

    def test_the_same_comes_over_sse(self, daemon):
        child = spawn(["curl", "-sSN", "--noproxy", "*", f"{daemon.url}/ws/stats?access_token={daemon.key}"], stdout=subprocess.PIPE)
        lines = Lines(child.stdout)
        assert lines.wait_for(r"^data: \{.*total_messages", 5) and lines.wait_for(r"^data: \{.*total_messages", 5, start=4)
        kill(child)
        assert set(json.loads(re.search(r"^data: (.*)$", lines.text(), re.M).group(1))) == FIELDS

    def test_who_is_not_understood_is_told_and_stays(self, daemon, stats):
        reader = stats(daemon)
        reader.next()
        for said, code in [("hello", "invalid_json"), ('{"type":"subscribe"}', "unknown_type"), ("[1]", "unknown_type"), (b"\1", "binary_unsupported")]:
            reader.connection.send(said)
            error = reader.until(lambda found: "type" in found)
            assert (error["type"], error["code"]) == ("error", code) and error["detail"]
        reader.connection.send('{"type":"ping","data":{"sent":1}}')
        assert reader.until(lambda found: "type" in found) == {"type": "pong", "data": {"sent": 1}}
        assert set(reader.next()) == FIELDS

    def test_who_says_too_much_at_once_is_told_and_closed(self, start_daemon, stats):
        daemon = start_daemon(LIMITS__MAX_MESSAGE_BYTES="1KiB")
        reader = stats(daemon)
        reader.connection.send(json.dumps({"type": "ping", "data": "x" * 2000}))
        error = reader.until(lambda found: "type" in found)
        assert (error["type"], error["code"]) == ("error", "message_too_big")
        with pytest.raises(ConnectionClosed) as closed:
            reader.until(lambda found: False)
        assert closed.value.rcvd.code == 1009

    def test_who_says_too_much_too_often_is_told_when_to_go_on_and_then_closed(self, start_daemon, stats):
        reader = stats(start_daemon(LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND="2"))
        for _ in range(10):
            reader.connection.send('{"type":"ping"}')
        error = reader.until(lambda found: found.get("code") == "rate_limited")
        assert error["type"] == "error" and error["retryAfter"] >= 1 and error["detail"]
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(400):
                reader.connection.send('{"type":"ping"}')
            reader.until(lambda found: False)
        assert closed.value.rcvd.code == 1008

    def test_a_stream_without_a_credential_or_right_is_refused(self, start_daemon):
        daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        answer = daemon.get("/ws/stats", key=None, headers=upgrade)
        assert answer.status_code == 401 and set(answer.json()) == {"detail"}
        answer = daemon.get("/ws/stats", key=mint(sub="o", roles=["viewer"], rooms=["messages"]), headers=upgrade)
        assert answer.status_code == 403 and set(answer.json()) == {"detail"}
        Stats(daemon, headers={"Authorization": f"Bearer {mint(sub='o', roles=['viewer'], rooms=['sink:buffer'])}"}).connection.close()

    def test_the_dashboards_hook_in_node_gets_figures_polls_and_comes_back_after_a_restart(self, daemon):
        assert (JS / "node_modules").is_dir(), "run tests/setup, which installs the packages of tests/blackbox/js"
        child = spawn(["node", "stats.mjs", daemon.url, daemon.key], cwd=JS, stdout=subprocess.PIPE)
        lines = Lines(child.stdout)

        def told(pattern, start=0, timeout=20):
            found = lines.wait_for(pattern, timeout, start)
            assert found, f"{pattern} did not come:\n{lines.text()}"
            return json.loads(found.string)

        told('"open"')
        assert set(told('"what":"stats"')["fields"]) == FIELDS
        daemon.publish("messages", [{"kind": "message", "data": message(n)} for n in range(50)])
        told('"total_messages":50')
        polled = told('"what":"polled".*"status":200.*Test 49')
        assert polled["contents"] == [f"Test {n}" for n in range(49, -1, -1)] and polled["health"] == "ok"
        told('"what":"polled".*"status":304')
        daemon.restart()
        closed = told('"close"')["at"]
        back = told('"total_messages":50', start=next(at for at, line in enumerate(lines.text().splitlines()) if '"close"' in line))
        assert 2.9 < (back["at"] - closed) / 1000 < 15
        told('"points":20')
        kill(child)


PAGE = """<!doctype html><title>dashboard</title><script>
const api = %r, token = %r;
window.stats = []; window.polled = []; window.health = null; window.sent = [];
const socket = new WebSocket(api.replace('http', 'ws') + '/ws/stats?token=' + token);
socket.onmessage = (event) => stats.push(JSON.parse(event.data));
const asked = { headers: { Authorization: 'Bearer ' + token } };
const send = (n) => fetch(api + '/messages', { method: 'POST', headers: { ...asked.headers, 'Content-Type': 'application/json' },
  body: JSON.stringify({ user_id: n, channel_id: 1, content: 'from a page' }) }).then(async (answer) => sent.push([answer.status, await answer.json()]));
setInterval(async () => {
  polled = await (await fetch(api + '/messages?limit=20', asked)).json();
  health = await (await fetch(api + '/health')).json();
}, 500);
</script>"""


@pytest.fixture
def dashboard(start_daemon, browser):
    """A page of another origin, as a dashboard is, and the daemon that it calls."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write((PAGE % (daemon.url, daemon.key)).encode() if self.path == "/" else b"")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        origin = f"http://localhost:{server.server_port}"
        daemon = start_daemon(CORS__ORIGINS=origin)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(origin)
        yield daemon
        server.shutdown()


class TestInABrowser:
    """The dashboard as a page: figures by WebSocket, messages and health by polling."""

    def test_a_page_shows_figures_and_polls_messages_and_health(self, dashboard, browser):
        browser.wait("stats.length >= 2", "figures come")
        browser.run("Promise.all([1, 2, 3].map(send))")
        assert [status for status, _ in browser.run("sent")] == [202, 202, 202]
        browser.wait("stats.at(-1).total_messages === 3 && stats.at(-1).total_batches === 1", "they are counted")
        browser.wait("polled.length === 3 && health.status === 'ok'", "they are polled")
        assert browser.run("polled.map(one => one.content)") == ["from a page"] * 3
        assert set(browser.run("stats.at(-1)")) == FIELDS
        assert browser.errors == [], "red in the console"


@BOTH
class TestReads:
    """GET /messages?limit= newest first, and GET /health: what the dashboard polls."""

    def test_messages_come_newest_first_and_as_many_as_asked(self, daemon):
        told = take(daemon, range(60))
        eventually(lambda: len(newest(daemon, limit=1000)) == 60, "all are kept")
        assert [found["seq"] for found in newest(daemon, limit=1000)] == [answer["seq"] for answer in reversed(told)]
        assert [found["user_id"] for found in newest(daemon, limit=3)] == [59, 58, 57]
        assert len(newest(daemon)) == 50, "fifty where nothing is said"
        assert [found["user_id"] for found in newest(daemon, limit=1, _="12")] == [59], "unknown parameters are passed over"

    def test_before_the_first_message_there_is_an_empty_list(self, daemon):
        assert newest(daemon) == []

    @pytest.mark.parametrize("limit, rule", [("0", "greater_than_equal"), ("-1", "greater_than_equal"), ("1001", "less_than_equal"),
                                             ("ten", "int_parsing"), ("", "int_parsing"), ("1.5", "int_parsing")])
    def test_a_wrong_limit_is_422(self, daemon, limit, rule):
        answer = daemon.get("/messages", params={"limit": limit})
        assert answer.status_code == 422
        [fault] = answer.json()["detail"]
        assert (fault["loc"], fault["type"]) == (["query", "limit"], rule) and fault["msg"]

    def test_who_polls_and_has_it_is_told_so(self, daemon):
        take(daemon, range(3))
        eventually(lambda: len(newest(daemon)) == 3, "all are kept")
        first = daemon.get("/messages")
        tag = first.headers["etag"]
        again = daemon.get("/messages", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        take(daemon, [3])
        eventually(lambda: len(newest(daemon)) == 4, "the fourth is kept")
        assert daemon.get("/messages", headers={"If-None-Match": tag}).status_code == 200

    def test_health_is_open_and_the_same_as_api_health(self, daemon):
        health = daemon.get("/health", key=None)
        assert health.status_code == 200 and health.json()["status"] == "ok"
        assert set(health.json()) == set(daemon.get("/api/health", key=None).json())


@BOTH
class TestTotals:
    """Totals survive a restart, and a kill under load."""

    def test_totals_are_the_same_after_a_restart(self, daemon, stats):
        take(daemon, range(7))
        before = stats(daemon).until(lambda found: found["total_messages"] == 7)
        daemon.restart()
        after = stats(daemon).next()
        assert {name: after[name] for name in ("total_messages", "total_batches", "avg_batch_size", "queue_depth")} == {
            "total_messages": 7, "total_batches": before["total_batches"], "avg_batch_size": before["avg_batch_size"], "queue_depth": 0}

    def test_totals_are_exact_after_kills_under_load(self, daemon, stats):
        senders = [Sender(daemon, name) for name in "abc"]
        for _ in range(3):
            senders[0].wait_taken(40)
            daemon.kill9()
            daemon.start()
        taken = [one for sender in senders for one in sender.stop()]
        assert len(taken) == len(set(taken)) > 150
        final = stats(daemon).until(lambda found: found["total_messages"] >= len(taken) and found["queue_depth"] == 0, timeout=30)
        assert final["total_messages"] == len(taken)
        assert abs(final["avg_batch_size"] * final["total_batches"] - len(taken)) <= final["total_batches"] * 0.05 + 0.001
        kept = [found["id"] for found in newest(daemon, limit=1000)]
        assert len(kept) == len(set(kept)) and set(kept) == set(taken)


class Sender:
    """Posts messages with ids of their own from a thread, each again and again until it is taken, at most 300."""

    def __init__(self, daemon, name):
        self.daemon, self.name, self.taken, self.error = daemon, name, [], None
        self._stop, self._progress = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            n = 0
            while not self._stop.is_set() and n < 300:
                self._send(f"{self.name}-{n}", n)
                n += 1
        except Exception as error:  # shown by `stop`, in the test's own thread
            self.error = error

    def _send(self, key, n):
        with requests.Session() as session:
            session.trust_env = False
            while True:
                try:
                    answer = post(self.daemon, message(n, id=key), session=session)
                except requests.RequestException:
                    time.sleep(0.02)  # the daemon is away
                    continue
                if answer.status_code == 202:
                    break
                assert answer.status_code in (429, 503), answer.text
                time.sleep(0.02)
        with self._progress:
            self.taken.append(key)
            self._progress.notify_all()

    def wait_taken(self, count):
        with self._progress:
            goal = len(self.taken) + count
            assert self._progress.wait_for(lambda: len(self.taken) >= goal, 30), f"{len(self.taken)} of {goal} taken: {self.error}"

    def stop(self):
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive() and self.error is None, self.error
        return self.taken
