"""The surface `overview`: what its dashboard is promised, row by row. Events of projects come in; how each project is, what is unusual
and what recurs goes out, over three streams and to those who poll.
"""

import gzip
import json
import random
import socket
import statistics
import threading
import time
import zlib

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from harness import pipelines
from harness.api import instant, rfc3339
from harness.node import Script
from harness.process import eventually
from harness.sse import Sse
from harness.tokens import SECRET, mint

SETTINGS = {"PIPELINES__BUILTIN": "true"}
METRICS = {"total_projects", "healthy_projects", "warning_projects", "critical_projects", "total_runs_today", "avg_success_rate",
           "active_experts", "total_reflexions"}
EVENT = {"id", "timestamp", "project", "event_type", "severity", "message", "metadata"}
ROW = {"id", "name", "status", "health_score", "total_runs", "success_rate", "active_experts", "reflexions_count", "avg_latency"}
STREAMS = {"overview": "update", "events": "event", "telemetry": "telemetry"}
MILLISECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def event(project="nfl", event_type="note", message="", severity="info", **more):
    """An event as a project reports it."""
    return {"project": project, "event_type": event_type, "severity": severity, "message": message or f"{event_type} of {project}", **more}


def run(project="nfl", success=True, latency=None, **more):
    """A run of a project."""
    return event(project, "run", metadata={"success": success, **({} if latency is None else {"latency_ms": latency})}, **more)


def post(daemon, body, **options):
    """A report; the answer as it came."""
    return daemon.request("POST", "/api/events", json=body, **options)


def report(daemon, *events):
    """Reports events in one list; their ids."""
    answer = post(daemon, list(events))
    assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
    return answer.json()["ids"]


def read(daemon, path, **options):
    """A reading call that succeeds."""
    answer = daemon.get(f"/api/{path}", **options)
    assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
    return answer.json()


def project(daemon, name="nfl"):
    """A project's row, or None."""
    return next((row for row in read(daemon, "overview")["projects"] if row["id"] == name), None)


def once(daemon, wanted, what, name="nfl", timeout=20):
    """The project's row once `wanted` is true of it."""
    def look():
        row = project(daemon, name)
        return row if row and wanted(row) else None

    return eventually(look, what, timeout)


class Socket:
    """A WebSocket to one of the streams, by the `websockets` library."""

    def __init__(self, daemon, stream, key="", pong=True, **query):
        query = "&".join(f"{name}={value}" for name, value in query.items())
        headers = {} if key is None else {"Authorization": f"Bearer {key or daemon.key}"}
        self.connection = connect(f"ws://{daemon.address}/api/stream/{stream}?{query}", additional_headers=headers, proxy=None, compression=None,
                                  ping_interval=None, close_timeout=1, max_size=None, legacy=True)

    def next(self, timeout=15):
        return json.loads(self.connection.recv(timeout))

    def until(self, wanted, timeout=15):
        """The next message of a type, or of which something is true."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.next(max(0.01, deadline - time.monotonic()))
            if found["type"] == wanted if isinstance(wanted, str) else wanted(found):
                return found

    def say(self, message):
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def closed(self, timeout=15):
        """Reads until the server closes; the code, and what came before."""
        before, deadline = [], time.monotonic() + timeout
        try:
            while True:
                before.append(self.next(max(0.01, deadline - time.monotonic())))
        except ConnectionClosed as end:
            return (end.rcvd.code if end.rcvd else 1006), before

    def stop(self):
        self.connection.close()


class Curl(Sse):
    """One of the streams by curl, in the words of `Socket`."""

    def __init__(self, daemon, stream, **options):
        super().__init__(daemon, path=f"/api/stream/{stream}", **options)
        self.wait(lambda: self.last_id, "the stream has begun")

    def next(self, timeout=15):
        message = super().next(timeout)
        self.newest = message
        assert message.name == ("heartbeat" if message.data["type"] == "ping" else message.data["type"]), message
        return message.data

    def until(self, wanted, timeout=15):
        return Socket.until(self, wanted, timeout)


WAYS = {"websocket": Socket, "sse": Curl}


@pytest.fixture
def stream():
    """Opens streams."""
    opened = []

    def begin(way, *arguments, **options):
        opened.append(WAYS[way](*arguments, **options))
        return opened[-1]

    yield begin
    for reader in opened:
        reader.stop()


@pytest.fixture
def daemon(start_daemon):
    """A daemon with the pipelines of the surface."""
    return start_daemon(**SETTINGS)


@pytest.fixture
def node():
    """Starts the dashboard's script in Node."""
    scripts = []

    def begin():
        scripts.append(Script("overview.mjs"))
        return scripts[-1]

    yield begin
    for script in scripts:
        script.stop()


def refused(daemon, stream, **options):
    """A WebSocket that must be refused: the status and the body."""
    try:
        Socket(daemon, stream, **options).stop()
    except InvalidStatus as refusal:
        return refusal.response
    raise AssertionError("the WebSocket was opened")


# Row: rooms and ingest.

def test_one_event_or_a_list_is_taken_with_an_id_for_each(daemon):
    answer = post(daemon, event(id="e-1", timestamp="2026-11-20T06:10:00Z", metadata={"a": 1}))
    assert answer.status_code == 202 and answer.json()["ids"] == ["e-1"] and answer.json()["count"] == 1
    ids = report(daemon, event(), event("sentiment"))
    assert len(set(ids)) == 2 and all(ids)
    found = read(daemon, "events")
    assert [one["id"] for one in found] == [*reversed(ids), "e-1"] and all(set(one) == EVENT for one in found)
    assert found[-1] == {**event(), "id": "e-1", "timestamp": "2026-11-20T06:10:00.000Z", "metadata": {"a": 1}}


