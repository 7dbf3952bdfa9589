"""The surface `analytics`: what an administrator's dashboard is promised, row by row. Metrics come in by the native API, and go out to
those who have the role for it, also over connections that break.
"""

import json
import socket as socketlib
import time
import uuid

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from harness.api import instant
from harness.node import Script
from harness.process import eventually
from harness.sse import Sse
from harness.tokens import SECRET, mint, user

BASE = "/api/admin/analytics"
WAIT = 15
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def admin(sub="root", **claims):
    """A platform administrator's token."""
    return mint(sub=sub, roles=claims.pop("roles", ["platform_admin"]), ttl=claims.pop("ttl", 3000), **claims)


ROOT = admin()
WITHOUT = {"admin": mint(sub="boss", roles=["admin"]), "operator": mint(sub="op", roles=["operator"]), "none": mint(sub="nobody", roles=[])}


@pytest.fixture
def server(start_daemon):
    """A daemon that takes tokens by SECRET."""
    return start_daemon(AUTH__JWT_SECRET=SECRET)


@pytest.fixture
def start(start_daemon):
    """The same with settings of its own."""
    return lambda **settings: start_daemon(AUTH__JWT_SECRET=SECRET, **settings)


def call(daemon, path, body=None, key=ROOT, **options):
    """A call of the surface, as it was answered."""
    method = "GET" if body is None else "POST"
    more = {} if body is None else {"json": body}
    return daemon.request(method, f"{BASE}/{path}", key=key, **more, **options)


def data(answer):
    """What an answer brings that all is well."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    body = answer.json()
    assert set(body) == {"success", "data"} and body["success"] is True
    return body["data"]


def refused(answer, status, code=None):
    """Why a call was refused, in the surface's words."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    body = answer.json()
    assert body["success"] is False and body["error"]["message"]
    assert code is None or body["error"]["code"] == code, body
    return body["error"]


def publish(daemon, metric, value, kind="sample", **more):
    """One event of a metric, by the native API."""
    return daemon.publish(f"analytics:{metric}", {"kind": kind, "data": value, **more})


def audit(daemon, **wanted):
    """Waits for a line of the audit log with these values."""
    def look():
        lines = [json.loads(line) for line in daemon.audit_file.read_text().split("\n")[:-1]] if daemon.audit_file.exists() else []
        return next((line for line in lines if all(line.get(name) == value for name, value in wanted.items())), None)

    return eventually(look, f"a line with {wanted} in the audit log", timeout=5)


