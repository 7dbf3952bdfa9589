"""What a dashboard of wells is promised, row by row of what the surface `wells` offers: rooms, ingest, alerts, diagnostics, Socket.IO, SSE,
login, roles, limits, metrics, examples, nginx. Clients are those that such dashboards have: curl, the packages eventsource and
socket.io-client in Node, python-socketio, Chromium. All of Socket.IO is in test_wells_socketio.py and test_wells_socketio_protocol.py.
"""

import gzip
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import requests

from harness import pipelines
from harness.api import instant, seqs
from harness.nginx import Nginx
from harness.node import JS, EventSourceJs, SioJs
from harness.postgres import Postgres
from harness.process import Lines, eventually, kill, spawn
from harness.sio import SioPy, Socket
from harness.tokens import SECRET, mint, user

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "pipelines"
INGEST = "/api/v1/telemetry/ingest"
PASSWORD = "a-pump-in-every-well"
USERS = {**user("vera", PASSWORD, roles="viewer"), **user("omar", PASSWORD, roles="operator"), **user("ada", PASSWORD, roles="admin")}
SETTINGS = {"AUTH__JWT_SECRET": SECRET, "PIPELINES__BUILTIN": "true", "SURFACES__ENABLED": "wells", **USERS}
NAMES = ["connected", "heartbeat", "telemetry_update", "alert", "diagnostic_update", "gap", "dropped"]
READING = {"flow_rate": 1000.5, "pip": 2000.0, "motor_current": 50.0, "motor_temp": 85.0, "vibration": 3.2, "vsd_frequency": 60.0,
           "flow_variance": 15.0, "torque": 120.5, "gor": 150.0}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def prepare(start_daemon):
    """A daemon as dashboards of wells need it, which does not run yet."""
    return lambda **settings: start_daemon(started=False, **{**SETTINGS, **settings})


@pytest.fixture
def server(prepare):
    """A running one."""
    return prepare().start()


@pytest.fixture
def well(room):
    """A well that no other test has."""
    return room.replace(":", "-").upper()


@pytest.fixture
def viewer():
    """A viewer's token."""
    return mint(sub="vera", roles=["viewer"], ttl=3000)


@pytest.fixture
def operator():
    """An operator's token."""
    return mint(sub="omar", roles=["operator"], ttl=3000)


@pytest.fixture
def clients():
    """Holds clients that have a `stop`, and stops them."""
    started = []

    def hold(client):
        started.append(client)
        return client

    yield hold
    for client in started:
        client.stop()


@pytest.fixture
def stream(sse):
    """Opens a well's stream with curl; it is joined when this returns, unless `joined=False`."""
    def start(daemon, well, joined=True, token=None, **options):
        reader = sse(daemon, path=f"/api/v1/sse/stream/{well}", key=None, token=token or daemon.key, **options)
        if joined:
            reader.hello = reader.next()
            assert reader.hello.name == "connected", reader.hello
        return reader

    return start


def send(daemon, body, key="", **options):
    """An ingest as it was answered."""
    return daemon.request("POST", INGEST, key=key, json=body, **options)


def ingest(daemon, body, **options):
    """An ingest that must be taken; its answer's JSON."""
    answer = send(daemon, body, **options)
    assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
    return answer.json()


def readings(well, values, field="vibration"):
    """Readings of one field."""
    return [{"well_id": well, field: value} for value in values]