@pytest.mark.parametrize("body, field", [
    ({"event_type": "run", "severity": "info", "message": "x", "metadata": {"success": True}}, "project"),
    (event(project=7), "project"), (event(project=""), "project"),
    ({**event(), "event_type": None}, "event_type"), ({**event(), "severity": 5}, "severity"), ({**event(), "message": 5}, "message"),
    (event(metadata=[]), "metadata"), (event(timestamp="yesterday"), "timestamp"), (event(id=5), "id"), (event(mood="fine"), "mood"),
    (event(event_type="run"), "metadata.success"), (run(success="yes"), "metadata.success"), (run(latency="fast"), "metadata.latency_ms"),
    (run(latency=-1), "metadata.latency_ms"), (event(metadata={"active_experts": "many"}), "metadata.active_experts"),
])
def test_a_wrong_event_is_refused_with_the_name_of_its_field_and_nothing_is_published(daemon, body, field):
    answer = post(daemon, [event(), body])
    assert answer.status_code == 422, answer.text
    found = answer.json()
    assert found["type"] == "error" and [(fault["item"], fault["field"]) for fault in found["error"]["errors"]] == [(1, field)], found
    assert field in found["error"]["message"]
    assert read(daemon, "events") == []


def test_what_is_no_json_is_refused(daemon):
    answer = daemon.request("POST", "/api/events", data="{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["type"] == "error"
    assert post(daemon, "text").status_code in (400, 422) and post(daemon, []).status_code in (400, 422)


def test_an_event_that_is_sent_again_with_its_id_counts_once(daemon):
    for _ in range(3):
        assert post(daemon, run(id="r-1")).status_code == 202
    report(daemon, event(message="last"))
    assert once(daemon, lambda row: row["events_count"] >= 2, "both events are counted")["total_runs"] == 1


def test_what_is_published_natively_appears_on_the_surface_and_the_other_way_round(daemon, stream, sse):
    surface, native = stream("websocket", daemon, "events"), sse(daemon, "projects:events")
    native.welcome()
    daemon.publish("projects:events", {"kind": "run", "key": "nfl", "data": {"message": "by hand", "metadata": {"success": True}}})
    shown = surface.until("event")["data"]
    assert set(shown) == EVENT and (shown["project"], shown["event_type"], shown["message"]) == ("nfl", "run", "by hand")
    assert native.event().data["data"]["message"] == "by hand"
    report(daemon, event(message="by the surface"))
    assert native.event().data["data"]["message"] == surface.until("event")["data"]["message"] == "by the surface"
    assert once(daemon, lambda row: row["total_runs"] == 1, "the run counts")["success_rate"] == 1


def test_only_who_may_publish_the_room_may_report(start_daemon):
    daemon = start_daemon(**SETTINGS, AUTH__JWT_SECRET=SECRET)
    viewer = mint(sub="vera", roles=["viewer"], ttl=600)
    assert post(daemon, event(), key=viewer).status_code == 403
    assert post(daemon, event(), key=None).status_code == 401


# Row: REST.

def test_the_overview_is_metrics_projects_and_events(daemon):
    empty = read(daemon, "overview")
    assert empty == {"metrics": dict.fromkeys(METRICS, 0), "projects": [], "events": []}
    report(daemon, run(latency=200), run("slow", False, 900))
    once(daemon, lambda row: row["total_runs"] == 1, "the other project is known", "slow")
    found = eventually(lambda: (found := read(daemon, "overview"))["metrics"]["total_projects"] == 2 and found, "both projects are counted")
    assert set(found["metrics"]) == METRICS and [row["id"] for row in found["projects"]] == ["nfl", "slow"]
    assert ROW <= set(found["projects"][0]) and [one["project"] for one in found["events"]] == ["slow", "nfl"]


@pytest.mark.parametrize("limit, count", [("", 20), ("?limit=1", 1), ("?limit=1000", 30), ("?limit=7&other=x", 7)])
def test_events_are_the_newest_first_and_as_many_as_asked(daemon, limit, count):
    report(daemon, *(event(message=word, id=f"e{n}") for n, word in enumerate(words(30))))
    assert [one["id"] for one in read(daemon, f"events{limit}")] == [f"e{n}" for n in range(29, 29 - count, -1)]


def words(count):
    """Messages of which no two are of a template."""
    return [f"{n}x " + " ".join(f"w{n}{m}y" for m in range(n % 7 + 2)) for n in range(count)]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "many"])
def test_a_limit_out_of_bounds_is_refused(daemon, limit):
    answer = daemon.get(f"/api/events?limit={limit}")
    assert answer.status_code in (400, 422) and answer.json()["type"] == "error" and "limit" in answer.text


def test_a_projects_details_are_its_row_its_events_and_its_anomalies(daemon):
    ids = report(daemon, run(), run("other"), event(message="hello"))
    once(daemon, lambda row: row["events_count"] == 2, "both events are counted")
    found = read(daemon, "project-details", params={"id": "nfl"})
    assert {name: found[name] for name in ROW} == {name: project(daemon)[name] for name in ROW}
    assert [one["id"] for one in found["events"]] == [ids[2], ids[0]] and found["anomalies"] == []


