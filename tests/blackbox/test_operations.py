"""What the person who runs the daemon is promised: probes, metrics, CORS, plain answers to wrong requests, an orderly stop.

Starts that must fail (settings, log directory, port) are in test_start.py.
"""

import re
import signal
import socket

import pytest

from harness.api import numbers, problem
from harness.load import Publisher
from harness.process import eventually

ORIGIN = "https://dash.example"
SAMPLE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="(\\.|[^"\\])*",?)*\})? (-?[0-9.]+([eE][-+]?\d+)?|NaN|[-+]Inf)( \d+)?$')


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_the_probes_say_yes(daemon, path):
    assert daemon.get(path, key=None).status_code == 200


def test_health_says_version_uptime_log_and_connections(daemon, room, ws):
    ws(daemon, room)
    answer = daemon.get("/api/health", key=None)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    health = answer.json()
    for word in ("version", "uptime", "log", "connections"):
        assert any(name.startswith(word) for name in health), f"{word} is not in {health}"


def test_metrics_are_prometheus_text(daemon, room, ws):
    client = ws(daemon, room)
    daemon.publish_numbers(room, range(5))
    client.take(5)
    answer = daemon.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    samples = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in samples if not SAMPLE.match(line)] == []
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    names = {re.split(r"[{ ]", line)[0] for line in samples}
    untyped = {name for name in names if name not in typed and re.sub(r"_(bucket|sum|count)$", "", name) not in typed}
    assert not untyped, f"without # TYPE: {untyped}"
    assert any(name.startswith("tidegate_") for name in names)


def test_metrics_may_be_made_public(start_daemon):
    assert start_daemon(METRICS__PUBLIC="true").get("/metrics", key=None).status_code == 200


def test_metrics_do_not_grow_with_the_number_of_rooms(daemon, room):
    daemon.publish_numbers(f"{room}-0", range(1))
    before = len(daemon.get("/metrics").text.splitlines())
    for n in range(1, 50):
        daemon.publish_numbers(f"{room}-{n}", range(1))
    assert len(daemon.get("/metrics").text.splitlines()) - before < 25, "a series for each room would grow without bound"


def preflight(daemon, origin, method="POST"):
    return daemon.request("OPTIONS", "/v1/rooms/a/events", key=None, headers={
        "Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"})


def test_a_preflight_of_an_allowed_origin_is_answered_without_a_credential(start_daemon):
    answer = preflight(start_daemon(CORS__ORIGINS=ORIGIN), ORIGIN)
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed


@pytest.mark.parametrize("allowed", [ORIGIN, None], ids=["other-origin", "none-set"])
def test_an_origin_that_is_not_allowed_gets_no_permission(start_daemon, allowed):
    daemon = start_daemon(CORS__ORIGINS=allowed)
    for origin in ("https://evil.example", ORIGIN + ".evil.example", "null"):
        assert "access-control-allow-origin" not in preflight(daemon, origin).headers
        assert "access-control-allow-origin" not in daemon.get("/v1/rooms", headers={"Origin": origin}).headers


def test_answers_to_an_allowed_origin_carry_the_permission_errors_too(start_daemon):
    daemon = start_daemon(CORS__ORIGINS=f"https://other.example,{ORIGIN}")
    for options in ({}, {"key": None}):
        answer = daemon.get("/v1/rooms", headers={"Origin": ORIGIN}, **options)
        assert answer.headers["access-control-allow-origin"] == ORIGIN, answer.status_code
        assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("path", ["/no/such/page", "/v1", "/v1/", "/v1/rooms/a/nothing", "/v2/rooms", "/%2e%2e/etc/passwd", "/livez/x"])
def test_an_unknown_path_is_not_found(daemon, path):
    problem(daemon.get(path), 404)


@pytest.mark.parametrize("method, path", [("DELETE", "/v1/rooms"), ("PUT", "/v1/rooms/a/events"), ("POST", "/v1/stream"), ("POST", "/v1/rooms"),
                                          ("PATCH", "/metrics")])
def test_a_wrong_method_is_refused_and_the_right_ones_are_named(daemon, method, path):
    answer = daemon.request(method, path)
    problem(answer, 405)
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


@pytest.mark.parametrize("text", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                                  b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Big: " + b"y" * 2_000_000 + b"\r\n\r\n",
                                  b"POST /v1/rooms/a/events HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n"],
                         ids=["garbage", "version", "nul", "tls", "huge-header", "length"])
def test_bytes_that_are_no_request_do_no_harm(daemon, text):
    host, port = daemon.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass
    assert daemon.get("/readyz", key=None).status_code == 200


def test_sigterm_ends_the_daemon_with_exit_code_0(daemon):
    daemon.terminate()


def test_sigterm_tells_sse_readers_to_go_and_ends_their_stream_properly(daemon, room, sse):
    streams = [sse(daemon, room) for _ in range(5)]
    for stream in streams:
        stream.welcome()
    daemon.terminate()
    for stream in streams:
        rest, code = stream.ended()
        assert [message.data["type"] for message in rest if message.name == "error"] == ["error"]
        assert code == 0, f"curl's exit code: {code}; the response was cut off, not ended"


def test_a_start_after_sigterm_finds_everything_that_was_acknowledged(daemon, room):
    publishers = [Publisher(daemon, f"{room}-{n}", name=str(n), ack=ack) for n, ack in enumerate(("memory", "logged", "synced"))]
    for publisher in publishers:
        publisher.wait_acked(20)
    daemon.terminate()
    acked = [publisher.stop() for publisher in publishers]
    daemon.start()
    for publisher, known in zip(publishers, acked):
        kept = {(event["data"]["n"], event["seq"]) for event in daemon.all_events(publisher.room)}
        assert set(known.items()) <= kept, f"ack={publisher.ack}"


def test_sigterm_in_the_middle_of_a_busy_time_is_orderly(daemon, room, ws, sse):
    publishers = [Publisher(daemon, room, name=str(n)) for n in range(3)]
    for _ in range(5):
        ws(daemon, room)
        sse(daemon, room)
    publishers[0].wait_acked(30)
    daemon.terminate()
    for publisher in publishers:
        publisher.stop()
    assert "panicked" not in daemon.log_text()


def test_sigint_ends_the_daemon_with_exit_code_0_too(daemon):
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait() == 0


def test_the_host_s_own_metrics_are_published(start_daemon):
    daemon = start_daemon(SOURCES__HOST__ENABLED="true")
    page = eventually(lambda: (daemon.room("host:cpu") or {}).get("held") and daemon.history("host:cpu"), "host:cpu has an event", timeout=20)
    assert page["events"][0]["room"] == "host:cpu"


def test_many_clients_at_once_are_served(daemon, room, ws):
    clients = [ws(daemon, room) for _ in range(100)]
    daemon.publish_numbers(room, range(20))
    for client in clients:
        assert numbers(client.take(20)) == list(range(20))
    for client in clients:
        client.close()
    eventually(lambda: daemon.room(room)["subscribers"] == 0, "all have left")


def test_many_publishers_to_many_rooms_at_once_are_all_numbered(daemon, room):
    publishers = [Publisher(daemon, f"{room}-{n % 4}", name=str(n), total=25) for n in range(16)]
    acked = [publisher.join() for publisher in publishers]
    for n in range(4):
        kept = daemon.all_events(f"{room}-{n}")
        assert sorted(seq for known in acked[n::4] for seq in known.values()) == [event["seq"] for event in kept]