def refused(answer, status, error):
    """An error's JSON as this surface has it."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    found = answer.json()
    assert found["error"] == error and found["message"], found
    return found


def token_of(daemon, name, password=PASSWORD):
    """The token of a login."""
    answer = daemon.login(name, password)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.json()["access_token"]


def url_of(daemon, well, token):
    """Where an EventSource finds a well."""
    return f"{daemon.url}/api/v1/sse/stream/{well}?token={token}"


# rooms: a well is the room well:{well_id}

def test_what_is_ingested_is_in_the_well_s_room(server, well):
    told = ingest(server, {"well_id": well, **READING})
    [event] = server.all_events(f"well:{well}")
    assert (event["kind"], event["data"], event["seq"]) == ("telemetry_update", READING, told["telemetry_id"])


def test_what_is_published_natively_is_on_the_dashboard(server, well, stream):
    reader = stream(server, well)
    seq = server.publish(f"well:{well}", {"kind": "telemetry_update", "data": {"pip": 7}})["first_seq"]
    found = reader.notice("telemetry_update").data
    assert (found["well_id"], found["data"]["telemetry_id"], found["data"]["pip"]) == (well, seq, 7)


def test_a_well_may_have_any_name_that_a_room_may_have(server, stream):
    reader = stream(server, "north%2F7:a")
    ingest(server, {"well_id": "north/7:a", "pip": 1})
    assert reader.notice("telemetry_update").data["well_id"] == "north/7:a"
    assert stream(server, "north/7:a", last_event_id=0, joined=False).notice("telemetry_update").data["data"]["pip"] == 1


# ingest: POST /api/v1/telemetry/ingest

def test_one_reading_is_answered_with_its_id(server, well, stream, operator):
    reader = stream(server, well)
    told = ingest(server, {"well_id": well, **READING}, key=operator)
    assert told["count"] == 1 and told["telemetry_ids"] == [told["telemetry_id"]]
    update = reader.notice("telemetry_update").data
    assert update["data"]["telemetry_id"] == told["telemetry_id"]


def test_a_list_is_answered_with_its_ids_in_its_order_whatever_the_wells(server, well):
    other = f"{well}-B"
    body = [{"well_id": (well, other)[n % 2], "n": n} for n in range(10)]
    told = ingest(server, body)
    assert told["count"] == 10 and "telemetry_id" not in told
    found = {event["seq"]: event["data"]["n"] for name in (well, other) for event in server.all_events(f"well:{name}")}
    assert [found[id] for id in told["telemetry_ids"]] == list(range(10))


def test_a_list_may_name_a_thousand_wells(server, well):
    told = ingest(server, [{"well_id": f"{well}-{n}", "n": n} for n in range(1000)])
    assert told["count"] == len(told["telemetry_ids"]) == 1000
    for n in (0, 255, 256, 999):
        assert seqs(server.all_events(f"well:{well}-{n}")) == [told["telemetry_ids"][n]]


def test_lines_of_json_are_a_list(server, well):
    lines = "".join(json.dumps(one) + "\n" for one in readings(well, [1, 2, 3]))
    answer = server.request("POST", INGEST, data=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 202 and answer.json()["count"] == 3, answer.text


def test_a_body_may_be_packed(server, well):
    body = gzip.compress(json.dumps(readings(well, [1, 2])).encode())
    answer = server.request("POST", INGEST, data=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    assert answer.status_code == 202 and answer.json()["count"] == 2, answer.text


def test_the_time_of_measuring_and_what_else_a_sensor_says_are_kept(server, well, stream):
    reader = stream(server, well)
    ingest(server, {"well_id": well, "timestamp": "2025-11-20T10:30:00Z", "pip": 1, "crew": ["x"], "pump": {"model": "P7"}, "gor": None})
    update = reader.notice("telemetry_update").data
    data = update["data"]
    assert (data["timestamp"], data["crew"], data["pump"], data["gor"]) == ("2025-11-20T10:30:00.000Z", ["x"], {"model": "P7"}, None)
    assert abs(instant(update["timestamp"]) - time.time()) < 30, "the outer time is when it arrived"


def test_a_repetition_is_known_by_its_id_and_gets_the_same_telemetry_id(server, well):
    first = ingest(server, {"well_id": well, "id": "a", "pip": 1})
    again = ingest(server, [{"well_id": well, "id": "b", "pip": 2}, {"well_id": well, "id": "a", "pip": 1}, {"well_id": well, "pip": 3}])
    assert again["telemetry_ids"][1] == first["telemetry_id"] and (again["count"], again["duplicates"]) == (2, 1)
    assert [event["data"]["pip"] for event in server.all_events(f"well:{well}")] == [1, 2, 3]
    assert again["telemetry_ids"][0] < again["telemetry_ids"][2]


@pytest.mark.parametrize("field, wrong", [("well_id", None), ("well_id", ""), ("well_id", 7), ("well_id", "a b"), ("well_id", "*"), ("vibration", "high"),
                                          ("flow_rate", True), ("gor", [1]), ("timestamp", "noon"), ("timestamp", 5), ("id", 7), ("telemetry_id", 5)])
def test_a_wrong_field_is_named_and_nothing_is_published(server, well, field, wrong):
    good = {"well_id": well, "pip": 1}
    bad = {**good, field: wrong}
    if wrong is None:
        del bad[field]
    alone = refused(send(server, bad), 422, "ValidationError")
    assert [fault["field"] for fault in alone["errors"]] == [field] and field in alone["message"]
    listed = refused(send(server, [good, bad]), 422, "ValidationError")
    assert [(fault["item"], fault["field"]) for fault in listed["errors"]] == [(1, field)]
    assert server.room(f"well:{well}") is None


def test_a_well_that_is_not_named_is_told_in_the_known_words(server):
    assert refused(send(server, {"pip": 1}), 422, "ValidationError")["message"] == "well_id is required"


@pytest.mark.parametrize("body, kind, status, error", [
    (b"{", "application/json", 400, "ValidationError"), (b"", "application/json", 400, "ValidationError"), (b"[]", "application/json", 422, "ValidationError"),
    (b"[1]", "application/json", 422, "ValidationError"), (b"<a/>", "text/xml", 415, "UnsupportedMediaTypeError"),
    (b'{"well_id":"A","pip":1e999}', "application/json", 422, "ValidationError"), (b'{"well_id":"A","well_id":"B"}', "application/json", 422, "ValidationError"),
    (b'{"well_id":"A","note":"' + b"x" * 3000 + b'"}', "application/json", 413, "PayloadTooLargeError"),
    (b'{"well_id":"A","deep":' + b"[" * 200 + b"]" * 200 + b"}", "application/json", 422, "ValidationError"),
    (b'{"well_id":"\xff"}', "application/json", 400, "ValidationError"),
], ids=lambda value: str(value)[:30])
def test_what_is_no_reading_is_an_error_in_the_surface_s_shape(prepare, body, kind, status, error):
    server = prepare(LIMITS__EVENT_BYTES="2KiB").start()
    refused(server.request("POST", INGEST, data=body, headers={"Content-Type": kind}), status, error)
    assert server.room("well:A") is None


def test_other_methods_are_refused_with_those_there_are(server):
    answer = server.get(INGEST)
    refused(answer, 405, "MethodNotAllowedError")
    assert "POST" in answer.headers["allow"]


def test_what_was_answered_outlives_a_kill(server, well):
    told = ingest(server, readings(well, range(50), "n"), params={"ack": "synced"})
    server.kill9()
    server.start()
    assert seqs(server.all_events(f"well:{well}")) == told["telemetry_ids"]


def test_what_is_ingested_is_stored_by_the_sink(prepare, well):
    database = Postgres()
    try:
        server = prepare(SINK__DATABASE_URL=database.start().url, SINKS__WELLS__BATCH_WAIT="100ms").start()
        told = ingest(server, [{"well_id": well, **READING, "timestamp": "2025-11-20T10:30:00Z"}, {"well_id": well, "pip": 1}])
        query = "SELECT seq, kind, sink, data FROM tidegate_events WHERE room = %s AND kind = 'telemetry_update' ORDER BY seq"

        def stored():
            tables = database.query("SELECT to_regclass('tidegate_events')")
            return tables[0][0] and len(found := database.query(query, f"well:{well}")) == 2 and found

        rows = eventually(stored, "both are in the database", 20)
        assert rows == [(told["telemetry_ids"][0], "telemetry_update", "wells", READING), (told["telemetry_ids"][1], "telemetry_update", "wells", {"pip": 1})]
        assert database.query("SELECT event_time FROM tidegate_events WHERE seq = %s", rows[0][0]) == [(datetime.fromisoformat("2025-11-20T10:30:00+00:00"),)]
    finally:
        database.end()


# alerts: thresholds by field; once when crossed, once when cleared, critical

def test_a_vibration_over_four_is_told_once_and_once_when_it_is_back(server, well, stream, viewer, clients):
    pipelines.working(server)
    reader, python = stream(server, well), clients(SioPy(server.url, viewer))
    python.subscribe(well)
    ingest(server, readings(well, [3.2, 4.0, 5.2, 6.0, 4.1, 3.9, 2.0]))
    begun, over = reader.notice("alert"), reader.notice("alert")
    assert begun.data["well_id"] == well and begun.data["event"] == "alert" and TIME.fullmatch(begun.data["timestamp"])
    told = begun.data["alert"]
    assert {name: told[name] for name in ("type", "severity", "message", "value", "threshold", "state")} == {
        "type": "high_vibration", "severity": "critical", "message": "Vibration exceeds threshold", "value": 5.2, "threshold": 4, "state": "started"}
    assert (over.data["alert"]["state"], over.data["alert"]["value"], over.data["alert"]["type"]) == ("cleared", 3.9, "high_vibration")
    assert [python.event("alert") for _ in range(2)] == [begun.data, over.data], "the same on both streams"
    found = [event for event in server.all_events(f"well:{well}") if event["kind"] == "alert"]
    assert [event["priority"] for event in found] == ["critical", "critical"], "once each, and before all else"


def test_an_alert_that_is_on_is_not_told_again_after_a_crash(server, well):
    pipelines.working(server)
    ingest(server, readings(well, [5.0]))
    alerts = lambda: [event["data"]["state"] for event in server.all_events(f"well:{well}") if event["kind"] == "alert"]  # noqa: E731
    eventually(lambda: alerts() == ["started"], "the alert")
    server.kill9()
    server.start()
    pipelines.working(server)
    ingest(server, readings(well, [6.0, 1.0]))
    eventually(lambda: alerts() == ["started", "cleared"], "its end, and nothing else")


MORE = """
[[step]]
op = "threshold"
name = "low_intake_pressure"
field = "pip"
below = 1500
clear_below = 1600
hold = "300ms"
severity = "warning"
by = "room"
time = "arrival"
missing = "skip"
pass = true
as_kind = "alert"