def test_a_project_that_nobody_knows_is_404_with_an_error(daemon):
    answer = daemon.get("/api/project-details?id=none")
    assert answer.status_code == 404 and answer.json()["type"] == "error" and answer.json()["error"]["code"] and answer.json()["error"]["message"]
    assert daemon.get("/api/project-details").status_code in (400, 422)


@pytest.mark.parametrize("path", ["overview", "events", "project-details?id=nfl", "anomalies", "patterns"])
def test_who_polls_is_told_304_as_long_as_nothing_has_changed(daemon, path):
    report(daemon, *(run(latency=100) for _ in range(30)))
    once(daemon, lambda row: row["total_runs"] == 30, "the runs are counted")
    eventually(lambda: len(read(daemon, "events?limit=100")) == 31 and read(daemon, "patterns")[0]["count"] == 30, "the new pattern is told")
    eventually(lambda: read(daemon, "overview")["metrics"]["total_projects"] == 1, "the figures are there")
    first = daemon.get(f"/api/{path}")
    again = daemon.get(f"/api/{path}", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and again.content == b"" and again.headers["ETag"].removeprefix("W/") == first.headers["ETag"].removeprefix("W/")
    report(daemon, *(run(latency=90_000) for _ in range(3)))
    changed = lambda: daemon.get(f"/api/{path}", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
    eventually(changed, "a change is told")


# Row: streams.

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name, kind", STREAMS.items())
def test_every_message_is_an_envelope_of_its_type_whatever_the_transport(daemon, stream, way, name, kind):
    reader = stream(way, daemon, name)
    if name != "events":
        assert reader.next()["type"] == kind
    report(daemon, run())
    message = reader.until(kind)
    assert set(message) == {"type", "timestamp", "id", "data"} and instant(message["timestamp"]) == pytest.approx(time.time(), abs=20)
    assert message["timestamp"].endswith("Z") and len(message["timestamp"]) == 24
    if way == "sse":
        assert reader.newest.name == kind and reader.newest.id


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STREAMS)
def test_the_heartbeat_is_a_ping(start_daemon, stream, way, name):
    reader = stream(way, start_daemon(**SETTINGS, HEARTBEAT__INTERVAL="200ms"), name)
    message = reader.until("ping")
    assert {"type", "timestamp"} <= set(message) and "data" not in message
    if way == "sse":
        assert reader.newest.name == "heartbeat"


def test_a_ping_of_the_client_is_answered_and_what_is_not_understood_gets_an_error(daemon, stream):
    reader = stream("websocket", daemon, "events")
    for ping in ({"type": "ping", "data": 7}, '{"type":"pi\\u006eg","data":7}'):
        reader.say(ping)
        assert reader.next()["data"] == 7
    for wrong in ("{", {"type": "dance"}, {"kind": "ping"}, b"binary"):
        reader.say(wrong)
        message = reader.next()
        assert message["type"] == "error" and message["error"]["code"] and message["error"]["message"] and message["timestamp"], message
    reader.say({"type": "ping"})
    assert reader.next()["type"] == "pong", "the connection stays"


# Row: overview.

@pytest.mark.parametrize("way", WAYS)
def test_the_first_message_is_everything_and_then_only_what_changed_comes(daemon, stream, way):
    report(daemon, run(), run("other"))
    eventually(lambda: read(daemon, "overview")["metrics"]["total_projects"] == 2, "both projects are counted")
    reader = stream(way, daemon, "overview")
    first = reader.next()["data"]
    assert first == read(daemon, "overview")
    report(daemon, run("other", False))
    seen, rows, metrics = [], {}, {}
    deadline = time.monotonic() + 15
    while not (seen and rows.get("other", {}).get("total_runs") == 2 and metrics.get("total_runs_today") == 3):
        data = reader.until("update", max(0.01, deadline - time.monotonic()))["data"]
        seen += data.get("events", [])
        rows.update({row["id"]: row for row in data.get("projects", [])})
        metrics = data.get("metrics", metrics)
    assert set(rows) == {"other"}, "a project that has not changed does not come"
    assert len(seen) == 1 and seen[0]["metadata"] == {"success": False} and set(seen[0]) == EVENT
    assert set(metrics) == METRICS and ROW <= set(rows["other"])


@pytest.mark.parametrize("way", WAYS)
def test_who_comes_back_with_its_cursor_gets_what_it_missed(daemon, stream, way):
    reader = stream(way, daemon, "overview")
    reader.next()
    report(daemon, event(id="seen"))
    cursor = reader.until(lambda message: "events" in message["data"])["id"]
    reader.stop()
    report(daemon, event(id="missed"))
    eventually(lambda: read(daemon, "events")[0]["id"] == "missed", "it is published")
    again = stream(way, daemon, "overview", last_event_id=cursor) if way == "websocket" else stream(way, daemon, "overview", last_id=cursor)
    found = []
    while not found:
        data = again.until("update")["data"]
        found = [one["id"] for one in data.get("events", [])]
    assert found == ["missed"]


def test_an_event_is_in_what_a_newcomer_gets_once(daemon, stream):
    """Whatever the moment at which it comes."""
    stop = threading.Event()

    def report_on():
        n = 0
        while not stop.wait(0.005):
            post(daemon, event(id=f"n{n}", message=words(n % 30 + 1)[-1]))
            n += 1

    writer = threading.Thread(target=report_on)
    writer.start()
    try:
        for _ in range(4):
            reader = stream("websocket", daemon, "overview")
            seen = [one["id"] for one in reversed(reader.next()["data"]["events"]) if one["event_type"] == "note"]
            for _ in range(3):
                seen += [one["id"] for one in reversed(reader.until("update")["data"].get("events", [])) if one["event_type"] == "note"]
            numbers = [int(one[1:]) for one in seen]
            assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            reader.stop()
    finally:
        stop.set()
        writer.join()


def test_changes_are_gathered(daemon, stream):
    reader = stream("websocket", daemon, "overview")
    reader.next()
    for n in range(40):
        post(daemon, event(id=f"g{n}", message=words(n % 30 + 1)[-1]))
    seen, messages = [], 0
    while len([one for one in seen if one.startswith("g")]) < 40:
        seen += [one["id"] for one in reversed(reader.until("update")["data"].get("events", []))]
        messages += 1
    assert [one for one in seen if one.startswith("g")] == [f"g{n}" for n in range(40)] and messages < 40


# Row: events.

@pytest.mark.parametrize("way", WAYS)
def test_each_event_comes_at_once_and_in_order(daemon, stream, way):
    reader = stream(way, daemon, "events")
    begun = time.monotonic()
    ids = report(daemon, event(message="first", metadata={"n": 1}))
    first = reader.until("event")
    assert time.monotonic() - begun < 2 and set(first["data"]) == EVENT and first["data"]["id"] == ids[0]
    assert first["data"]["metadata"] == {"n": 1}
    ids = report(daemon, *(event(message=word) for word in words(20)))
    assert [reader.until("event")["data"]["id"] for _ in ids] == ids


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_events_that_were_missed_come_after_a_restart(daemon, stream, way, how):
    reader = stream(way, daemon, "events")
    report(daemon, event(message="seen"))
    cursor = reader.until("event")["id"]
    reader.stop()
    if how == "restart":
        daemon.restart()
    else:
        daemon.kill9()
        daemon.start()
    ids = report(daemon, *(event(message=word) for word in words(5)))
    again = stream(way, daemon, "events", last_event_id=cursor) if way == "websocket" else stream(way, daemon, "events", last_id=cursor)
    assert [again.until("event")["data"]["id"] for _ in ids] == ids


# Row: telemetry.

@pytest.mark.parametrize("way, setting, seconds", [("websocket", None, 5), ("sse", "1s", 1)])
def test_telemetry_comes_every_five_seconds_or_what_is_set_though_nothing_happens(start_daemon, stream, way, setting, seconds):
    daemon = start_daemon(**SETTINGS, OVERVIEW__TELEMETRY_PERIOD=setting)
    report(daemon, run())
    eventually(lambda: read(daemon, "overview")["metrics"]["total_projects"] == 1, "the project is counted")
    reader = stream(way, daemon, "telemetry")
    first = reader.next()["data"]
    assert set(first) == {"metrics", "recentEvents"} and set(first["metrics"]) == METRICS and len(first["recentEvents"]) == 1
    reader.until("telemetry")
    begun = time.monotonic()
    assert reader.until("telemetry")["data"] == first
    assert 0.8 * seconds < time.monotonic() - begun < seconds + 2


def test_telemetry_comes_at_once_when_a_project_changes_its_status(daemon, stream):
    report(daemon, *(run() for _ in range(10)))
    reader = stream("websocket", daemon, "telemetry")
    reader.until(lambda message: message["data"]["metrics"]["healthy_projects"] == 1)
    begun = time.monotonic()
    report(daemon, *(run(success=False) for _ in range(30)))
    metrics = reader.until(lambda message: message["data"]["metrics"]["healthy_projects"] == 0)["data"]["metrics"]
    assert time.monotonic() - begun < 3, "not at the end of the five seconds"
    assert metrics["warning_projects"] + metrics["critical_projects"] == 1


def test_how_often_telemetry_comes_can_be_set_while_it_runs_and_it_is_whole_then(start_daemon, stream):
    daemon = start_daemon(started=False, **SETTINGS).configure("[overview]\ntelemetry_period = \"1m\"\n").start()
    report(daemon, run(latency=100), event(metadata={"active_experts": 3}))
    eventually(lambda: read(daemon, "overview")["metrics"]["active_experts"] == 3, "the figures are there")
    reader = stream("websocket", daemon, "telemetry")
    first = reader.next()["data"]
    daemon.reload("[overview]\ntelemetry_period = \"1s\"\n")
    begun = time.monotonic()
    assert [reader.until("telemetry", 20)["data"] for _ in range(3)][-1] == first
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("setting, wrong, allowed", [
    ("UPDATE_PERIOD", "600ms", "100ms to 500ms"), ("HEALTHY_FROM", "1.5", "from 0 to 1"), ("LATENCY_DEVIATIONS", "many", "from 1 to 1000"),
    ("WARNING_FROM", "0.9", "overview.healthy_from")])
def test_a_period_or_threshold_that_cannot_be_is_refused_with_what_is_allowed(start_daemon, setting, wrong, allowed):
    daemon = start_daemon(started=False, **SETTINGS, **{f"OVERVIEW__{setting}": wrong})
    refused = daemon.run("serve")
    assert refused.code == 2 and allowed in refused.stderr and f"overview.{setting.lower()}" in refused.stderr, refused


# Row: rooms of it.

def test_the_state_of_projects_can_be_read_natively(daemon):
    report(daemon, run(latency=100))
    row = once(daemon, lambda row: row["total_runs"] == 1, "the run is counted")
    assert pipelines.state(daemon, "projects")["data"] == {"nfl": row}


# Row: derived values.

def expected(runs):
    """What the runs of a project come to: `(success, latency)` each."""
    successes = [success for success, _ in runs]
    return {"total_runs": len(runs), "success_rate": pytest.approx(statistics.fmean(successes)),
            "avg_latency": pytest.approx(statistics.fmean(latency for _, latency in runs)), "runs_today": len(runs)}


def test_all_figures_follow_from_the_events_and_are_right_again_after_kill_9(daemon):
    random.seed(7)
    rates = {"good": 0.95, "fair": 0.65, "poor": 0.2}
    runs = {name: [(random.random() < rate, random.randint(90, 110)) for _ in range(150)] for name, rate in rates.items()}
    at = time.time()

    def tell(name, some):
        report(daemon, *(run(name, success, latency) for success, latency in some))

    for name in rates:
        tell(name, runs[name][:100])
    report(daemon, *(event("good", "reflexion") for _ in range(3)), event("poor", "reflexion", metadata={"count": 4}))
    report(daemon, event("good", "expert_rotation", metadata={"experts_rotated": 2, "active_experts": 4}),
           event("fair", metadata={"expert": "anna"}), event("fair", metadata={"expert": "ben"}), event("fair", metadata={"expert": "anna"}))
    daemon.kill9()
    daemon.start()
    for name in rates:
        tell(name, runs[name][100:])
    counts = {"good": 150 + 3 + 1, "fair": 150 + 3, "poor": 150 + 1}
    for again in ("before", "after"):
        for name in rates:
            row = once(daemon, lambda row: row["events_count"] >= counts[name] and row["total_runs"] >= 150, f"{name} is counted", name)
            assert {field: row[field] for field in expected(runs[name])} == expected(runs[name]), (again, name)
            assert row["events_count"] == counts[name], "nothing is counted twice"
            open_anomalies = [one for one in read(daemon, "anomalies") if one["project"] == name and one["state"] == "started"]
            assert row["open_anomalies"] == len(open_anomalies)
            health = max(0, statistics.fmean(success for success, _ in runs[name][-100:]) - 0.1 * len(open_anomalies))
            assert row["health_score"] == pytest.approx(health)
            assert row["status"] == ("healthy" if health >= 0.8 else "warning" if health >= 0.5 else "critical")
            assert at - 1 < instant(row["last_run"]) < time.time() + 1
        rows = {name: project(daemon, name) for name in rates}
        assert {name: (row["reflexions_count"], row["rotations_count"], row["active_experts"]) for name, row in rows.items()} == {
            "good": (3, 2, 4), "fair": (0, 0, 2), "poor": (4, 0, 0)}
        statuses = [row["status"] for row in rows.values()]
        wanted = {"total_projects": 3, "total_runs_today": 450, "active_experts": 6, "total_reflexions": 7,
                  **{f"{status}_projects": statuses.count(status) for status in ("healthy", "warning", "critical")},
                  "avg_success_rate": pytest.approx(statistics.fmean(row["success_rate"] for row in rows.values()))}
        eventually(lambda: read(daemon, "overview")["metrics"] == wanted, f"the figures over all projects are right {again}")
        daemon.kill9()
        daemon.start()


def test_from_which_health_on_a_project_is_healthy_is_a_setting(start_daemon):
    daemon = start_daemon(**SETTINGS, OVERVIEW__HEALTHY_FROM="0.95", OVERVIEW__WARNING_FROM="0.9")
    report(daemon, *(run("good", n > 0) for n in range(10)), *(run("poor", n > 1) for n in range(10)), run("best"))
    rows = {name: once(daemon, lambda row: row["total_runs"] == count, f"{name} is counted", name) for name, count in [("good", 10), ("poor", 10), ("best", 1)]}
    assert {name: row["status"] for name, row in rows.items()} == {"good": "warning", "poor": "critical", "best": "healthy"}


def test_runs_of_yesterday_are_no_runs_of_today_but_count(daemon):
    report(daemon, run(timestamp=rfc3339(time.time() - 3 * 86400)), run())
    row = once(daemon, lambda row: row["total_runs"] == 2, "both are counted")
    assert row["runs_today"] == 1 and instant(row["last_run"]) == pytest.approx(time.time(), abs=20)


# Row: anomalies.

def test_a_latency_that_leaves_its_distribution_is_an_anomaly_and_takes_a_tenth_of_the_health(daemon):
    random.seed(3)
    report(daemon, *(run(latency=random.randint(230, 260)) for _ in range(60)))
    report(daemon, run(latency=5000))
    row = once(daemon, lambda row: row["open_anomalies"] == 1, "the anomaly is open")
    assert row["health_score"] == pytest.approx(0.9)
    found = read(daemon, "anomalies")[0]
    assert (found["project"], found["metric"], found["state"], found["value"]) == ("nfl", "latency", "started", 5000)
    assert 230 <= found["expected"] <= 260 and found["score"] > 6 and instant(found["since"]) and found["severity"] and found["message"]
    assert read(daemon, "project-details?id=nfl")["anomalies"][0] == found
    report(daemon, run(latency=240))
    assert once(daemon, lambda row: row["open_anomalies"] == 0, "it is over")["health_score"] == 1
    over = read(daemon, "anomalies")
    assert len(over) == 1 and (over[0]["id"], over[0]["state"]) == (found["id"], "cleared")


def test_what_is_unusual_can_be_set_while_it_runs_and_what_was_learned_stays(start_daemon):
    random.seed(3)
    daemon = start_daemon(started=False, **SETTINGS).configure("[overview]\nlatency_min_deviation = 1000\n").start()
    report(daemon, *(run(latency=random.randint(230, 260)) for _ in range(60)), run(latency=500))
    once(daemon, lambda row: row["total_runs"] == 61, "the runs are counted")
    daemon.reload("[overview]\nlatency_min_deviation = 5.5\nlatency_deviations = 3\n")
    eventually(lambda: report(daemon, run(latency=500)) and project(daemon)["open_anomalies"] == 1, "it is unusual now", every=0.2)
    found = read(daemon, "anomalies")[0]
    assert (found["metric"], found["value"]) == ("latency", 500) and 230 <= found["expected"] <= 260, "not by what came since alone"


def test_a_success_rate_that_falls_is_an_anomaly(daemon):
    report(daemon, *(run() for _ in range(40)))
    report(daemon, *(run(success=False) for _ in range(6)))
    once(daemon, lambda row: row["open_anomalies"] == 1, "the anomaly is open")
    assert [(one["metric"], one["state"]) for one in read(daemon, "anomalies")] == [("success_rate", "started")]


# Row: patterns.

def test_messages_that_recur_are_a_pattern_and_a_new_one_is_an_event(daemon, stream):
    reader = stream("sse", daemon, "events")
    report(daemon, *(event(message=f"API timeout on call {n} after {n * 7} ms", severity="error") for n in range(12)))
    news = reader.until(lambda message: message["data"]["event_type"] == "pattern")["data"]
    assert news["message"] == "New pattern detected: API timeout on call <*> after <*> ms" and news["project"] == "nfl"
    assert 0 < news["metadata"]["confidence"] < 1 and news["metadata"]["pattern_id"]
    found = eventually(lambda: (found := read(daemon, "patterns")) and found[0]["count"] == 12 and found, "all are counted")
    assert len(found) == 1 and found[0]["template"] == "API timeout on call <*> after <*> ms" and found[0]["id"] == news["metadata"]["pattern_id"]
    assert found[0]["confidence"] == pytest.approx(11 / 12)
    assert [one["event_type"] for one in read(daemon, "events?limit=100")].count("pattern") == 1


# Row: errors.

def error(answer, code):
    """An error in the surface's shape."""
    found = answer.json() if hasattr(answer, "json") else json.loads(answer.body)
    assert found["type"] == "error" and instant(found["timestamp"]) and found["error"]["code"] == code and found["error"]["message"], found
    return found["error"]


@pytest.mark.parametrize("name", STREAMS)
def test_without_a_credential_it_is_auth_required(daemon, name):
    for key in (None, "wrong"):
        answer = daemon.get(f"/api/stream/{name}", key=key)
        assert answer.status_code == 401
        error(answer, "AUTH_REQUIRED")
        refusal = refused(daemon, name, key=key)
        assert refusal.status_code == 401
        error(refusal, "AUTH_REQUIRED")


def test_another_stream_is_an_invalid_endpoint(daemon):
    for path in ("/api/stream/test", "/api/stream/", "/api/stream/overview/x"):
        answer = daemon.get(path)
        assert answer.status_code == 404
        error(answer, "INVALID_ENDPOINT")
    assert refused(daemon, "test").status_code == 404


def test_a_full_daemon_says_that_the_stream_is_unavailable(start_daemon, stream):
    daemon = start_daemon(**SETTINGS, LIMITS__CONNECTIONS=1)
    stream("websocket", daemon, "events")
    answer = daemon.get("/api/stream/events")
    assert answer.status_code == 503
    error(answer, "STREAM_UNAVAILABLE")


def test_a_stream_of_a_daemon_that_stops_is_told_so(daemon, stream):
    reader = stream("websocket", daemon, "events")
    stopping = threading.Thread(target=daemon.terminate)
    stopping.start()
    code, before = reader.closed()
    stopping.join()
    assert code == 1012 and before[-1]["type"] == "error" and before[-1]["error"]["code"] == "STREAM_UNAVAILABLE"


# Row: limits.

def test_an_address_has_so_many_streams_at_once(start_daemon, stream):
    daemon = start_daemon(**SETTINGS, OVERVIEW__PER_IP_CONNECTIONS=2)
    held = [stream("websocket", daemon, "events"), stream("sse", daemon, "overview")]
    answer = daemon.get("/api/stream/telemetry")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    assert error(answer, "RATE_LIMIT_EXCEEDED")["retryAfter"] == int(answer.headers["Retry-After"])
    assert daemon.get("/v1/stream?rooms=x&wait=1s").status_code == 200, "other streams have their own limits"
    held[0].stop()
    eventually(lambda: try_open(daemon, "events"), "there is a place again")


def try_open(daemon, name):
    try:
        Socket(daemon, name).stop()
        return True
    except InvalidStatus:
        return False


def test_a_hundred_new_streams_an_hour_are_what_an_address_may_have(daemon):
    for _ in range(100):
        Socket(daemon, "events").stop()
    refusal = refused(daemon, "events")
    assert refusal.status_code == 429 and int(refusal.headers["Retry-After"]) > 0
    error(refusal, "RATE_LIMIT_EXCEEDED")


def test_messages_over_the_minutes_number_are_refused_and_then_end_the_connection(start_daemon, stream):
    reader = stream("websocket", start_daemon(**SETTINGS, OVERVIEW__MESSAGES_PER_MINUTE=5), "events")
    for _ in range(5):
        reader.say({"type": "ping"})
        assert reader.next()["type"] == "pong"
    reader.say({"type": "ping"})
    refusal = reader.next()
    assert refusal["error"]["code"] == "RATE_LIMIT_EXCEEDED" and refusal["error"]["retryAfter"] > 0
    for _ in range(200):
        try:
            reader.say({"type": "ping"})
        except ConnectionClosed:
            break
    assert reader.closed()[0] == 1008


def test_a_message_over_100_kb_is_an_error_and_1009(daemon, stream):
    reader = stream("websocket", daemon, "events")
    reader.say({"type": "ping", "data": "x" * 100_000})
    assert reader.next()["type"] == "pong"
    reader.say({"type": "ping", "data": "x" * 110_000})
    code, before = reader.closed()
    assert code == 1009 and before[-1]["type"] == "error"


def test_a_flood_is_at_most_ten_messages_a_second_and_nothing_of_it_is_lost(daemon, stream):
    reader = stream("websocket", daemon, "overview")
    reader.next()
    sent = [event(id=f"f{n}", message=f"flood number {n}", metadata={"pad": "x" * 900}) for n in range(1500)]
    reporting = threading.Thread(target=lambda: [report(daemon, *sent[at:at + 500]) for at in range(0, 1500, 500)])
    reporting.start()
    seen, times = [], []
    while len(seen) < 1500:
        data = reader.until("update")["data"]
        times.append(time.monotonic())
        assert len(json.dumps(data)) < 110_000 and "events_omitted" not in data
        seen += [one["id"] for one in reversed(data.get("events", [])) if one["event_type"] == "note"]
    reporting.join()
    assert seen == [one["id"] for one in sent]
    gaps = [later - earlier for earlier, later in zip(times, times[9:])]
    assert len(times) > 10 and min(gaps) > 0.85, "ten take a second, less what the network is late"


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_without_events_ends_and_resumes_by_its_cursor(start_daemon, stream, way):
    daemon = start_daemon(**SETTINGS, LIMITS__IDLE_TIMEOUT="1s", HEARTBEAT__INTERVAL="200ms", HEARTBEAT__COMMENT="200ms")
    reader = stream(way, daemon, "events")
    report(daemon, event(message="one"))
    cursor = reader.until("event")["id"]
    if way == "websocket":
        begun = time.monotonic()
        while True:  # an answer to a heartbeat is no word of its own
            try:
                assert reader.next()["type"] == "ping"
                reader.say({"type": "pong"})
            except ConnectionClosed as end:
                assert end.rcvd.code == 1000
                break
        assert time.monotonic() - begun < 5
    else:
        reader.ended()
    ids = report(daemon, event(message="two"))
    again = stream(way, daemon, "events", last_event_id=cursor) if way == "websocket" else stream(way, daemon, "events", last_id=cursor)
    assert again.until("event")["data"]["id"] == ids[0]


# Row: heartbeat.

def test_a_websocket_that_is_silent_is_closed(start_daemon):
    daemon = start_daemon(**SETTINGS, HEARTBEAT__INTERVAL="300ms", HEARTBEAT__TIMEOUT="1s")
    host, port = daemon.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=15) as silent:
        silent.sendall(HANDSHAKE.replace("YOUR_API_KEY", daemon.key).replace("your-api-domain.com", daemon.address).encode())
        begun = time.monotonic()
        while silent.recv(65536):  # reads, and answers no ping
            assert time.monotonic() - begun < 10
        assert time.monotonic() - begun > 0.9