class Stream:
    """The stream by a real curl."""

    def __init__(self, daemon, metrics=None, key=ROOT, path="stream", **query):
        query = {**({} if metrics is None else {"metrics": metrics}), **query}
        self.sse = Sse(daemon, key=key, path=f"{BASE}/{path}", **query)

    def next(self, timeout=WAIT):
        """The next message, which has no name and the form of all."""
        message = self.sse.next(timeout)
        assert message.name == "message", f"not for onmessage: {message}"
        assert {"type", "timestamp", "data"} <= set(message.data) and instant(message.data["timestamp"])
        return message.data

    def until(self, kind, timeout=WAIT):
        """The next message of a type."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def updates(self, count):
        """The data of the next so many updates."""
        return [self.until("metrics_update")["data"] for _ in range(count)]

    def open(self):
        """Reads what comes first: who it is, and its first data."""
        established = self.next()
        assert established["type"] == "connection_established"
        first = self.next()
        assert first["type"] == "initial_metrics"
        return established["data"], first["data"]

    def stop(self):
        self.sse.stop()


class Socket:
    """The WebSocket by the `websockets` library."""

    def __init__(self, daemon, key=ROOT, header=False, path="websocket", receive=None, **query):
        query = "&".join(f"{name}={value}" for name, value in {**({} if header or key is None else {"token": key}), **query}.items())
        headers = {"Authorization": f"Bearer {key}"} if header and key else {}
        raw = socketlib.socket()
        if receive:
            raw.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_RCVBUF, receive)
        raw.settimeout(WAIT)
        raw.connect(("127.0.0.1", int(daemon.address.rsplit(":", 1)[1])))
        try:
            self.connection = connect(f"ws://{daemon.address}{BASE}/{path}?{query}", sock=raw, additional_headers=headers, proxy=None, compression=None,
                                      ping_interval=None, close_timeout=1, max_size=None, max_queue=(2, 1) if receive else 1024, legacy=True)
        except BaseException:
            raw.close()
            raise

    def next(self, timeout=WAIT):
        return json.loads(self.connection.recv(timeout))

    def until(self, kind, timeout=WAIT):
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def say(self, message):
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def ask(self, kind, answer, **payload):
        self.say({"type": kind, **({"data": payload} if payload else {})})
        return self.until(answer)

    def stop(self):
        self.connection.close()

    def cut(self):
        """Goes without a word, as a network does."""
        self.connection.socket.shutdown(2)


@pytest.fixture
def stream():
    """Opens streams."""
    streams = []

    def open_stream(*arguments, **options):
        streams.append(Stream(*arguments, **options))
        return streams[-1]

    yield open_stream
    for one in streams:
        one.stop()


@pytest.fixture
def socket():
    """Opens WebSockets."""
    sockets = []

    def open_socket(*arguments, **options):
        sockets.append(Socket(*arguments, **options))
        return sockets[-1]

    yield open_socket
    for one in sockets:
        one.stop()


@pytest.fixture
def js():
    """A page in Node, with the real `eventsource` and `ws`."""
    scripts = []

    def start_script():
        scripts.append(Script("analytics.mjs"))
        return scripts[-1]

    yield start_script
    for script in scripts:
        script.stop()


def parked(daemon, count=1):
    """Waits until so many connections are kept for clients that are away."""
    return eventually(lambda: data(call(daemon, "connection-stats"))["parked"]["connections"] == count, f"{count} kept connections")


def lost(daemon, stream):
    """Has a client lose its connection; returns when the daemon has noticed."""
    before = data(call(daemon, "connection-stats"))["parked"]["connections"]
    stream.stop()
    parked(daemon, before + 1)


# --- base: the role platform_admin, and an audit log

CALLS = [("stream", None), ("websocket", None), ("websocket-info", None), ("connection-stats", None), ("websocket-stats", None),
         ("subscribe", {"metrics": ["users"]}), ("unsubscribe", {"metrics": ["users"]}), ("test-connection", {"connectionType": "sse"})]


@pytest.mark.parametrize("who", WITHOUT)
def test_base_every_call_needs_the_role_platform_admin_and_admin_alone_is_not_enough(server, who):
    for path, body in CALLS:
        refused(call(server, path, body, key=WITHOUT[who]), 403, "forbidden")


def test_base_no_call_works_without_a_credential(server):
    for path, body in CALLS:
        refused(call(server, path, body, key=None), 401, "unauthorized")
        refused(call(server, path, body, key="nonsense"), 401, "unauthorized")


@pytest.mark.parametrize("path, body", [each for each in CALLS if each[0] not in ("stream", "websocket")], ids=lambda each: each if isinstance(each, str) else "")
def test_base_every_call_is_audited_with_who_what_when_from_where_and_the_outcome(server, path, body):
    data(call(server, path, body))
    line = audit(server, event="admin", path=f"{BASE}/{path}")
    assert (line["subject"], line["method"], line["client_ip"], line["status"]) == ("root", "GET" if body is None else "POST", "127.0.0.1", 200)
    assert instant(line["time"])


def test_base_streams_and_what_is_said_on_them_are_audited_with_their_connection(server, stream, socket):
    established, _ = stream(server, "users").open()
    assert audit(server, path=f"{BASE}/stream", status=200, subject="root")["connection"] == established["connectionId"]
    one = socket(server)
    number = one.next()["data"]["connectionId"]
    one.ask("subscribe", "subscribed", metrics=["users"])
    assert audit(server, path=f"{BASE}/websocket", status=101)["connection"] == number
    assert audit(server, method="WEBSOCKET subscribe", status=200)["connection"] == number


def test_base_refusals_are_audited_too(server):
    call(server, "connection-stats", key=WITHOUT["admin"])
    assert audit(server, path=f"{BASE}/connection-stats", status=403)["subject"] == "boss"
    call(server, "subscribe", {"metrics": []})
    assert audit(server, path=f"{BASE}/subscribe", status=400)["reason"] == "invalid-parameter"
    call(server, "connection-stats", key="nonsense")
    assert audit(server, path=f"{BASE}/connection-stats", status=401)
    requests.get(f"{server.url}{BASE}/reconnect?token=nonsense", timeout=WAIT)
    assert audit(server, path=f"{BASE}/reconnect", status=410)["client_ip"] == "127.0.0.1"


def test_base_tries_of_strangers_cannot_fill_the_audit_log(start):
    server = start(AUDIT__REFUSALS_PER_SECOND="2")
    for _ in range(60):
        refused(call(server, "reconnect?token=nonsense", key=None), 410)
    assert 'tidegate_requests_refused_total{reason="reconnect-token-gone"} 60' in server.get("/metrics").text.splitlines()
    # Ends the audit log with everything in it.
    server.terminate()
    lines = [json.loads(line) for line in server.audit_file.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "refused"]
    assert sum(line.get("count", 1) for line in told) == 60 and len(told) < 40
    assert not [line for line in lines if line["event"] == "admin"]


def test_base_a_call_whose_client_does_not_wait_for_the_answer_is_audited_too(start, socket):
    server = start(LIMITS__SEND_BUFFER="8KiB")
    one = socket(server, metrics="users", receive=4096)
    one.until("initial_metrics")
    for _ in range(100):
        publish(server, "users", "x" * 20_000)
    # A stream that takes nothing is waited for.
    with pytest.raises(requests.ReadTimeout):
        call(server, "subscribe", {"metrics": ["credits"]}, timeout=0.2)
    line = audit(server, path=f"{BASE}/subscribe", reason="client-gone")
    assert (line["subject"], line["method"]) == ("root", "POST")


def test_base_no_token_stands_in_the_audit_log(server, stream):
    one = stream(server)
    established, _ = one.open()
    lost(server, one)
    stream(server, key=None, path="reconnect", token=established["reconnectToken"]).next()
    audit(server, path=f"{BASE}/reconnect", status=200, subject="root")
    text = server.audit_file.read_text()
    assert established["reconnectToken"] not in text and ROOT not in text


# --- rooms analytics:{metric}, fed by the native API

def test_rooms_an_event_of_the_native_api_appears_as_an_update(server, stream):
    one = stream(server, "users")
    one.open()
    publish(server, "users", {"active": 7})
    update = one.until("metrics_update")
    assert (update["metric"], update["data"]) == ("users", {"active": 7})


def test_rooms_an_update_is_an_event_of_the_native_api(server):
    publish(server, "credits", {"spent": 3})
    assert [event["data"] for event in server.history("analytics:credits")["events"]] == [{"spent": 3}]


# --- SSE

def test_sse_headers(server, stream):
    one = stream(server, "users")
    status, headers = one.sse.head()
    assert (status, headers["content-type"].split(";")[0], headers["cache-control"]) == (200, "text/event-stream", "no-cache")
    assert headers["x-reconnect-token"] == one.next()["data"]["reconnectToken"]


def test_sse_first_comes_who_it_is_and_then_the_first_data_of_each_metric(server, stream):
    publish(server, "users", {"active": 1})
    publish(server, "users", {"active": 2})
    publish(server, "dashboard", {"open": True})
    publish(server, "credits", {"spent": 3})
    established, first = stream(server, "dashboard,users").open()
    assert established["connectionId"] and len(established["reconnectToken"]) == 36 and established["metrics"] == ["dashboard", "users"]
    assert first == {"dashboard": {"open": True}, "users": {"active": 2}}


def test_sse_all_known_metrics_come_when_none_is_named_and_new_ones_too(server, stream):
    publish(server, "users", 1)
    publish(server, "credits", 2)
    one = stream(server)
    assert one.open()[1] == {"users": 1, "credits": 2}
    publish(server, "never-seen", 3)
    publish(server, "users", 4)
    seen = {update["metric"]: update["data"] for update in (one.until("metrics_update"), one.until("metrics_update"))}
    assert seen == {"never-seen": 3, "users": 4}


def test_sse_only_the_metrics_that_are_named_come(server, stream):
    one = stream(server, "users")
    one.open()
    publish(server, "credits", "not this")
    publish(server, "users", "this")
    assert one.until("metrics_update")["data"] == "this"


@pytest.mark.parametrize("metric, kind", [("alerts", "sample"), ("users", "system_alert"), ("users", "error")])
def test_sse_alerts_and_errors_are_system_alerts(server, stream, metric, kind):
    one = stream(server, "users")
    one.open()
    publish(server, metric, {"text": "look"}, kind=kind)
    assert one.until("system_alert")["data"] == {"text": "look"}


def test_sse_heartbeats_say_that_it_lives_and_where_it_stands(start, stream):
    one = stream(start(HEARTBEAT__INTERVAL="100ms"), "users")
    one.open()
    assert one.until("heartbeat")["data"]["cursor"]


def test_sse_a_stream_resumes_by_its_cursor(server, stream):
    one = stream(server, "users,credits")
    one.open()
    publish(server, "users", 1)
    assert one.updates(1) == [1]
    cursor = one.sse.last_id
    one.stop()
    publish(server, "users", 2)
    publish(server, "credits", 3)
    again = stream(server, "users,credits", last_event_id=cursor)
    again.open()
    assert sorted(again.updates(2)) == [2, 3]


def test_sse_a_metric_that_cannot_be_is_refused_by_its_name(server):
    error = refused(call(server, "stream?metrics=users,not%20this"), 400, "invalid_parameter")
    assert error["fields"][0]["field"] == "metrics" and "not this" in error["message"]


# --- reconnect

def reconnect(stream, daemon, token, **options):
    return stream(daemon, key=options.pop("key", None), path="reconnect", token=token, **options)


def test_reconnect_subscriptions_and_what_waited_come_over_in_order(server, stream):
    one = stream(server, "users,credits")
    established, _ = one.open()
    lost(server, one)
    for n in range(30):
        publish(server, "users", n)
    again = reconnect(stream, server, established["reconnectToken"])
    told = again.next()
    assert told["type"] == "connection_established" and told["data"]["metrics"] == ["users", "credits"]
    assert again.updates(30) == list(range(30))
    publish(server, "credits", "live")
    assert again.updates(1) == ["live"]


def test_reconnect_alerts_come_first_and_each_metric_in_its_order(server, stream):
    one = stream(server, "users,credits")
    established, _ = one.open()
    lost(server, one)
    publish(server, "users", "low", priority="low")
    publish(server, "credits", "normal")
    publish(server, "alerts", "critical")
    again = reconnect(stream, server, established["reconnectToken"])
    again.next()
    assert [again.next()["data"] for _ in range(3)] == ["critical", "normal", "low"]


def test_reconnect_of_more_than_100_messages_the_least_urgent_are_shed_and_named(server, stream):
    one = stream(server, "users,credits")
    established, _ = one.open()
    lost(server, one)
    for n in range(20):
        publish(server, "credits", n, priority="low")
    daemon_events = [{"kind": "sample", "data": n} for n in range(90)]
    server.publish("analytics:users", daemon_events)
    publish(server, "alerts", "alert")
    again = reconnect(stream, server, established["reconnectToken"])
    messages = []
    while len([m for m in messages if m["type"] in ("metrics_update", "system_alert")]) < 100:
        messages.append(again.next())
    kept = [m["data"] for m in messages if m["type"] == "metrics_update" and m["metric"] == "users"]
    assert kept == list(range(90)), "what is normal stays, in its order"
    assert [m["data"] for m in messages if m["type"] == "system_alert"] == ["alert"]
    assert [m["data"] for m in messages if m["type"] == "metrics_update" and m["metric"] == "credits"] == list(range(11, 20))
    dropped = [m["data"] for m in messages if m["type"] == "messages_dropped"]
    assert {m["metric"] for m in dropped} == {"credits"} and sum(m["count"] for m in dropped) == 11


def test_reconnect_what_is_marked_low_goes_first_in_one_metric_too(start, stream):
    server = start(ANALYTICS__MAILBOX_MESSAGES="4")
    one = stream(server, "users")
    established, _ = one.open()
    lost(server, one)
    for n, (priority, kind) in enumerate([("low", "sample"), ("normal", "sample"), ("normal", "system_alert")] * 2):
        publish(server, "users", n, kind=kind, priority=priority)
    again = reconnect(stream, server, established["reconnectToken"])
    messages = [again.next()]
    while messages[-1]["data"] != 5:
        messages.append(again.next())
    assert [m["data"] for m in messages if m["type"] in ("metrics_update", "system_alert")] == [1, 2, 4, 5]
    dropped = [m["data"] for m in messages if m["type"] == "messages_dropped"]
    assert sum(each["count"] for each in dropped) == 2, "both that were low"


def test_reconnect_a_token_works_once_and_a_new_one_is_issued(server, stream):
    one = stream(server, "users")
    first = one.open()[0]["reconnectToken"]
    lost(server, one)
    again = reconnect(stream, server, first)
    assert again.sse.head()[1]["x-reconnect-token"] == (second := again.next()["data"]["reconnectToken"]) != first
    refused(call(server, f"reconnect?token={first}", key=None), 410, "reconnect_token_gone")
    lost(server, again)
    assert reconnect(stream, server, second).next()["type"] == "connection_established"


@pytest.mark.parametrize("token", ["nonsense", "0aff5d0e-6ba2-4efe-8ba3-ec139b710db5", ROOT])
def test_reconnect_an_unknown_token_is_gone(server, token):
    refused(call(server, f"reconnect?token={token}", key=None), 410, "reconnect_token_gone")


def test_reconnect_without_a_token_names_the_parameter(server):
    assert refused(call(server, "reconnect", key=None), 400)["fields"][0]["field"] == "token"


@pytest.mark.parametrize("way", ["header", "access_token", "cookie"])
def test_reconnect_whoever_names_somebody_else_beside_the_token_is_refused_and_it_is_not_spent(server, stream, way):
    one = stream(server, "users")
    token = one.open()[0]["reconnectToken"]
    lost(server, one)

    def ask(key):
        given = {"header": {"headers": {"Authorization": f"Bearer {key}"}}, "access_token": {"params": {"access_token": key}},
                 "cookie": {"cookies": {"tidegate_session": key}}}[way]
        params = {"token": token, **given.pop("params", {})}
        return requests.get(f"{server.url}{BASE}/reconnect", params=params, stream=True, timeout=WAIT, **given)

    refused(ask(admin("eve")), 403, "forbidden")
    refused(ask("nonsense"), 401, "unauthorized")
    with ask(admin("root", jti="another")) as answer:
        assert answer.status_code == 200, "the same user may show another token of its own"


def test_reconnect_ends_with_the_users_own_token(server, stream):
    one = stream(server, "users", key=admin("brief", ttl=2))
    token = one.open()[0]["reconnectToken"]
    lost(server, one)
    eventually(lambda: call(server, f"reconnect?token={token}&x=1", key=ROOT).status_code == 410, "it is gone with its user's token", timeout=20, every=0.5)


def test_reconnect_a_stream_that_is_taken_up_ends_with_the_users_own_token(start, stream):
    server = start(AUTH__LEEWAY="0s")
    one = stream(server, "users", key=admin("brief", ttl=4))
    token = one.open()[0]["reconnectToken"]
    lost(server, one)
    again = reconnect(stream, server, token)
    again.next()
    messages, _ = again.sse.ended()
    assert messages[-1].data["type"] == "error" and messages[-1].data["data"]["code"] == "token_expired"


@pytest.fixture
def pam(start):
    """A daemon with the user pam, who signs in, and the key that she gets."""
    server = start(started=False, **{name: value for name, value in user("pam", "correct horse").items() if "HASH" in name})
    server.configure(ROLES % "platform_admin").start()
    return server, server.login("pam", "correct horse").json()["access_token"]


ROLES = '[auth.users.pam]\nroles = ["%s"]\n'


def test_reconnect_is_over_when_the_user_has_signed_out(pam, stream):
    server, key = pam
    one = stream(server, "users", key=key)
    token = one.open()[0]["reconnectToken"]
    lost(server, one)
    assert server.request("POST", "/api/v1/auth/logout", key=key).status_code < 300
    refused(call(server, f"reconnect?token={token}", key=None), 410)


def test_reconnect_needs_the_role_still(pam, stream):
    server, key = pam
    one = stream(server, "users", key=key)
    token = one.open()[0]["reconnectToken"]
    lost(server, one)
    server.reload(ROLES % "admin")
    refused(call(server, f"reconnect?token={token}", key=None), 403, "forbidden")


def test_base_a_stream_whose_user_loses_the_role_gets_nothing_more(pam, stream):
    server, key = pam
    one = stream(server, "users", key=key)
    one.open()
    server.reload(ROLES % "admin")
    assert one.until("error")["data"]["code"] == "forbidden"
    publish(server, "users", "not this")
    publish(server, "alerts", "nor this")
    assert data(call(server, "connection-stats"))["sse"]["messagesDelivered"] == 0


def test_reconnect_a_connection_that_is_still_open_is_taken_over(server, stream):
    one = stream(server, "users")
    token = one.open()[0]["reconnectToken"]
    again = reconnect(stream, server, token)
    assert again.next()["type"] == "connection_established"
    messages, _ = one.sse.ended()
    assert messages[-1].data["data"]["code"] == "taken_over"
    publish(server, "users", 1)
    assert again.updates(1) == [1]
    assert data(call(server, "connection-stats"))["totalConnections"] == 1


def test_reconnect_with_a_cursor_nothing_is_missed_that_was_lost_on_the_way(server, stream):
    one = stream(server, "users")
    token = one.open()[0]["reconnectToken"]
    cursor = one.sse.last_id
    publish(server, "users", 1)
    one.updates(1)
    lost(server, one)
    publish(server, "users", 2)
    again = reconnect(stream, server, token, last_event_id=cursor)
    assert again.updates(2) == [1, 2]


def test_reconnect_with_a_cursor_that_is_refused_does_not_spend_the_token_or_lose_what_waits(server, stream):
    streams = [stream(server, "users") for _ in range(5)]
    token = streams[0].open()[0]["reconnectToken"]
    cursor = streams[0].sse.last_id
    lost(server, streams[0])
    publish(server, "users", 1)
    refused(call(server, f"reconnect?token={token}&last_event_id=12345", key=None), 400)
    last = stream(server, "users")
    last.open()
    refused(call(server, f"reconnect?token={token}&last_event_id={cursor}", key=None), 429, "too_many_connections")
    last.stop()
    streams[1].stop()
    eventually(lambda: data(call(server, "connection-stats"))["totalConnections"] == 3, "places are free")
    again = reconnect(stream, server, token)
    assert again.updates(1) == [1]
    refused(call(server, f"reconnect?token={token}", key=None), 410, "reconnect_token_gone")


def test_reconnect_what_waits_is_in_the_statistics(server, stream):
    one = stream(server, "users")
    one.open()
    lost(server, one)
    publish(server, "users", 1)
    eventually(lambda: data(call(server, "connection-stats"))["parked"]["messages"] == 1, "one message waits")


# --- WebSocket

def test_websocket_subscribe_unsubscribe_ping(server, socket):
    publish(server, "users", 1)
    one = socket(server, userId="root")
    established = one.next()
    assert established["type"] == "connection_established" and established["data"]["connectionId"] and instant(established["timestamp"])
    assert one.ask("subscribe", "subscribed", metrics=["dashboard", "users"])["data"] == {"metrics": ["dashboard", "users"]}
    assert one.until("initial_metrics")["data"] == {"users": 1}
    publish(server, "users", 2)
    assert one.until("metrics_update")["data"] == 2
    assert one.ask("unsubscribe", "unsubscribed", metrics=["users"])["data"] == {"metrics": ["users"]}
    publish(server, "users", "not this")
    publish(server, "dashboard", "this")
    assert one.until("metrics_update")["data"] == "this"
    assert one.ask("ping", "pong", n=1)["data"] == {"n": 1}


def test_websocket_alerts_come_without_a_subscription(server, socket):
    one = socket(server)
    one.next()
    publish(server, "alerts", "look")
    assert one.until("system_alert")["data"] == "look"


def test_websocket_the_user_id_must_be_the_tokens_subject(server, socket):
    with pytest.raises(InvalidStatus) as refusal:
        socket(server, userId="somebody")
    assert refusal.value.response.status_code == 403
    socket(server, header=True, userId="root").next()


def test_websocket_is_for_the_role_only(server, socket):
    for key, status in ((WITHOUT["admin"], 403), (None, 401), ("nonsense", 401)):
        with pytest.raises(InvalidStatus) as refusal:
            socket(server, key=key)
        assert refusal.value.response.status_code == status


def test_websocket_metrics_in_the_query_and_a_cursor(server, socket):
    one = socket(server, metrics="users")
    cursor = one.next()["data"]["cursor"]
    one.until("initial_metrics")
    one.stop()
    publish(server, "users", 1)
    again = socket(server, last_event_id=cursor)
    assert again.until("metrics_update")["data"] == 1


@pytest.mark.parametrize("said, code", [("{", "invalid_json"), ('{"type":"dance"}', "unknown_type"), ('{"type":"subscribe","data":{}}', "invalid_field"),
                                        ('{"type":"subscribe","data":{"metrics":["a b"]}}', "invalid_field"), (b"\x00", "binary_unsupported")])
def test_websocket_what_is_not_understood_is_answered_and_the_connection_stays(server, socket, said, code):
    one = socket(server)
    one.next()
    one.say(said)
    assert one.until("error")["data"]["code"] == code
    one.ask("ping", "pong")


def test_websocket_a_message_too_big_is_told_and_closes_1009(server, socket):
    one = socket(server)
    one.next()
    one.say("x" * (101 << 10))
    assert one.until("error")["data"]["code"] == "message_too_big"
    with pytest.raises(ConnectionClosed) as end:
        one.next()
    assert end.value.rcvd.code == 1009


def test_websocket_a_lost_connection_is_taken_up_again(server, socket):
    one = socket(server, metrics="users")
    token = one.next()["data"]["reconnectToken"]
    one.until("initial_metrics")
    one.cut()
    parked(server)
    publish(server, "users", 1)
    again = socket(server, key=None, path="reconnect", token=token)
    assert again.next()["type"] == "connection_established"
    assert again.until("metrics_update")["data"] == 1


# --- info

def test_info_websocket(server):
    info = data(call(server, "websocket-info"))
    assert info["enabled"] is True and info["endpoint"] == f"{BASE}/websocket" and info["protocols"] == ["ws", "wss"]
    assert info["messageTypes"] == ["subscribe", "unsubscribe", "ping"] and info["features"]


def test_info_connection_stats(server, stream, socket):
    stream(server, "users").open()
    one = socket(server, key=admin("other"))
    one.next()
    one.ask("subscribe", "subscribed", metrics=["users"])
    publish(server, "users", 1)
    one.until("metrics_update")
    stats = data(call(server, "connection-stats"))
    assert (stats["totalConnections"], stats["sse"]["connections"], stats["websocket"]["connections"]) == (2, 1, 1)
    assert stats["connectionsPerUser"] == {"root": 1, "other": 1} and stats["websocket"]["messagesDelivered"] == 1


def test_info_websocket_stats(server, stream, socket):
    stream(server, "users").open()
    one = socket(server, metrics="users")
    number = one.next()["data"]["connectionId"]
    stats = data(call(server, "websocket-stats"))
    assert stats["totalConnections"] == 1 and stats["connectionsPerUser"] == {"root": 1}
    assert [(each["connectionId"], each["userId"], each["metrics"]) for each in stats["list"]] == [(number, "root", ["users"])]


# --- control

def test_control_subscribe_and_unsubscribe_change_all_live_connections_of_the_user(server, stream, socket):
    both = [stream(server, "dashboard"), socket(server)]
    other = stream(server, "dashboard", key=admin("other"))
    for one in (both[0], other):
        one.open()
    both[1].next()
    assert data(call(server, "subscribe", {"metrics": ["users"]})) == {"metrics": ["users"], "connections": 2}
    for one in both:
        assert one.until("subscribed")["data"] == {"metrics": ["users"]}
    publish(server, "users", 1)
    for one in both:
        assert one.until("metrics_update")["data"] == 1
    assert data(call(server, "unsubscribe", {"metrics": ["users"]}))["connections"] == 2
    for one in both:
        assert one.until("unsubscribed")["data"] == {"metrics": ["users"]}
    publish(server, "users", "not this")
    publish(server, "dashboard", "this")
    assert both[0].updates(1) == ["this"] and other.updates(1) == ["this"]


def test_control_a_metric_that_is_subscribed_begins_with_its_first_data(server, stream, socket):
    publish(server, "users", 41)
    publish(server, "users", 42)
    both = [stream(server, "dashboard"), socket(server)]
    both[0].open()
    both[1].next()
    data(call(server, "subscribe", {"metrics": ["users", "credits"]}))
    for one in both:
        assert one.until("subscribed")["data"] == {"metrics": ["users", "credits"]}
        assert one.until("initial_metrics")["data"] == {"users": 42}


def test_control_first_data_goes_only_to_streams_whose_own_token_may_read_it(server, stream):
    publish(server, "users", 42)
    less = stream(server, "dashboard", key=admin(rooms=["analytics:dashboard", "analytics:alerts"]))
    less.open()
    data(call(server, "subscribe", {"metrics": ["users"]}))
    less.until("subscribed")
    publish(server, "users", 43)
    publish(server, "dashboard", "this")
    message = less.next()
    assert (message["type"], message["data"]) == ("metrics_update", "this")


def test_control_unsubscribe_holds_on_a_stream_of_all_metrics_too_until_subscribed_again(server, stream):
    publish(server, "users", 0)
    one = stream(server)
    one.open()
    call(server, "unsubscribe", {"metrics": ["users"]})
    one.until("unsubscribed")
    publish(server, "users", "not this")
    publish(server, "credits", "this")
    assert one.updates(1) == ["this"]
    call(server, "subscribe", {"metrics": ["users"]})
    one.until("subscribed")
    publish(server, "users", "again")
    assert one.updates(1) == ["again"]


def test_control_a_change_holds_when_it_is_answered_and_the_last_one_wins(server, stream):
    one = stream(server, "dashboard")
    one.open()
    for n in range(20):
        data(call(server, "subscribe", {"metrics": ["users"]}))
        publish(server, "users", n)
        assert one.updates(1) == [n]
        data(call(server, "unsubscribe", {"metrics": ["users"]}))
        publish(server, "users", "not this")
        data(call(server, "subscribe", {"metrics": ["users"]}))
        data(call(server, "unsubscribe", {"metrics": ["users"]}))
    data(call(server, "subscribe", {"metrics": ["users"]}))
    publish(server, "users", "last")
    assert one.updates(1) == ["last"]


def test_control_what_was_subscribed_comes_over_a_reconnect(server, stream):
    one = stream(server, "dashboard")
    token = one.open()[0]["reconnectToken"]
    call(server, "subscribe", {"metrics": ["users"]})
    one.until("subscribed")
    publish(server, "users", 0)
    one.updates(1)
    lost(server, one)
    publish(server, "users", 1)
    assert reconnect(stream, server, token).updates(1) == [1]


@pytest.mark.parametrize("body", [{}, {"metrics": []}, {"metrics": "users"}, {"metrics": [1]}, {"metrics": ["a b"]}])
def test_control_wrong_metrics_are_named_and_nothing_changes(server, body):
    for path in ("subscribe", "unsubscribe"):
        assert refused(call(server, path, body), 400)["fields"][0]["field"] == "metrics"


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_control_test_connection_measures_a_round_trip(server, kind):
    found = data(call(server, "test-connection", {"connectionType": kind}))
    assert found["connectionType"] == kind and found["healthy"] is True and 0 < found["roundTripMs"] < 5000
    assert server.room("probe:analytics")["head"], "it went through a room"


def test_control_test_connection_of_another_kind_is_refused(server):
    assert refused(call(server, "test-connection", {"connectionType": "pigeon"}), 400)["fields"][0]["field"] == "connectionType"


# --- limits

def test_limits_the_sixth_connection_of_a_user_is_refused(server, stream, socket):
    for _ in range(4):
        stream(server, "users").open()
    last = socket(server)
    last.next()
    error = refused(call(server, "stream"), 429, "too_many_connections")
    assert "5" in error["message"] and error["retryAfter"] > 0
    stream(server, "users", key=admin("other")).open()
    last.stop()
    eventually(lambda: data(call(server, "connection-stats"))["websocket"]["connections"] == 0, "its place is given back")
    stream(server, "users").open()


def test_limits_a_lost_connection_takes_no_place_and_a_reconnect_one(server, stream):
    streams = [stream(server, "users") for _ in range(5)]
    tokens = [one.open()[0]["reconnectToken"] for one in streams]
    lost(server, streams[0])
    stream(server, "users").open()
    refused(call(server, f"reconnect?token={tokens[0]}", key=None), 429, "too_many_connections")
    streams[1].stop()
    eventually(lambda: data(call(server, "connection-stats"))["totalConnections"] == 4, "one has gone")
    assert reconnect(stream, server, tokens[0]).next()["type"] == "connection_established", "a refusal does not spend the token"


def test_limits_by_the_documents_name_and_the_common_one_wins(start, stream, monkeypatch):
    monkeypatch.setenv("MAX_CONNECTIONS_PER_USER", "2")
    server = start()
    for _ in range(2):
        stream(server, "users").open()
    assert "2" in refused(call(server, "stream"), 429)["message"]
    server = start(LIMITS__PER_USER_CONNECTIONS="3")
    for _ in range(3):
        stream(server, "users").open()
    assert "limits.per_user_connections" in refused(call(server, "stream"), 429)["message"]


def test_limits_the_common_one_set_to_0_switches_it_off(start, stream):
    server = start(LIMITS__PER_USER_CONNECTIONS="0")
    streams = [stream(server, "users") for _ in range(7)]
    for one in streams:
        one.open()
    assert data(call(server, "connection-stats"))["totalConnections"] == 7
    assert data(call(server, "connection-stats"))["limits"]["connectionsPerUser"] == 0
    for one in streams:
        lost(server, one)
    parked(server, 7)


def test_limits_a_lost_connection_is_kept_for_its_time_only(start, stream, monkeypatch):
    monkeypatch.setenv("CONNECTION_TIMEOUT", "700")
    monkeypatch.setenv("REAL_TIME_CLEANUP_INTERVAL", "300")
    server = start()
    assert data(call(server, "connection-stats"))["limits"]["connectionTimeoutMs"] == 700
    one = stream(server, "users")
    token = one.open()[0]["reconnectToken"]
    lost(server, one)
    parked(server, 0)
    refused(call(server, f"reconnect?token={token}", key=None), 410)
    assert server.get("/v1/connections", key=mint(sub="boss", roles=["admin"])).json()["connections"] == []


def test_limits_kept_connections_have_a_bound_in_number_and_in_bytes(start, stream):
    server = start(ANALYTICS__PARKED_CONNECTIONS="2", ANALYTICS__PARKED_BYTES="100KB")
    tokens = []
    for n in range(3):
        one = stream(server, f"m{n}", key=admin(f"user{n}"))
        tokens.append(one.open()[0]["reconnectToken"])
        one.stop()
        parked(server, min(n + 1, 2))
    refused(call(server, f"reconnect?token={tokens[0]}", key=None), 410)
    for n in range(3):
        publish(server, "m1", "x" * 60_000)
    parked(server, 1)
    assert reconnect(stream, server, tokens[2]).next()["type"] == "connection_established"


def test_limits_a_kept_connection_can_be_ended_by_an_operator(server, stream):
    boss = mint(sub="boss", roles=["admin"])
    one = stream(server, "users")
    established, _ = one.open()
    lost(server, one)
    listed = server.get("/v1/connections", key=boss).json()["connections"]
    assert [(each["id"], each["transport"], each["subject"]) for each in listed] == [(established["connectionId"], "parked", "root")]
    assert server.request("DELETE", f"/v1/connections/{established['connectionId']}", key=boss).status_code == 204
    parked(server, 0)
    refused(call(server, f"reconnect?token={established['reconnectToken']}", key=None), 410)


def test_limits_a_client_that_does_not_read_loses_what_is_least_urgent_and_is_told(start, socket):
    server = start(LIMITS__SEND_BUFFER="8KiB")
    one = socket(server, metrics="users", receive=4096)
    one.until("initial_metrics")
    for _ in range(300):
        publish(server, "users", "x" * 20_000)
    publish(server, "alerts", "look")
    before = []
    while not before or before[-1]["type"] != "system_alert":
        before.append(one.next())
    dropped = [message["data"] for message in before if message["type"] == "messages_dropped"] or [one.until("messages_dropped")["data"]]
    assert dropped[0]["metric"] == "users" and dropped[0]["count"] > 0


def test_limits_a_stop_does_not_wait_for_kept_connections(server, stream):
    one = stream(server, "users")
    one.open()
    lost(server, one)
    began = time.monotonic()
    server.terminate()
    assert time.monotonic() - began < 3


# --- settings: the document's names

def test_settings_real_time_can_be_switched_off(start, monkeypatch):
    monkeypatch.setenv("REAL_TIME_ENABLED", "false")
    server = start()
    refused(call(server, "stream"), 503, "disabled")
    assert data(call(server, "websocket-info"))["enabled"] is False


def test_settings_websocket_can_be_switched_off_and_moved(start, stream, socket, monkeypatch):
    monkeypatch.setenv("WEBSOCKET_PATH", f"{BASE}/live")
    server = start()
    assert data(call(server, "websocket-info"))["endpoint"] == f"{BASE}/live"
    socket(server, path="live").next()
    monkeypatch.setenv("WEBSOCKET_ENABLED", "false")
    server = start()
    refused(call(server, "live"), 503, "disabled")
    stream(server, "users").open()


def test_settings_updates_come_at_most_once_in_their_interval_and_alerts_at_once(start, stream, monkeypatch):
    monkeypatch.setenv("REAL_TIME_UPDATE_INTERVAL", "1500")
    monkeypatch.setenv("REAL_TIME_HEARTBEAT_INTERVAL", "30000")
    monkeypatch.setenv("REAL_TIME_BUFFER_FLUSH_INTERVAL", "10000")
    server = start()
    one = stream(server, "users")
    one.open()
    publish(server, "users", 0)
    assert one.updates(1) == [0]
    began = time.monotonic()
    server.publish("analytics:users", [{"kind": "sample", "data": n} for n in range(1, 10)])
    publish(server, "alerts", "look")
    assert one.next()["data"] == "look" and time.monotonic() - began < 1
    assert one.updates(1) == [9] and time.monotonic() - began > 0.9


def test_settings_heartbeats_and_the_buffer_by_the_documents_names(start, stream, monkeypatch):
    monkeypatch.setenv("REAL_TIME_HEARTBEAT_INTERVAL", "150")
    monkeypatch.setenv("MAX_BUFFER_SIZE", "7")
    server = start()
    assert data(call(server, "connection-stats"))["limits"]["bufferSize"] == 7
    one = stream(server, "users")
    one.open()
    one.until("heartbeat", timeout=5)


def test_settings_a_wrong_value_under_the_documents_name_is_named(start, monkeypatch):
    monkeypatch.setenv("MAX_BUFFER_SIZE", "many")
    result = start(started=False).run("check")
    assert result.code == 2 and "MAX_BUFFER_SIZE" in result.stderr and "analytics.mailbox_messages" in result.stderr


# --- health

def test_health(server):
    assert server.get("/api/health", key=ROOT).json()["status"] == "ok"


# --- the document's own clients

SSE_SNIPPET = """
const eventSource = new EventSource('/api/admin/analytics/stream?metrics=dashboard,users');