# What has been looked at"""


def test_thresholds_are_set_by_field_with_severity_hysteresis_and_hold(prepare, well, stream):
    server = prepare()
    text = (CONFIG / "wells_alerts.toml").read_text()
    assert text.count("clear_above = 4.0") == 1 and text.count("\n# What has been looked at") == 1
    text = text.replace("clear_above = 4.0", "clear_above = 3.0").replace("\n# What has been looked at", MORE)
    pipelines.write(server, wells_alerts=text)
    pipelines.working(server.start())
    reader = stream(server, well)
    ingest(server, readings(well, [5, 3.5, 5, 3.5, 3.0]))
    alerts = [reader.notice("alert").data["alert"] for _ in range(2)]
    assert [(one["state"], one["value"]) for one in alerts] == [("started", 5), ("cleared", 3.0)], "between 3 and 4 it stays on"
    ingest(server, readings(well, [1400, 1700, 1450], "pip"))
    found = reader.notice("alert").data["alert"]
    assert (found["type"], found["severity"], found["state"], found["value"]) == ("low_intake_pressure", "warning", "started", 1450)
    ingest(server, readings(well, [1550, 1601], "pip"))
    found = reader.notice("alert").data["alert"]
    assert (found["type"], found["state"], found["value"]) == ("low_intake_pressure", "cleared", 1601)