# Row: compression.

def test_reads_are_packed_when_asked(daemon):
    report(daemon, *(event(message=word, metadata={"pad": "x" * 100}) for word in words(20)))
    eventually(lambda: len(read(daemon, "events")) == 20, "they are published")
    packed = daemon.session.get(f"{daemon.url}/api/events", headers={"Authorization": f"Bearer {daemon.key}", "Accept-Encoding": "gzip"}, stream=True)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(packed.raw.read(decode_content=False)))) == 20
    assert "Content-Encoding" not in daemon.get("/api/events", headers={"Accept-Encoding": "identity"}).headers


def test_a_stream_is_packed_when_asked_and_each_message_can_be_read_when_it_comes(daemon):
    answer = daemon.get("/api/stream/events", headers={"Accept-Encoding": "gzip"}, stream=True)
    assert answer.headers["Content-Encoding"] == "gzip" and answer.headers["Content-Type"].startswith("text/event-stream")
    unpacker, text, plain, packed = zlib.decompressobj(31), "", 0, 0
    for n in range(3):
        pad = f"message {n} " * 300
        report(daemon, event(message=words(n + 1)[-1], metadata={"pad": pad}))
        while pad not in text or not text.endswith("\n\n"):
            piece = answer.raw.read1(65536)
            assert piece, "the stream ended"
            packed += len(piece)
            text += unpacker.decompress(piece).decode()
        plain += len(pad)
    assert packed < plain / 2
    answer.close()


