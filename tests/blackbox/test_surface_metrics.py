"""The surface `metrics`: requests to models, reported by POST, computed by pipelines, shown by one stream over WebSocket and SSE. A class for each row of its contract, in the contract's order."""

import gzip
import json
import math
import random
import socket
import subprocess
import time
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from harness.api import problem
from harness.node import Script
from harness.pipelines import SETTINGS as ADMIN_SETTINGS
from harness.pipelines import applied, listed, state, working
from harness.process import eventually
from harness.tokens import mint

SETTINGS = {**ADMIN_SETTINGS, "PIPELINES__BUILTIN": "true", "SURFACES__ENABLED": "metrics"}
WAIT = 15
TYPES = ["metrics_update", "model_update", "request_update", "error_update", "system_update", "heartbeat", "pong", "init", "rate_limit_update",
         "cost_update", "kv_cache_update"]
# What an average is off by when it is taken in another order.
ROUNDING = 1e-9
# What the quantiles' sketch may be off by, as docs/pipelines.md says.
SKETCH = 0.01


@pytest.fixture
def start(start_daemon):
    """Starts a daemon with the surface, whose pipelines work."""
    return lambda **settings: working(start_daemon(**{**SETTINGS, **settings}))


@pytest.fixture
def node():
    """The JavaScript clients."""
    scripts = []

    def begin():
        scripts.append(Script("metrics.mjs"))
        return scripts[-1]

    yield begin
    for script in scripts:
        script.stop()


@pytest.fixture
def stream():
    """Opens the stream by a foreign WebSocket client."""
    opened = []

    def begin(daemon, **params):
        opened.append(Stream(daemon, **params))
        return opened[-1]

    yield begin
    for one in opened:
        one.connection.close()


class Stream:
    """The stream by the library `websockets`. `seen` are all its messages."""

    def __init__(self, daemon, key="", header=True, slow=False, **params):
        key = daemon.key if key == "" else key
        if key and not header:
            params["token"] = key
        headers = {"Authorization": f"Bearer {key}"} if key and header else {}
        host, port = daemon.address.rsplit(":", 1)
        sock = socket.socket()
        if slow:
            # Not calling `next` then makes the server feel a slow reader.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.connect((host, int(port)))
        self.connection = connect(address(daemon, **params), sock=sock, additional_headers=headers, proxy=None, compression=None, close_timeout=1,
                                  max_size=None, max_queue=(2, 1) if slow else 1024, legacy=True)
        self.seen = []

    def next(self, timeout=WAIT):
        try:
            text = self.connection.recv(timeout)
        except TimeoutError:
            raise AssertionError(f"no message within {timeout} s; the last: {self.seen[-5:]}") from None
        self.seen.append(json.loads(text))
        return self.seen[-1]

    def until(self, wanted, timeout=WAIT):
        """The next message that is wanted: a type, or what is true of it."""
        true_of = wanted if callable(wanted) else lambda message: message["type"] == wanted
        deadline = time.monotonic() + timeout
        while not true_of(message := self.next(max(0.01, deadline - time.monotonic()))):
            pass
        return message

    def say(self, message):
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def ping(self):
        """Everything that was said before is done when the answer is there; the messages up to it."""
        before, data = len(self.seen), {"n": time.monotonic()}
        self.say({"type": "ping", "data": data})
        self.until(lambda message: message["type"] == "pong" and message["data"] == data)
        return self.seen[before:-1]


def address(daemon, scheme="ws", **params):
    return f"{scheme}://{daemon.address}/metrics/stream" + (f"?{urlencode(params)}" if params else "")


def record(model="gpt-4", latency_ms=100, **more):
    return {"model": model, "latency_ms": latency_ms, "status": "success", "input_tokens": 10, "output_tokens": 20, "streamed": False, "cost": 0.01, **more}