# diagnostics: once a minute for each well with data (here once a second; the minute is tried in wells_diagnostics.test.toml)

def test_a_window_s_figures_are_told_for_each_well_with_data(prepare, well, stream):
    server = prepare()
    text = (CONFIG / "wells_diagnostics.toml").read_text()
    assert text.count('size = "1m"') == 1
    pipelines.write(server, wells_diagnostics=text.replace('size = "1m"', 'size = "1s"'))
    pipelines.working(server.start())
    reader, other = stream(server, well), stream(server, f"{well}-B")
    ingest(server, [*readings(well, [1, 2, 3, 6]), {"well_id": well, "pip": 2000, "unknown": 5}])
    update = reader.notice("diagnostic_update").data
    assert (update["event"], update["well_id"]) == ("diagnostic_update", well) and TIME.fullmatch(update["timestamp"])
    told = update["diagnostic"]
    assert told["count"] == 5 and set(told["fields"]) == {"vibration", "pip"}
    vibration = told["fields"]["vibration"]
    assert (vibration["min"], vibration["mean"], vibration["max"]) == (1, 3, 6) and "trend" in vibration
    assert instant(told["window"]["end"]) - instant(told["window"]["start"]) == 1
    ingest(server, readings(f"{well}-B", [1], "gor"))
    assert other.notice("diagnostic_update").data["diagnostic"]["fields"] == {"gor": {"min": 1, "mean": 1, "max": 1, "trend": None}}
    assert [event["data"]["count"] for event in server.all_events(f"well:{well}") if event["kind"] == "diagnostic_update"] == [5], "no data, no figures"


# Socket.IO

@pytest.mark.parametrize("transports", [["websocket", "polling"], ["polling"], ["polling", "websocket"]], ids="-".join)
def test_a_dashboard_over_socketio_sees_its_wells(server, well, viewer, clients, transports):
    pipelines.working(server)
    client = clients(SioJs()).connect(server.url, viewer, transports=transports)
    welcome = client.event("connected")[0]
    assert welcome["user_id"] == welcome["username"] == "vera" and welcome["message"] and TIME.fullmatch(welcome["timestamp"])
    wells = [well, f"{well}-B"]
    for name in wells:
        told = client.subscribe(name)
        assert told["well_id"] == name and TIME.fullmatch(told["timestamp"])
    ingest(server, [{"well_id": wells[0], **READING}, {"well_id": wells[1], "vibration": 5.2}, {"well_id": f"{well}-C", "pip": 1}])
    came = lambda name: [told["args"][0] for told in client.seen if told["what"] == "event" and told["name"] == name]  # noqa: E731
    eventually(lambda: len(came("telemetry_update")) == 2 and came("alert"), "both readings and the alert")
    found = {update["well_id"]: update for update in came("telemetry_update")}
    assert set(found) == set(wells)
    data = found[well]["data"]
    assert {name: data[name] for name in READING} == READING and isinstance(data["telemetry_id"], int) and TIME.fullmatch(data["timestamp"])
    assert came("alert")[0]["alert"]["type"] == "high_vibration"
    client.emit("ping")
    assert TIME.fullmatch(client.event("pong")[0]["timestamp"])
    client.emit("unsubscribe", {"well_id": well})
    assert client.event("unsubscribed")[0]["well_id"] == well
    client.emit("get_stats")
    stats = client.event("stats")[0]
    assert stats["subscriptions"] == [f"{well}-B"] and TIME.fullmatch(stats["connected_at"]) and stats["message_count"] == 3, "two readings and an alert"
    client.emit("subscribe", {})
    assert client.event("error")[0] == {"error": "ValidationError", "message": "well_id is required"}


def test_a_wrong_token_is_a_connect_error(server, clients):
    assert clients(SioJs()).connect(server.url, "wrong").what("connect_error")["message"]


# SSE: GET /api/v1/sse/stream/{well_id}?token=&last_event_id=

def test_the_stream_begins_with_connected_whose_id_is_the_cursor(server, well, stream):
    head = ingest(server, readings(well, [1, 2]))["telemetry_ids"][-1]
    reader = stream(server, well)
    hello = reader.hello
    assert hello.data["well_id"] == well and hello.data["message"] and TIME.fullmatch(hello.data["timestamp"])
    assert hello.id == str(head)
    status, headers = reader.head()
    assert status == 200 and headers["content-type"] == "text/event-stream" and headers["x-accel-buffering"] == "no"


def test_a_client_that_saw_only_connected_of_an_unknown_well_misses_nothing(server, well, stream):
    reader = stream(server, well)
    reader.stop()
    ingest(server, readings(well, range(3), "n"))
    again = stream(server, well, joined=False, last_id=reader.hello.id)
    assert [again.notice("telemetry_update").data["data"]["n"] for _ in range(3)] == [0, 1, 2]