def test_curl_reads_the_packed_stream(daemon, stream):
    reader = stream("sse", daemon, "events", curl=["--compressed"])
    assert reader.head()[1]["content-encoding"] == "gzip"
    ids = report(daemon, event(message="x" * 5000), event(message="short"))
    assert [reader.until("event")["data"]["id"] for _ in ids] == ids


# Common: pages from elsewhere.

def test_a_page_from_elsewhere_may_ask_beforehand(daemon):
    answer = daemon.request("OPTIONS", "/api/stream/overview", key=None, headers={
        "Origin": "http://localhost:3000", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"})
    assert answer.status_code in (200, 204) and answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"GET", "POST", "OPTIONS"} <= {word.strip() for word in answer.headers["Access-Control-Allow-Methods"].split(",")}


# The dashboard's own clients.

HANDSHAKE = """GET /api/stream/overview HTTP/1.1
Host: your-api-domain.com
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13
Authorization: Bearer YOUR_API_KEY

""".replace("\n", "\r\n")

EVENTS_REQUEST = """GET /api/stream/overview HTTP/1.1
Host: your-api-domain.com
Accept: text/event-stream
Cache-Control: no-cache
Authorization: Bearer YOUR_API_KEY

""".replace("\n", "\r\n")

SNIPPET = """
const streamer = new MidStreamer({
  url: '/api/stream/overview',
  headers: {
    'Authorization': `Bearer ${apiKey}`,
  },
});
"""


@pytest.mark.parametrize("text, status, then", [(HANDSHAKE, "101", b'"type":"update"'), (EVENTS_REQUEST, "200", b"event: update\ndata: {")])
def test_the_requests_of_the_document_work_as_they_stand(daemon, text, status, then):
    host, port = daemon.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=15) as client:
        client.sendall(text.replace("YOUR_API_KEY", daemon.key).replace("your-api-domain.com", daemon.address).encode())
        heard = b""
        while then not in heard:
            piece = client.recv(65536)
            assert piece, heard
            heard += piece
    head = heard.split(b"\r\n\r\n")[0].decode()
    assert head.startswith(f"HTTP/1.1 {status} ")
    if status == "101":
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head