def report(daemon, *records, status=202, path="/metrics/requests", **options):
    """Reports requests as a list; the answer."""
    answer = daemon.request("POST", path, json=list(records), **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def say(daemon, kind, data):
    """Reports something else."""
    answer = daemon.request("POST", "/metrics/report", json={"kind": kind, "data": data})
    assert answer.status_code == 202, answer.text


def totals(count):
    """Whether a message is about so many requests."""
    return lambda message: message["type"] == "metrics_update" and message["data"]["total_requests"] == count


def numbered(messages):
    """The messages of the room, which have its numbers."""
    return [message for message in messages if "sequence" in message and message["type"] != "init"]


def unbroken(messages, after):
    """Their numbers are those after `after`, without a gap."""
    found = [message["sequence"] for message in numbered(messages)]
    assert found == list(range(after + 1, after + 1 + len(found))), f"after {after}: {found}"
    return found


def known(daemon):
    """What newcomers begin with: the table of `metrics:now`, without the messages' numbers."""
    table = (state(daemon, "metrics:now") or {"data": {}})["data"]
    return {name: entry["data"] for name, entry in table.items()}


def counted(daemon, count):
    """Waits until so many requests are in all figures: the totals, those of the models, the costs, and the newest requests."""
    def look():
        table = known(daemon)
        total = table.get("metrics_update", {"total_requests": 0})
        models = [one for name, one in table.items() if name.startswith("model_update:")]
        return (total["total_requests"] == sum(one["request_count"] for one in models) == count
                and table.get("cost_update", {"total_cost": -1})["total_cost"] == pytest.approx(total["total_cost"])
                and sum(name.startswith("request_update:") for name in table) == min(count, 100))

    eventually(look, f"{count} requests are in all figures", 30)


def lasting(figures):
    """Figures without those that change with time alone."""
    return {name: value for name, value in figures.items() if name not in ("requests_per_second", "tokens_per_second", "active_connections")}


class TestStream:
    """stream: WebSocket and SSE at /metrics/stream, {type, timestamp, sequence, data, metadata?}, sequence is the room's."""

    def test_every_message_has_the_documents_shape(self, start, stream):
        daemon = start()
        client = stream(daemon)
        before = time.time() * 1000
        report(daemon, record())
        client.until(totals(1))
        for message in client.seen:
            assert message["type"] in TYPES and isinstance(message["data"], dict), message
            assert type(message["timestamp"]) is int and before - 5000 < message["timestamp"] < before + 30_000, message
            assert type(message["sequence"]) is int, message
            assert set(message) <= {"type", "timestamp", "sequence", "data", "metadata"}, message

    def test_the_sequence_is_the_rooms_and_the_messages_are_its_events(self, start, stream):
        daemon = start()
        client = stream(daemon)
        report(daemon, record(), record("other", status=500))
        client.until(totals(2))
        client.until("cost_update")
        shown = numbered(client.seen)
        events = daemon.history("metrics:stream", after=str(client.seen[0]["sequence"]))["events"][:len(shown)]
        assert [(event["seq"], event["kind"], event["data"]) for event in events] == [(m["sequence"], m["type"], m["data"]) for m in shown]

    def test_sse_at_the_same_address_says_the_same(self, start, stream, sse_client):
        daemon = start()
        one, other = stream(daemon), sse_client(daemon)
        report(daemon, record())
        one.until(totals(1))
        found = other.until(totals(1))
        assert found == one.seen[-1]
        first = other.seen[0]
        assert first["type"] == "init"
        assert numbered(other.seen) == [message for message in numbered(one.seen) if message["sequence"] > first["sequence"]]

    def test_a_browsers_eventsource_gets_every_message_by_onmessage(self, start, node):
        daemon = start()
        script = node()
        script.do("events", url=address(daemon, "http", token=daemon.key))
        assert script.next()["message"]["type"] == "init"
        report(daemon, record())
        told = script.next(lambda told: totals(1)(told["message"]))
        assert told["id"] == str(told["message"]["sequence"])

    def test_a_page_in_chromium_has_both_and_they_say_the_same(self, start, browser):
        daemon = start()
        browser.call("Page.setBypassCSP", enabled=True)  # the probe's page is only borrowed for its origin
        browser.open(f"{daemon.url}/livez")
        browser.run(f"""
            window.heard = []; window.read = [];
            window.socket = new WebSocket({json.dumps(address(daemon, token=daemon.key))});
            socket.onmessage = message => heard.push(JSON.parse(message.data));
            window.source = new EventSource({json.dumps(address(daemon, "http", token=daemon.key))});
            source.onmessage = message => read.push(JSON.parse(message.data)); 0""")
        browser.wait("heard.length > 0 && read.length > 0", "both begin")
        report(daemon, record(id="a"))
        for name in ("heard", "read"):
            browser.wait(f"{name}.some(message => message.type === 'metrics_update' && message.data.total_requests === 1)", f"{name} the figures")
            assert browser.run(f"{name}[0].type") == "init"
            assert browser.run(f"{name}.filter(message => message.type === 'request_update').map(message => message.data.id)") == ["a"]

    def test_sse_is_packed_for_those_who_take_it(self, start):
        daemon = start()
        report(daemon, *[record(f"model {n}") for n in range(50)])
        counted(daemon, 50)
        found = subprocess.run(["curl", "-sSN", "--max-time", "3", "--noproxy", "*", "-H", f"Authorization: Bearer {daemon.key}",
                                "-H", "Accept-Encoding: gzip", address(daemon, "http")], capture_output=True, check=False).stdout
        text = subprocess.run(["gzip", "-dc"], input=found, capture_output=True, check=False).stdout.decode()
        first = json.loads(next(line for line in text.splitlines() if line.startswith("data: "))[6:])
        assert len(first["data"]["models"]) == 50 and len(found) < len(text) / 3

    def test_an_event_published_natively_appears_and_is_known_to_those_who_come(self, start, stream):
        daemon = start()
        client = stream(daemon)
        data = {"cache_hits": 7, "hit_rate": 0.5}
        seq = daemon.publish("metrics:stream", {"kind": "kv_cache_update", "data": data})["last_seq"]
        found = client.until("kv_cache_update")
        assert (found["sequence"], found["data"]) == (seq, data)
        daemon.publish("metrics:requests", {"kind": "request", "data": record()})
        client.until(totals(1))
        eventually(lambda: stream(daemon).next()["data"]["kv_cache"] == data, "it is known")


class Events:
    """The stream by curl."""

    def __init__(self, daemon, header=None, key="", **params):
        command = ["curl", "-sSN", "--noproxy", "*", "--http1.1"]
        if key is not None:
            command += ["-H", f"Authorization: Bearer {key or daemon.key}"]
        if header is not None:
            command += ["-H", f"Last-Event-ID: {header}"]
        self.child = subprocess.Popen([*command, address(daemon, "http", **params)], stdout=subprocess.PIPE, text=True)
        self.seen, self.ids = [], []

    def next(self):
        message = None
        for line in self.child.stdout:
            assert not line.startswith("event:"), "a message has a name"
            if line.startswith("data: "):
                message = json.loads(line[6:])
            elif line.startswith("id: "):
                self.ids.append(line[4:].strip())
            elif line == "\n" and message is not None:
                self.seen.append(message)
                return message
        raise AssertionError("the stream ended")

    def until(self, wanted):
        while not wanted(message := self.next()):
            pass
        return message

    def stop(self):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


@pytest.fixture
def sse_client():
    """Opens the stream by curl."""
    opened = []

    def begin(*arguments, **options):
        opened.append(Events(*arguments, **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.stop()


class TestFirstMessage:
    """first message: init with everything known: metrics, models, recent requests, recent errors, system, rate limits, costs, KV cache."""

    KEYS = {"metrics", "models", "recent_requests", "recent_errors", "system", "rate_limits", "costs", "kv_cache"}

    def test_where_nothing_has_happened_everything_is_there_and_empty(self, start, stream):
        daemon = start(PIPELINES__BUILTIN="false")
        first = stream(daemon).next()
        assert first["type"] == "init" and first["data"] == {
            "metrics": None, "models": {}, "recent_requests": [], "recent_errors": [], "system": None, "rate_limits": {}, "costs": None, "kv_cache": None}

    def test_it_has_everything_that_is_known(self, start, stream):
        daemon = start()
        report(daemon, record("a", id="1"), record("b", id="2", error="boom"), record("a", id="3", cost=0.5))
        say(daemon, "system", {"cpu_usage": 12.5})
        say(daemon, "kv_cache", {"hit_rate": 0.9})
        say(daemon, "rate_limit", {"endpoint": "/v1/chat", "limit": 100, "remaining": 7})
        counted(daemon, 3)
        eventually(lambda: {"system_update", "kv_cache_update", "rate_limit_update:/v1/chat", "error_update:0"} <= set(known(daemon)), "the rest is known")
        first = stream(daemon).next()
        found = first["data"]
        assert first["type"] == "init" and set(found) == self.KEYS
        assert found["metrics"]["total_requests"] == 3 and found["metrics"]["error_rate"] == pytest.approx(1 / 3)
        assert {name: model["request_count"] for name, model in found["models"].items()} == {"a": 2, "b": 1}
        assert [request["id"] for request in found["recent_requests"]] == ["3", "2", "1"]
        assert [(error["request_id"], error["error_message"]) for error in found["recent_errors"]] == [("2", "boom")]
        assert (found["system"], found["kv_cache"]) == ({"cpu_usage": 12.5}, {"hit_rate": 0.9})
        assert found["rate_limits"] == {"/v1/chat": {"endpoint": "/v1/chat", "limit": 100, "remaining": 7}}
        assert found["costs"]["total_cost"] == pytest.approx(0.52)
        assert found["costs"]["breakdown_by_model"] == pytest.approx({"a": 0.51, "b": 0.01})

    def test_the_newest_100_requests_are_kept_newest_first(self, start, stream):
        daemon = start()
        report(daemon, *[record(id=str(n)) for n in range(130)])
        eventually(lambda: "129" in [one["id"] for name, one in known(daemon).items() if name.startswith("request_update:")], "the last one is known")
        assert [request["id"] for request in stream(daemon).next()["data"]["recent_requests"]] == [str(n) for n in range(129, 29, -1)]

    def test_what_comes_after_it_is_what_it_did_not_have(self, start, stream):
        """Clients come while requests do: for each, what it began with and what came make all of them, each once."""
        daemon = start()
        clients = []
        for n in range(30):
            report(daemon, record(id=str(n)))
            clients.append(stream(daemon))
        for client in clients:
            client.until(totals(30))
            first = client.seen[0]
            unbroken(client.seen, first["sequence"])
            had = [request["id"] for request in first["data"]["recent_requests"]][::-1]
            came = [message["data"]["id"] for message in client.seen if message["type"] == "request_update"]
            assert had + came == [str(n) for n in range(30)]


class TestTypes:
    """types: all eleven."""

    def test_all_eleven_types_come(self, start, stream):
        daemon = start(HEARTBEAT__INTERVAL="300ms")
        client = stream(daemon)
        client.say({"type": "ping"})
        report(daemon, record(), record(status=500))
        say(daemon, "system", {"cpu_usage": 1})
        say(daemon, "rate_limit", {"endpoint": "/x", "limit": 1})
        say(daemon, "kv_cache", {"hit_rate": 1})
        deadline = time.monotonic() + WAIT
        while {message["type"] for message in client.seen} != set(TYPES):
            assert time.monotonic() < deadline, {message["type"] for message in client.seen}
            client.next()

    def test_requests_and_errors_come_at_once_and_one_by_one(self, start, stream):
        daemon = start()
        client = stream(daemon)
        client.until("init")
        report(daemon, record(id="a", user="u1", streamed=True, my_field=[1]), record(id="b", status=429, error={"type": "overloaded", "message": "too busy"}))
        first, second = client.until("request_update")["data"], client.until("request_update")["data"]
        assert (first["id"], first["user"], first["streaming"], first["total_tokens"], first["my_field"]) == ("a", "u1", True, 30, [1])
        error = client.until("error_update")["data"]
        assert (second["id"], error["request_id"], error["error_type"], error["error_message"]) == ("b", "b", "overloaded", "too busy")


class TestIn:
    """in: ping -> pong with the client's data; subscribe narrows; after and last_event_id resume."""

    def test_a_pong_echoes_the_data_of_its_ping(self, start, stream):
        client = stream(start())
        for data in [{"sent": 12.25, "more": [1, None, "ä"]}, "text", 7, {}]:
            client.say({"type": "ping", "data": data})
            pong = client.until("pong")
            assert pong["data"] == data and "sequence" not in pong

    def test_a_real_ws_client_measures_its_latency(self, start, node):
        daemon = start()
        script = node()
        script.do("dashboard", url=address(daemon, token=daemon.key))
        script.next(lambda told: told["what"] == "init")

        def measured():
            script.do("state")
            return script.next(lambda told: told["what"] == "state")["latency"]

        assert 0 < eventually(measured, "a latency is measured") < 5000

    def test_subscribe_narrows_what_is_sent(self, start, stream):
        daemon = start(HEARTBEAT__INTERVAL="200ms")
        narrow, wide = stream(daemon), stream(daemon)
        narrow.until("init")
        narrow.say({"type": "subscribe", "data": {"types": ["metrics_update", "cost_update"]}})
        narrow.ping()
        since = len(narrow.seen)
        report(daemon, record(), record(status=500))
        wide.until("heartbeat")
        wide.until("cost_update")
        narrow.until("cost_update")
        narrow.until(totals(2)) if not any(totals(2)(message) for message in narrow.seen[since:]) else None
        assert {message["type"] for message in narrow.seen[since:]} == {"metrics_update", "cost_update"}
        assert {"request_update", "error_update", "model_update"} <= {message["type"] for message in wide.seen}

    def test_subscribe_again_widens(self, start, stream):
        daemon = start()
        client = stream(daemon, types="metrics_update")
        report(daemon, record())
        client.until(totals(1))
        assert {message["type"] for message in client.seen} == {"init", "metrics_update"}
        client.say({"type": "subscribe", "data": {"types": TYPES}})
        client.ping()
        report(daemon, record(id="again"))
        assert client.until("request_update")["data"]["id"] == "again"

    @pytest.mark.parametrize("name", ["after", "last_event_id"])
    def test_a_client_that_comes_back_goes_on_with_an_unbroken_sequence(self, start, stream, name):
        daemon = start()
        client = stream(daemon)
        report(daemon, record(id="a"))
        last = client.until(totals(1))["sequence"]
        client.connection.close()
        for n in range(5):
            report(daemon, record(id=f"missed {n}"))
        again = stream(daemon, **{name: last})
        first = again.next()
        assert (first["type"], first["sequence"]) == ("init", last)
        again.until(totals(6))
        unbroken(again.seen, last)
        had = [request["id"] for request in first["data"]["recent_requests"]]
        came = [message["data"]["id"] for message in again.seen if message["type"] == "request_update"]
        assert had == ["a"] and came == [f"missed {n}" for n in range(5)]

    def test_sse_resumes_by_its_header_which_wins_over_the_query(self, start, sse_client):
        daemon = start()
        client = sse_client(daemon)
        client.next()
        report(daemon, record(id="a"))
        client.until(totals(1))
        last = client.ids[-1]
        assert last == str(client.seen[-1]["sequence"])
        client.stop()
        report(daemon, record(id="b"))
        again = sse_client(daemon, header=last, last_event_id="1")
        again.until(totals(2))
        unbroken(again.seen, int(last))
        by_query = sse_client(daemon, last_event_id=last)
        by_query.until(totals(2))
        unbroken(by_query.seen, int(last))

    def test_a_dashboard_goes_on_by_itself_after_a_restart_and_has_nothing_twice(self, start, node):
        daemon = start()
        script = node()
        script.do("dashboard", url=address(daemon, token=daemon.key))
        script.next(lambda told: told["what"] == "init")
        report(daemon, record(id="before"))

        def state():
            script.do("state")
            return script.next(lambda told: told["what"] == "state")

        eventually(lambda: (state()["state"]["metrics"] or {}).get("total_requests") == 1, "the first request is counted")
        daemon.restart()
        working(daemon)
        script.next(lambda told: told["what"] == "reconnected", 30)
        report(daemon, record(id="after"))
        eventually(lambda: (state()["state"]["metrics"] or {}).get("total_requests") == 2, "the second one too")
        found = state()
        assert [request["id"] for request in found["state"]["recentRequests"]] == ["after", "before"]
        assert found["repeated"] == 0

    def test_what_is_not_kept_any_more_is_made_up_for_by_another_init_and_what_is_kept_comes(self, start, stream):
        daemon = start(ROOMS__METRICS__RETENTION_COUNT="200")
        first = stream(daemon)
        report(daemon, record(id="first"))
        seq = first.until(totals(1))["sequence"]
        first.connection.close()
        for at in range(0, 600, 100):
            report(daemon, *[record(id=str(n)) for n in range(at, at + 100)])
        counted(daemon, 601)
        eventually(lambda: daemon.room("metrics:stream")["first_seq"] > seq + 1, "the first are gone", 30)
        again = stream(daemon, after=seq)
        again.next()
        made_up = again.until("init")
        assert made_up["metadata"]["missed"]["after"] == seq and made_up["sequence"] == made_up["metadata"]["missed"]["first"] - 1
        assert made_up["data"]["metrics"]["total_requests"] == 601
        report(daemon, record(id="more"))
        again.until(totals(602))
        came = again.seen[again.seen.index(made_up):]
        assert len(unbroken(came, made_up["sequence"])) > 50, "what is kept comes too"

    def test_a_client_that_is_too_slow_is_told_what_was_given_up_and_what_is_so_now(self, start, stream):
        daemon = start(ROOMS__METRICS__ON_FULL="displace", LIMITS__MAILBOX_MESSAGES="64", LIMITS__WRITE_TIMEOUT="60s")
        eventually(lambda: "metrics_update" in known(daemon), "the stream has begun")
        slow = stream(daemon, slow=True)
        at = slow.next()["sequence"]
        pad = "x" * 20_000
        for n in range(40):
            report(daemon, *[record(id=f"{n}/{m}", pad=pad) for m in range(20)])
        counted(daemon, 800)
        head = daemon.room("metrics:stream")["head"]
        missed = 0
        while at < head:
            message = slow.next(30)
            if message["type"] == "init":
                told = message["metadata"]["missed"]
                assert (told["from"], told["count"]) == (at + 1, told["to"] - at), f"at {at}: {told}"
                missed, at = missed + told["count"], message["sequence"]
                assert at == told["to"] and message["data"]["metrics"]["total_requests"] > 0
            elif "sequence" in message:
                assert message["sequence"] == at + 1
                at += 1
        assert missed > 0

    def test_from_0_on_all_that_is_held_comes(self, start, stream):
        daemon = start()
        report(daemon, *[record(id=str(n)) for n in range(3)])
        stream(daemon).until(lambda message: message["type"] == "init" and message["data"]["metrics"] or totals(3)(message))
        client = stream(daemon, after=0)
        first = client.next()
        client.until(totals(3))
        assert first["data"]["recent_requests"] == []
        unbroken(client.seen, first["sequence"])
        assert [message["data"]["id"] for message in client.seen if message["type"] == "request_update"] == ["0", "1", "2"]

    @pytest.mark.parametrize(("message", "code"), [
        ("{", "invalid_json"), ("[1]", "invalid_field"), ('{"type":7}', "invalid_field"), ('{"type":"custom","data":{"foo":"bar"}}', "unknown_type"),
        ('{"type":"subscribe","data":{"types":["nothing"]}}', "invalid_field"), ('{"type":"subscribe"}', "invalid_field"), (b"\x00\x01", "binary_unsupported")])
    def test_what_is_not_understood_is_an_error_and_the_connection_stays(self, victim_surface, stream, message, code):
        client = stream(victim_surface)
        client.say(message)
        error = client.until("error")
        assert error["data"]["code"] == code and error["data"]["message"] and type(error["timestamp"]) is int
        client.ping()

    def test_too_large_a_message_ends_the_connection_and_too_many_say_how_long_to_wait(self, start, stream):
        daemon = start(LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND="5")
        client = stream(daemon)
        client.say({"type": "ping", "data": "x" * 200_000})
        assert client.until("error")["data"]["code"] == "message_too_big"
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.next()
        assert closed.value.rcvd.code == 1009
        hasty = stream(daemon)
        for _ in range(8):
            hasty.say({"type": "ping"})
        error = hasty.until("error")
        assert error["data"]["code"] == "rate_limited" and error["data"]["retry_after"] >= 1

    def test_the_documents_snippet_runs_as_it_stands(self, start, node):
        daemon = start()
        script = node()
        script.do("snippet", url=address(daemon, token=daemon.key))
        script.next(lambda told: told["what"] == "log" and told["words"] == ["Connected"])
        assert script.next(lambda told: told["what"] == "message" and told["message"]["type"] == "error")["message"]["data"]["code"] == "unknown_type"
        report(daemon, record())
        words = script.next(lambda told: told["what"] == "log" and told["words"][0] == "Metrics:" and told["words"][1]["total_requests"] == 1)["words"]
        assert {"total_requests", "total_tokens", "total_cost", "avg_latency_ms", "error_rate", "streaming_percentage", "requests_per_second",
                "tokens_per_second", "active_connections"} == set(words[1])
        script.do("endSnippet")
        assert script.next(lambda told: told["what"] == "done")["latency"] > 0


class TestSource:
    """source: POST /metrics/requests (one, a list, NDJSON), POST /metrics/report."""

    def post(self, daemon, body, content_type="application/json", path="/metrics/requests", **headers):
        body = body if isinstance(body, bytes) else body.encode()
        return daemon.request("POST", path, data=body, headers={"Content-Type": content_type, **headers})

    @pytest.mark.parametrize(("body", "content_type", "count"), [
        (json.dumps(record()), "application/json", 1),
        (json.dumps([record(), record()]), "application/json", 2),
        ("\n".join(json.dumps(record()) for _ in range(3)), "application/x-ndjson", 3),
        ("\n".join(json.dumps(record()) for _ in range(3)) + "\n", "application/json", 3),
        (json.dumps(record(status=200)), "application/x-www-form-urlencoded", 1),
    ])
    def test_requests_come_one_by_one_as_a_list_or_as_lines(self, start, stream, body, content_type, count):
        daemon = start()
        client = stream(daemon)
        answer = self.post(daemon, body, content_type)
        assert answer.status_code == 202 and answer.json()["count"] == count, answer.text
        client.until(totals(count))

    def test_curl_reports_as_a_shell_script_does(self, start, stream):
        daemon = start()
        client = stream(daemon)
        lines = "\n".join(json.dumps(record(id=str(n))) for n in range(4))
        packed = gzip.compress(lines.encode())
        url, key = f"{daemon.url}/metrics/requests", f"Authorization: Bearer {daemon.key}"
        command = ["curl", "-sS", "--noproxy", "*", "-H", key, "-w", "%{http_code}", "-o", "/dev/null"]
        assert subprocess.run([*command, "-d", json.dumps(record()), url], capture_output=True, text=True).stdout == "202"
        more = ["-H", "Content-Type: application/x-ndjson", "-H", "Content-Encoding: gzip", "--data-binary", "@-", url]
        assert subprocess.run([*command, *more], input=packed, capture_output=True).stdout == b"202"
        client.until(totals(5))

    @pytest.mark.parametrize(("field", "value"), [
        ("model", None), ("model", 7), ("model", ""), ("latency_ms", None), ("latency_ms", "fast"), ("latency_ms", -1), ("status", None), ("status", True),
        ("input_tokens", None), ("input_tokens", 1.5), ("output_tokens", -1), ("streamed", None), ("streamed", "yes"), ("cost", None), ("cost", "1"),
        ("user", 7), ("error", 7), ("timestamp", "yesterday"), ("id", "")])
    def test_a_wrong_field_is_named_and_nothing_is_taken(self, victim_surface, field, value):
        daemon = victim_surface
        before = daemon.room("metrics:requests")
        body = json.dumps([record(), record(**{field: value})] if value is not None else [record(), {k: v for k, v in record().items() if k != field}])
        found = problem(self.post(daemon, body), 422)
        assert [(fault["item"], fault["field"]) for fault in found["errors"]] == [(1, field)], found
        assert daemon.room("metrics:requests") == before

    @pytest.mark.parametrize(("body", "status"), [("{", 400), ("", 422), ("[]", 422), ("7", 422), (" " * 11_000_000, 413)])
    def test_a_body_that_is_none_is_refused(self, victim_surface, body, status):
        problem(self.post(victim_surface, body), status)

    def test_a_body_of_another_kind_is_refused(self, victim_surface):
        problem(self.post(victim_surface, "a,b", "text/csv"), 415)

    def test_a_request_that_is_reported_twice_by_its_id_counts_once(self, start, stream):
        daemon = start()
        client = stream(daemon)
        report(daemon, record(id="same"))
        assert report(daemon, record(id="same"))["duplicates"] == 1
        report(daemon, record(id="other"))
        client.until(totals(2))
        counted(daemon, 2)
        assert [one["data"]["id"] for one in daemon.all_events("metrics:requests")] == ["same", "other"]

    @pytest.mark.parametrize("kind", ["system", "rate_limit", "kv_cache"])
    def test_a_report_comes_as_its_update(self, start, stream, kind):
        daemon = start()
        client = stream(daemon)
        data = {"endpoint": "/v1/chat", "value": 1.5, "inside": {"list": [1, 2]}}
        say(daemon, kind, data)
        assert client.until(f"{kind}_update")["data"] == data

    @pytest.mark.parametrize(("body", "field"), [
        ({"kind": "disk", "data": {}}, "kind"), ({"data": {}}, "kind"), ({"kind": "system"}, "data"), ({"kind": "system", "data": 7}, "data"),
        ({"kind": "rate_limit", "data": {"endpoint": 7}}, "data.endpoint")])
    def test_a_wrong_report_is_named(self, victim_surface, body, field):
        found = problem(self.post(victim_surface, json.dumps(body), path="/metrics/report"), 422)
        assert field in [fault["field"] for fault in found["errors"]], found


@pytest.fixture(scope="module")
def victim_surface(shared_daemon):
    """One daemon for tests whose calls change nothing."""
    return working(shared_daemon)


class TestComputed:
    """computed: once a second while something changes; each model likewise; fractions 0..1."""

    def test_the_figures_are_those_that_python_computes(self, start, stream):
        daemon = start()
        client = stream(daemon)
        dice = random.Random(20261120)
        models = ["gpt-4", "meta/llama-3:70b", "claude \"x\" é"]
        records = [record(dice.choice(models), round(dice.lognormvariate(5, 1), 3), status=dice.choice(["success", 200, 200, 200, 500, "error"]),
                          input_tokens=dice.randrange(2000), output_tokens=dice.randrange(500), streamed=dice.random() < 0.3, cost=round(dice.random(), 4))
                   for _ in range(1000)]
        for at in range(0, 1000, 100):
            report(daemon, *records[at:at + 100])
        last = client.until(totals(1000), 30)["data"]
        counted(daemon, 1000)
        found = stream(daemon).next()["data"]
        self.check(found["metrics"], records)
        assert found["metrics"]["total_requests"] == last["total_requests"] == 1000
        for name in models:
            own = [one for one in records if one["model"] == name]
            model = found["models"][name]
            assert (model["model"], model["request_count"]) == (name, len(own))
            self.check(model, own)
            latencies = sorted(one["latency_ms"] for one in own)
            for q, field in [(0.5, "p50_latency_ms"), (0.95, "p95_latency_ms"), (0.99, "p99_latency_ms")]:
                # Between which values a quantile lies is a matter of taste; that it is no further off than the sketch says is not.
                place = q * (len(latencies) - 1)
                low, high = latencies[math.floor(place)], latencies[math.ceil(place)]
                assert low * (1 - SKETCH) <= model[field] <= high * (1 + SKETCH), f"{name} {field}: {model[field]}, not about {low} to {high}"
        costs = found["costs"]
        assert costs["total_cost"] == pytest.approx(sum(one["cost"] for one in records), rel=ROUNDING)
        assert costs["breakdown_by_model"] == pytest.approx({name: sum(one["cost"] for one in records if one["model"] == name) for name in models}, rel=ROUNDING)

    @staticmethod
    def check(figures, records):
        count = len(records)
        failed = sum(one["status"] in (500, "error") for one in records)
        expected = {
            "total_tokens": sum(one["input_tokens"] + one["output_tokens"] for one in records),
            "total_cost": sum(one["cost"] for one in records),
            "avg_latency_ms": sum(one["latency_ms"] for one in records) / count,
            "error_rate": failed / count,
            "streaming_percentage": sum(one["streamed"] for one in records) / count,
        }
        assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=ROUNDING)
        assert 0 < figures["error_rate"] < 1 and 0 < figures["streaming_percentage"] < 1

    def test_rates_are_those_of_the_last_ten_seconds_and_go_down_to_nothing_and_then_nothing_comes(self, start, stream):
        daemon = start()
        client = stream(daemon)
        began = time.monotonic()
        report(daemon, *[record(input_tokens=30, output_tokens=70) for _ in range(50)])
        found = client.until(totals(50))["data"]
        assert (found["requests_per_second"], found["tokens_per_second"]) == (5, 500)
        client.until(lambda message: totals(50)(message) and message["data"]["requests_per_second"] == 0, 30)
        assert 9 < time.monotonic() - began < 14
        ended_at = {"requests_per_second": 0, "tokens_per_second": 0}

        def ended():
            models = [message["data"] for message in client.seen if message["type"] == "model_update"]
            assert models[0]["requests_per_second"] > 0
            return {name: models[-1][name] for name in ended_at} == ended_at or client.next() is None

        eventually(ended, "the model's too")
        head = daemon.room("metrics:stream")["head"]
        with pytest.raises(AssertionError, match="no message within"):
            while client.next(3):
                assert client.seen[-1]["sequence"] <= head, client.seen[-1]

    def test_rates_go_down_to_nothing_though_the_daemon_was_gone_meanwhile(self, start, stream):
        daemon = start()
        report(daemon, *[record() for _ in range(50)])
        assert stream(daemon).until(totals(50))["data"]["requests_per_second"] > 0
        daemon.kill9()
        daemon.start()
        client = stream(daemon)
        first = client.next()["data"]["metrics"]
        if first["requests_per_second"] > 0:
            client.until(lambda message: totals(50)(message) and message["data"]["requests_per_second"] == 0, 30)

    def test_they_come_once_a_second_while_something_changes(self, start, stream):
        daemon = start()
        client = stream(daemon, types="metrics_update")
        client.until("init")
        until = time.monotonic() + 4
        n = 0
        while time.monotonic() < until:
            report(daemon, record())
            n += 1
        client.until(totals(n))
        stamps = [message["timestamp"] for message in client.seen if message["type"] == "metrics_update"]
        assert 3 <= len(stamps) <= 8, stamps

    def test_active_connections_are_the_open_streams(self, start, stream):
        daemon = start()
        client = stream(daemon)
        client.until(lambda message: message["type"] == "metrics_update" and message["data"]["active_connections"] == 1)
        others = [stream(daemon) for _ in range(4)]
        client.until(lambda message: message["type"] == "metrics_update" and message["data"]["active_connections"] == 5)
        for other in others:
            other.connection.close()
        client.until(lambda message: message["type"] == "metrics_update" and message["data"]["active_connections"] == 1)

    @pytest.mark.parametrize("how", ["restart", "kill9"])
    def test_all_of_it_is_right_again_right_after_a_restart(self, start, stream, how):
        daemon = start()
        report(daemon, record("a", 100, cost=1), record("b", 300, status=500, cost=2), record("a", 200, cost=3))
        say(daemon, "system", {"cpu_usage": 5})
        counted(daemon, 3)
        eventually(lambda: "system_update" in known(daemon), "the report is known")
        before = stream(daemon).next()["data"]
        if how == "restart":
            daemon.restart()
        else:
            daemon.kill9()
            daemon.start()
        after = stream(daemon).next()["data"]
        for found in (before, after):
            found.update(metrics=lasting(found["metrics"]), models={name: lasting(model) for name, model in found["models"].items()})
        assert after == before
        working(daemon)
        client = stream(daemon)
        report(daemon, record("a", 400, cost=4))
        found = client.until(totals(4))["data"]
        assert (found["total_cost"], found["avg_latency_ms"], found["error_rate"]) == (10, 250, 0.25)
        model = client.until(lambda message: message["type"] == "model_update" and message["data"]["model"] == "a" and message["data"]["request_count"] == 3)
        assert model["data"]["total_cost"] == 8


class TestAuth:
    """auth: as everywhere; a setting makes this surface public to read."""

    def refused(self, daemon, **options):
        with pytest.raises(InvalidStatus) as refusal:
            Stream(daemon, **options)
        return refusal.value.response.status_code

    def test_without_a_credential_nothing_is_open(self, start):
        daemon = start()
        assert self.refused(daemon, key=None) == 401
        assert self.refused(daemon, key="wrong") == 401
        for method, path in [("GET", "/metrics/stream"), ("POST", "/metrics/requests"), ("POST", "/metrics/report"), ("GET", "/metrics")]:
            problem(daemon.request(method, path, key=None), 401)

    def test_a_credential_in_the_query_is_as_good(self, start, stream):
        daemon = start()
        assert stream(daemon, header=False).next()["type"] == "init"
        assert stream(daemon, key=None, access_token=daemon.key).next()["type"] == "init"

    def test_a_token_reads_and_reports_what_its_rights_say(self, start, stream):
        daemon = start()
        reader = mint(sub="reader", rooms=["metrics:stream"], publish=[])
        assert stream(daemon, key=reader).next()["type"] == "init"
        report(daemon, record(), key=reader, status=403)
        other = mint(sub="other", rooms=["well:*"], publish=["metrics:requests"])
        assert self.refused(daemon, key=other) == 403
        report(daemon, record(), key=other)
        assert daemon.request("POST", "/metrics/report", key=other, json={"kind": "system", "data": {}}).status_code == 403

    def test_where_the_setting_says_so_the_stream_is_open_to_all_and_nothing_else_is(self, start, stream, sse_client):
        daemon = start(METRICS__STREAM_PUBLIC="true")
        anybody = stream(daemon, key=None)
        assert anybody.next()["type"] == "init"
        assert sse_client(daemon, key=None).next()["type"] == "init"
        assert stream(daemon, key=mint(sub="other", rooms=["well:*"])).next()["type"] == "init"
        report(daemon, record())
        anybody.until(totals(1))
        for method, path in [("POST", "/metrics/requests"), ("POST", "/metrics/report"), ("GET", "/metrics"), ("GET", "/v1/stream?rooms=metrics:stream"),
                             ("GET", "/v1/rooms/metrics:stream/events"), ("POST", "/metrics/stream")]:
            assert daemon.request(method, path, key=None, json=record()).status_code == 401, f"{method} {path}"

    def test_an_unknown_reader_stays_when_credentials_change(self, start, stream):
        daemon = start(METRICS__STREAM_PUBLIC="true")
        anybody = stream(daemon, key=None)
        anybody.next()
        daemon.reload()
        report(daemon, record())
        anybody.until(totals(1))

    def test_a_page_from_elsewhere_may_read_it(self, start):
        answer = start().get("/metrics/stream?tail=0", stream=True, headers={"Origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert answer.headers["access-control-allow-credentials"] == "true"
        answer.close()

    def test_prometheus_metrics_are_where_they_were(self, start):
        answer = start().get("/metrics")
        assert answer.status_code == 200 and "# TYPE tidegate_" in answer.text


class TestSwitchedOff:
    """Where the surface is not served there is nothing of it."""

    def test_neither_its_paths_nor_its_pipelines_nor_its_rooms_are_there(self, start, stream):
        daemon = start(SURFACES__ENABLED="overview", METRICS__STREAM_PUBLIC="true")
        assert daemon.get("/metrics/stream").status_code == daemon.request("POST", "/metrics/requests", json=record()).status_code == 404
        assert daemon.get("/metrics/stream", key=None).status_code == 401
        assert not any(name.startswith("metrics_") for name in listed(daemon)) and daemon.room("metrics:connections") is None
        assert daemon.get("/metrics").status_code == 200


class TestRooms:
    """What the surface shows is in rooms: native readers see the same."""

    def test_the_table_that_native_readers_keep_is_what_newcomers_begin_with(self, start, stream, ws):
        daemon = start()
        native = ws(daemon, "metrics:now")
        report(daemon, record("a"), record("b", status=500))
        counted(daemon, 2)
        first = stream(daemon).next()["data"]
        begins = {"metrics_update": first["metrics"], **{f"model_update:{name}": model for name, model in first["models"].items()}}
        table = {}
        while {name: lasting(table.get(name, {"data": {}})["data"]) for name in begins} != {name: lasting(figures) for name, figures in begins.items()}:
            message = native.next()
            if message["type"] in ("snapshot", "delta"):
                table = message["data"] if message["type"] == "snapshot" else applied(table, message["data"])