def test_a_heartbeat_carries_the_cursor_too(prepare, well, stream):
    server = prepare(HEARTBEAT__INTERVAL="200ms").start()
    reader = stream(server, well)
    head = ingest(server, readings(well, [1, 2]))["telemetry_ids"][-1]
    while (beat := reader.notice("heartbeat")).id != str(head):
        assert int(beat.id) < head
    assert set(beat.data) == {"timestamp"} and TIME.fullmatch(beat.data["timestamp"])


def test_a_reading_looks_as_the_dashboard_knows_it(server, well, stream):
    reader = stream(server, well)
    told = ingest(server, {"well_id": well, **READING})
    message = reader.notice("telemetry_update")
    found = message.data
    assert set(found) == {"event", "timestamp", "well_id", "data"}
    assert (found["event"], found["well_id"], message.id) == ("telemetry_update", well, str(told["telemetry_id"]))
    assert TIME.fullmatch(found["timestamp"]) and TIME.fullmatch(found["data"].pop("timestamp"))
    assert found["data"] == {"telemetry_id": told["telemetry_id"], **READING}


def test_the_stream_is_packed_where_the_client_asks_for_it(server, well, stream):
    reader = stream(server, well, curl=["--compressed"])
    assert reader.head()[1]["content-encoding"] == "gzip"
    ingest(server, readings(well, range(5)))
    assert [reader.notice("telemetry_update").data["data"]["vibration"] for _ in range(5)] == list(range(5))


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_a_client_comes_back_where_it_was_and_the_header_counts(server, well, stream, how):
    ids = ingest(server, readings(well, range(6), "n"))["telemetry_ids"]
    header = {"last_id": ids[2]} if how in ("header", "both") else {}
    query = {"last_event_id": {"query": ids[2], "both": ids[4]}[how]} if how != "header" else {}
    reader = stream(server, well, joined=False, **header, **query)
    assert [reader.notice("telemetry_update").data["data"]["n"] for _ in range(3)] == [3, 4, 5]


def test_what_is_not_held_any_more_is_a_gap(prepare, well, stream):
    server = prepare(ROOMS__WELL__RETENTION_COUNT=5, ROOMS__WELL__TAIL_EVENTS=5).start()
    first = ingest(server, readings(well, [0], "n"))["telemetry_id"]
    ingest(server, readings(well, range(1, 200), "n"))
    found = stream(server, well, joined=False, last_event_id=first - 1000).notice("gap").data
    assert found["well_id"] == well and found["first_seq"] >= first


@pytest.mark.parametrize("shown", ["wrong", "expired", "none"])
def test_a_bad_token_gets_one_error_event_with_status_401(server, well, sse, shown):
    token = {"wrong": {"token": "YOUR_JWT_TOKEN"}, "expired": {"token": mint(sub="vera", ttl=-100)}, "none": {}}[shown]
    reader = sse(server, path=f"/api/v1/sse/stream/{well}", key=None, **token)
    status, headers = reader.head()
    assert (status, headers["content-type"]) == (401, "text/event-stream")
    messages, _ = reader.ended()
    assert [(message.name, message.data) for message in messages] == [
        ("error", {"error": "AuthenticationError", "message": "Invalid or expired authentication token"})]


def test_a_well_that_may_not_be_read_is_refused(server, sse):
    reader = sse(server, path="/api/v1/sse/stream/B", key=None, token=mint(sub="vera", rooms=["well:A"]))
    assert reader.head()[0] == 403
    assert [message.data["error"] for message in reader.ended()[0]] == ["AuthorizationError"]


@pytest.mark.parametrize("path, params, error", [("a%20b", {}, "ValidationError"), ("*", {}, "ValidationError"), ("A", {"last_event_id": "x"}, "ValidationError"),
                                                 ("", {}, "ValidationError")])
def test_a_wrong_question_is_one_error_event(server, sse, path, params, error):
    reader = sse(server, path=f"/api/v1/sse/stream/{path}", key=None, token=server.key, **params)
    assert reader.head()[0] in (400, 404)
    assert [message.data["error"] for message in reader.ended()[0]] in ([error], ["NotFoundError"])


def test_a_token_is_taken_wherever_it_stands(server, well, sse, viewer):
    path = f"/api/v1/sse/stream/{well}"
    for given in ({"key": viewer}, {"key": None, "access_token": viewer}, {"key": None, "token": viewer},
                  {"key": None, "headers": {"Cookie": f"tidegate_session={viewer}"}}):
        assert sse(server, path=path, **given).next().name == "connected", given


def test_a_token_that_ends_while_the_stream_is_open_is_told(server, well, stream):
    reader = stream(server, well, token=mint(sub="vera", ttl=-27))  # within the leeway of 30 s for a little longer
    messages, _ = reader.ended()
    assert [message.data["error"] for message in messages if message.name == "error"] == ["AuthenticationError"]