def test_the_snippet_of_the_document_receives_and_comes_back(daemon, node):
    script = node()
    script.do("snippet", origin=daemon.url, apiKey=daemon.key, code=SNIPPET)
    first = script.next(lambda told: told["what"] == "message")
    assert first["type"] == "update" and set(first["data"]) == {"metrics", "projects", "events"}
    report(daemon, event(id="before"))
    script.next(lambda told: told["what"] == "message" and [one["id"] for one in told["data"].get("events", [])] == ["before"])
    daemon.kill9()
    daemon.start()
    report(daemon, event(id="after"))
    script.next(lambda told: told["what"] == "message" and "after" in [one["id"] for one in told.get("data", {}).get("events", [])], timeout=30)


@pytest.mark.parametrize("name, kind", STREAMS.items())
def test_the_npm_clients_receive(daemon, node, name, kind):
    source, ws = node(), node()
    source.do("eventsource", url=f"{daemon.url}/api/stream/{name}", token=daemon.key, names=[kind, "heartbeat", "error"])
    ws.do("ws", url=f"ws://{daemon.address}/api/stream/{name}", token=daemon.key)
    for client in (source, ws):
        client.next(lambda told: told["what"] == "open")
    report(daemon, run(id="r"))
    holds = {"overview": lambda data: [one["id"] for one in data.get("events", [])], "events": lambda data: [data["id"]],
             "telemetry": lambda data: [one["id"] for one in data["recentEvents"]]}[name]
    for client in (source, ws):
        told = client.next(lambda told: told["what"] == "message" and told["type"] == kind and holds(told["data"]) == ["r"])
        assert told.get("name", kind) == kind