eventSource.onmessage = (event) => {
  const data = JSON.parse(event.data);

  switch (data.type) {
    case 'connection_established':
      console.log('Connected with token:', data.data.reconnectToken);
      break;
    case 'metrics_update':
      updateDashboard(data.data);
      break;
    case 'system_alert':
      showAlert(data.data);
      break;
  }
};

eventSource.onerror = (error) => {
  console.error('SSE error:', error);
};
"""

WEBSOCKET_SNIPPET = """
const ws = new WebSocket('ws://localhost:3001/api/admin/analytics/websocket?userId=user123');

ws.onopen = () => {
  ws.send(JSON.stringify({
    type: 'subscribe',
    data: { metrics: ['dashboard', 'users'] }
  }));
};

ws.onmessage = (event) => {
  const message = JSON.parse(event.data);

  switch (message.type) {
    case 'connection_established':
      console.log('WebSocket connected:', message.data.connectionId);
      break;
    case 'metrics_update':
      updateDashboard(message.data);
      break;
    case 'subscribed':
      console.log('Subscribed to:', message.data.metrics);
      break;
  }
};
"""

RECONNECT_SNIPPET = """
let reconnectToken = null;

function connectSSE() {
  const eventSource = new EventSource('/api/admin/analytics/stream');

  eventSource.onmessage = (event) => {
    const data = JSON.parse(event.data);

    if (data.type === 'connection_established') {
      reconnectToken = data.data.reconnectToken;
    }
  };

  eventSource.onerror = () => {
    eventSource.close();

    setTimeout(() => {
      if (reconnectToken) {
        const reconnectEventSource = new EventSource(
          `/api/admin/analytics/reconnect?token=${reconnectToken}`
        );
      }
    }, 1000);
  };
}
"""


def logged(told):
    return told["what"] == "log"


def test_snippet_sse(server, js):
    page = js()
    page.do("snippet", origin=server.url, token=ROOT, code=SSE_SNIPPET)
    words = page.next(logged)["words"]
    assert words[0] == "Connected with token:" and len(words[1]) == 36
    page.next(lambda told: told.get("type") == "initial_metrics")
    publish(server, "users", {"active": 1})
    assert page.next(lambda told: told["what"] == "updateDashboard")["data"] == {"active": 1}
    publish(server, "dashboard", {"text": "look"}, kind="system_alert")
    assert page.next(lambda told: told["what"] == "showAlert")["data"] == {"text": "look"}


def test_snippet_websocket(server, js):
    page = js()
    page.do("snippet", origin=server.url, token=admin("user123"), code=WEBSOCKET_SNIPPET)
    assert page.next(logged)["words"][0] == "WebSocket connected:"
    assert page.next(logged)["words"] == ["Subscribed to:", ["dashboard", "users"]]
    publish(server, "dashboard", {"open": 2})
    assert page.next(lambda told: told["what"] == "updateDashboard")["data"] == {"open": 2}


def test_snippet_reconnection(server, js):
    page = js()
    page.do("snippet", origin=server.url, token=ROOT, code=RECONNECT_SNIPPET, then="connectSSE();")
    page.next(lambda told: told.get("type") == "initial_metrics")
    page.do("lose")
    parked(server)
    publish(server, "users", "meanwhile")
    page.next(lambda told: told["what"] == "source" and told["path"].endswith("/reconnect"))
    page.next(lambda told: told.get("type") == "connection_established")
    assert page.next(lambda told: told.get("type") == "metrics_update")["data"] == "meanwhile"


def test_snippet_in_a_browser_a_plain_event_source_reconnects_by_its_token_alone(server, browser):
    browser.call("Page.setBypassCSP", enabled=True)
    browser.open(f"{server.url}/livez")
    listen = "window.seen = []; window.source = new EventSource(%r); source.onmessage = event => seen.push(JSON.parse(event.data)); 0"
    browser.run(listen % f"{BASE}/stream?metrics=users&access_token={ROOT}")
    browser.wait("seen.length >= 2", "the first messages")
    token = browser.run("seen[0].data.reconnectToken")
    browser.run("source.close()")
    parked(server)
    publish(server, "users", {"n": 1})
    browser.run(listen % f"{BASE}/reconnect?token={token}")
    browser.wait("seen.length >= 2", "what waited")
    assert [message["type"] for message in browser.run("seen")] == ["connection_established", "metrics_update"]