def test_the_eventsource_package_sees_a_well(server, well, viewer, clients):
    pipelines.working(server)
    client = clients(EventSourceJs(url_of(server, well, viewer), NAMES))
    assert client.event("connected")["data"]["well_id"] == well
    told = ingest(server, {"well_id": well, **READING, "vibration": 5.2})
    update = client.event("telemetry_update")
    assert (update["id"], update["data"]["data"]["flow_rate"]) == (str(told["telemetry_id"]), 1000.5)
    assert client.event("alert")["data"]["alert"]["severity"] == "critical"


@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_the_eventsource_package_comes_back_and_misses_nothing(server, well, viewer, clients, how):
    client = clients(EventSourceJs(url_of(server, well, viewer), NAMES))
    client.event("connected")
    ingest(server, readings(well, range(5), "n"), params={"ack": "synced"})
    numbers_of = lambda: [told["data"]["data"]["n"] for told in client.seen if told["what"] == "event" and told["name"] == "telemetry_update"]  # noqa: E731
    eventually(lambda: len(numbers_of()) == 5, "the first five")
    if how == "restart":
        server.terminate()
    else:
        server.kill9()
    client.what("error")
    server.start()
    ingest(server, readings(well, range(5, 10), "n"))
    eventually(lambda: len(numbers_of()) >= 10, "what came meanwhile", 30)
    assert numbers_of() == list(range(10))


def test_an_event_of_a_room_is_not_taken_for_a_word_of_the_stream(server, well, viewer, stream, clients):
    reader, client = stream(server, well), clients(EventSourceJs(url_of(server, well, viewer), [*NAMES, "event"]))
    client.event("connected")
    kinds = ["error", "open", "connected", "heartbeat", "gap"]
    server.publish(f"well:{well}", [{"kind": kind, "data": {"x": 1}} for kind in kinds])
    for kind in kinds:
        message = reader.next()
        assert (message.name, message.data["event"], message.data["data"]) == ("event", kind, {"x": 1})
        assert client.next()["name"] == "event", "a browser would take an error for a broken stream"


def test_the_eventsource_package_gives_up_on_a_wrong_token(server, well, clients):
    client = clients(EventSourceJs(url_of(server, well, "wrong"), NAMES))
    assert client.what("error") == {"what": "error", "code": 401, "closed": True}


def test_python_s_requests_read_the_stream(server, well, viewer):
    with requests.get(url_of(server, well, viewer), stream=True, timeout=15) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        assert any(line == "event: connected" for line in lines)
        ingest(server, readings(well, [1]))
        assert any(line == "event: telemetry_update" for line in lines)
        assert json.loads(next(lines).removeprefix("data: "))["data"]["vibration"] == 1


LISTEN = """
window.seen = {};
window.source = new EventSource(%s);
for (const name of %s) {
    source.addEventListener(name, event => (seen[name] ??= []).push(event.data ? JSON.parse(event.data) : null));
}
0
"""


def test_a_page_s_event_source_sees_a_well(server, well, viewer, browser):
    pipelines.working(server)
    browser.call("Page.setBypassCSP", enabled=True)  # the probe's page is only borrowed for its origin
    browser.open(f"{server.url}/livez")
    browser.run(LISTEN % (json.dumps(url_of(server, well, viewer)), json.dumps([*NAMES, "error"])))
    browser.wait("seen.connected?.length === 1", "the stream is open")
    ingest(server, {"well_id": well, **READING, "vibration": 5.2})
    browser.wait("seen.alert?.length === 1", "the alert")
    assert browser.run("seen.telemetry_update[0].data.flow_rate") == 1000.5
    assert browser.run("seen.error") is None
    server.restart()
    browser.wait("seen.connected.length === 2", "it is back", 30)
    ingest(server, readings(well, [1]))
    browser.wait("seen.telemetry_update.length === 2", "and sees what is new, once")


# login

def test_a_login_gives_a_token_for_all_streams_and_a_refresh_another(server, well, stream, clients):
    answer = server.login("vera", PASSWORD).json()
    assert set(answer) == {"access_token", "token_type", "expires_in"} and (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    token = answer["access_token"]
    stream(server, well, token=token)
    assert clients(SioPy(server.url, token)).event("connected")["username"] == "vera"
    fresh = server.request("POST", "/api/v1/auth/refresh", key=token).json()
    assert (fresh["token_type"], fresh["expires_in"]) == ("Bearer", 3600) and fresh["access_token"] != token
    stream(server, well, token=fresh["access_token"])


def test_how_long_a_token_is_good_for_is_set(prepare):
    server = prepare(AUTH__TOKEN_TTL="2h").start()
    assert server.login("vera", PASSWORD).json()["expires_in"] == 7200


def test_a_wrong_password_is_told_as_an_unknown_user_is(server):
    wrong, unknown = server.login("vera", "wrong"), server.login("nobody", "wrong")
    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text) and wrong.status_code == 401