def test_a_browser_receives_by_event_source_and_by_websocket_and_comes_back_by_itself(daemon, browser):
    browser.call("Page.setBypassCSP", enabled=True)
    browser.open(f"{daemon.url}/livez")
    browser.run(f"""
        window.updates = []; window.events = [];
        window.source = new EventSource('/api/stream/overview?token={daemon.key}');
        source.addEventListener('update', message => updates.push(JSON.parse(message.data)));
        window.socket = new WebSocket('ws://{daemon.address}/api/stream/events?token={daemon.key}');
        socket.onmessage = message => events.push(JSON.parse(message.data)); 0""")
    browser.wait("updates.length === 1 && socket.readyState === 1", "both have begun")
    assert browser.run("Object.keys(updates[0].data).sort()") == ["events", "metrics", "projects"]
    report(daemon, event(id="one"))
    browser.wait("events.length === 1 && events[0].data.id === 'one'", "the event came by WebSocket")
    browser.wait("updates.some(one => (one.data.events || []).some(event => event.id === 'one'))", "and by EventSource")
    daemon.restart()
    report(daemon, event(id="two"))
    browser.wait("updates.some(one => (one.data.events || []).some(event => event.id === 'two'))", "it comes back by itself", timeout=40)
    assert browser.run("updates.filter(one => (one.data.events || []).some(event => event.id === 'one')).length") == 1, "nothing twice"