def test_a_password_is_kept_as_the_hash_that_the_command_makes(prepare, well, stream):
    server = prepare()
    made = server.run("user", "hash", stdin=f"{PASSWORD}!\n")
    hashed = made.stdout.strip().splitlines()[-1]
    assert made.code == 0 and hashed.startswith("$argon2id$"), made
    server.settings["AUTH__USERS__WIN__PASSWORD_HASH"], server.settings["AUTH__USERS__WIN__ROLES"] = hashed, "viewer"
    stream(server.start(), well, token=token_of(server, "win", f"{PASSWORD}!"))


# roles

@pytest.mark.parametrize("name, may", [("vera", False), ("omar", True), ("ada", True)])
def test_all_roles_read_and_operators_and_admins_ingest(server, well, stream, name, may):
    token = token_of(server, name)
    reader = stream(server, well, token=token)
    answer = send(server, {"well_id": well, "pip": 1}, key=token)
    if may:
        assert answer.status_code == 202 and reader.notice("telemetry_update").data["data"]["pip"] == 1
    else:
        refused(answer, 403, "AuthorizationError")
        assert server.room(f"well:{well}") is None or not server.all_events(f"well:{well}")


def test_only_an_admin_is_told_of_the_whole_server(server, clients):
    for name in ("vera", "omar", "ada"):
        client = clients(SioPy(server.url, token_of(server, name)))
        client.client.emit("get_stats")
        assert ("server" in client.event("stats")) == (name == "ada"), name


def test_ingest_keeps_to_the_rooms_that_may_be_published_to(server, well):
    token = mint(sub="sensor", roles=["operator"], publish=[f"well:{well}"], ttl=3000)
    ingest(server, {"well_id": well, "pip": 1}, key=token)
    refused(send(server, [{"well_id": well, "pip": 2}, {"well_id": "other", "pip": 2}], key=token), 403, "AuthorizationError")
    assert [event["data"]["pip"] for event in server.all_events(f"well:{well}")] == [1], "all or nothing"


def test_without_a_credential_nothing_is_ingested(server, well):
    found = refused(send(server, {"well_id": well, "pip": 1}, key=None), 401, "AuthenticationError")
    assert found["message"] == "Invalid or expired authentication token"


# limits

@pytest.mark.parametrize("limit", [None, 40])
def test_a_client_may_send_ten_messages_a_second_or_what_is_set(prepare, viewer, limit):
    server = prepare(**({} if limit is None else {"WELLS__MESSAGES_PER_SECOND": limit})).start()
    client = Socket(server.url)
    client.connect(viewer)
    client.event("connected")
    begun = time.monotonic()
    client.flood(*['42["ping"]'] * 60)
    pongs, name = -1, "pong"
    while name == "pong":
        name, told = json.loads(client.until("42")[2:])
        pongs += 1
    elapsed, allowed = time.monotonic() - begun, limit or 10
    assert name == "error" and told["error"] == "RateLimitError" and told["retryAfter"] >= 1
    assert allowed - 1 <= pongs <= allowed * (2 + elapsed)


def test_too_much_ingest_is_told_when_to_come_back(prepare, well):
    server = prepare(LIMITS__PER_USER_PUBLISHES_PER_SECOND=2).start()
    answers = [send(server, {"well_id": well, "pip": 1}) for _ in range(20)]
    assert answers[0].status_code == 202
    answer = next(one for one in answers if one.status_code != 202)
    found = refused(answer, 429, "RateLimitError")
    assert int(answer.headers["retry-after"]) == found["retryAfter"] >= 1


# metrics

def test_the_metrics_have_the_names_that_dashboards_ask_for(server, well, viewer, stream, clients):
    def value(name):
        found = re.search(rf"^{name} (\S+)$", server.get("/metrics").text, re.MULTILINE)
        return found and float(found.group(1))

    counted = ("websocket_messages_total", "websocket_errors_total", "realtime_publishes_total", "realtime_publish_duration_seconds_count")
    before = {name: value(name) for name in counted}
    assert None not in before.values() and (value("websocket_connections"), value("sse_connections")) == (0, 0)
    stream(server, well)
    client = clients(SioPy(server.url, viewer))
    client.subscribe(well)
    ingest(server, readings(well, [1]))
    client.event("telemetry_update")
    client.client.emit("subscribe", {})
    client.event("error")
    assert (value("websocket_connections"), value("sse_connections")) == (1, 1)
    assert all(value(name) > before[name] for name in counted), before
    assert value("realtime_publishes_total") == before["realtime_publishes_total"] + 1


# examples

def fill(browser, **fields):
    """Fills in a form and sends it."""
    for name, text in fields.items():
        browser.run(f"document.getElementById({json.dumps(name)}).value = {json.dumps(text)}")
    browser.run("document.getElementById('connect').click()")


ELSEWHERE = "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith(location.origin) && !name.startsWith('data:'))"


@pytest.mark.parametrize("page", ["websocket_client.html", "sse_client.html"])
def test_a_page_of_the_examples_shows_a_well_and_asks_nobody_else(server, well, browser, page):
    pipelines.working(server)
    browser.open(f"{server.url}/examples/{page}")
    fill(browser, username="vera", password=PASSWORD, well=well)
    joined = "subscribed" if page.startswith("websocket") else "connected"
    browser.wait(f"document.querySelector('#events [data-name={joined}]') && document.getElementById('state').dataset.state === 'live'", "it is live")
    ingest(server, {"well_id": well, **READING, "vibration": 5.2})
    browser.wait("document.querySelector('#alerts li.started') !== null", "the alert")
    assert "high_vibration" in browser.text("#alerts li")
    assert "vibration 5.2" in browser.text(f'#wells [data-well="{well}"]')
    assert browser.run(ELSEWHERE) == [] and browser.errors == []
    browser.run("document.getElementById('disconnect').click()")
    browser.wait("document.getElementById('state').dataset.state === 'off'", "it is off")


@pytest.mark.parametrize("page", ["websocket_client.html", "sse_client.html"])
def test_a_page_of_the_examples_says_when_a_token_is_wrong(server, well, browser, page):
    browser.open(f"{server.url}/examples/{page}")
    fill(browser, token="wrong", well=well)
    browser.wait("document.getElementById('state').dataset.state === 'failed'", "it says so")


@pytest.mark.parametrize("installed", [True, False], ids=["with websocket-client", "without it"])
def test_the_script_of_the_examples_follows_several_wells(server, well, viewer, tmp_path, installed):
    pipelines.working(server)
    if not installed:
        (tmp_path / "websocket.py").write_text("raise ImportError")
    command = [sys.executable, ROOT / "examples" / "websocket_client.py", "--server", server.url, "--token", viewer, "--well", well, "--well", f"{well}-B"]
    child = spawn(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                  env={**os.environ, "PYTHONPATH": str(tmp_path)})
    said = Lines(child.stdout)
    for name in (well, f"{well}-B"):
        assert said.wait_for(rf'"subscribed".*"{name}"', 20), said.text()
    ingest(server, [{"well_id": well, "vibration": 5.2}, {"well_id": f"{well}-B", "pip": 1}])
    for expected in (rf'"telemetry_update".*"{well}"', '"high_vibration"', rf'"telemetry_update".*"{well}-B"'):
        assert said.wait_for(expected, 20), said.text()
    child.terminate()
    assert child.wait(20) == 0
    kill(child)


def test_the_script_of_the_examples_says_when_a_token_is_wrong(server, well):
    command = [sys.executable, ROOT / "examples" / "websocket_client.py", "--server", server.url, "--token", "wrong", "--well", well]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 1 and "token" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_what_is_served_is_what_is_in_the_folder(server):
    for file in sorted((ROOT / "examples").glob("*_client.*")):
        answer = server.get(f"/examples/{file.name}", key=None)
        assert (answer.status_code, answer.content) == (200, file.read_bytes()), file
    assert server.get("/examples/../Cargo.toml", key=None).status_code in (401, 404)
    assert server.get("/examples/nothing", key=None).status_code == 404


def test_the_client_script_is_the_published_one_with_its_licence(server):
    package = JS / "node_modules" / "socket.io-client"
    for name in ("socket.io.js", "socket.io.min.js"):
        answer = server.get(f"/socket.io/{name}", key=None)
        assert (answer.status_code, answer.content) == (200, (package / "dist" / "socket.io.min.js").read_bytes())
        assert answer.headers["content-type"].startswith("text/javascript")
    assert server.get("/socket.io/socket.io.LICENSE", key=None).content == (package / "LICENSE").read_bytes()
    assert server.get("/socket.io/other.js", key=None).status_code in (401, 404)


def test_a_page_from_an_allowed_origin_may_ask(prepare, well, viewer):
    server = prepare(CORS__ORIGINS="http://localhost:3000").start()
    wanted = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for path in (INGEST, "/api/v1/auth/login", f"/api/v1/sse/stream/{well}"):
        answer = server.request("OPTIONS", path, key=None, headers=wanted)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "http://localhost:3000", path
    with server.get(f"/api/v1/sse/stream/{well}?token={viewer}", key=None, headers={"Origin": "http://localhost:3000"}, stream=True) as answer:
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")


# nginx in front, with config/nginx.conf

STREAMS = "socket\\.io|api/v1/sse/) {\n"
ALWAYS = f'{STREAMS}proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection "upgrade";\n'


@pytest.mark.parametrize("edits", [[], [(STREAMS, ALWAYS)]], ids=["as it is", "always asking for an upgrade, as many configurations do"])
def test_both_streams_and_ingest_work_through_nginx(server, well, viewer, sse, clients, tmp_path, edits):
    front = clients(Nginx(tmp_path, server, edits).start())
    reader = sse(front, path=f"/api/v1/sse/stream/{well}", key=None, token=viewer)
    assert reader.next().name == "connected"
    ways = [clients(SioJs()).connect(front.url, viewer, transports=transports, rejectUnauthorized=False)
            for transports in (["websocket"], ["polling"], ["polling", "websocket"])]
    for client in ways:
        client.subscribe(well)
    ingest(front, readings(well, range(3), "n"))
    assert [reader.notice("telemetry_update").data["data"]["n"] for _ in range(3)] == [0, 1, 2]
    for client in ways:
        assert [client.event("telemetry_update")[0]["data"]["n"] for _ in range(3)] == [0, 1, 2]
