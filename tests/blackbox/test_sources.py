"""Made-up events, the load client that measures with them, and clients that say nothing."""

import json
import socket
import subprocess

from harness.api import numbers
from harness.daemon import binary, environment
from harness.process import eventually


def made(start_daemon, seed):
    daemon = start_daemon(SOURCES__GENERATOR__ENABLED="true", SOURCES__GENERATOR__SEED=seed, SOURCES__GENERATOR__ROOMS=2)
    eventually(lambda: daemon.request("GET", "/v1/rooms/demo:1").status_code == 200, "demo:1 is there", timeout=10)
    eventually(lambda: daemon.room("demo:1")["held"] >= 5, "events are made", timeout=10)
    events = daemon.history("demo:1", after=0, limit=5)["events"]
    assert all(event["data"]["generated"] is True for event in events), "made up, and it does not say so"
    return [event["data"]["value"] for event in events]


def test_the_generator_makes_the_same_values_for_the_same_seed_and_says_that_they_are_made_up(start_daemon):
    first = made(start_daemon, 7)
    assert made(start_daemon, 7) == first
    assert made(start_daemon, 8) != first


def bench(daemon, *arguments):
    done = subprocess.run([binary(), "bench", *arguments, "--json"], capture_output=True, text=True, timeout=60, cwd=daemon.directory,
                          env=environment({"URL": daemon.url, "TOKEN": daemon.key}))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == 0
    return report["figures"]


def test_the_load_client_measures_fan_out_replay_and_ingest(daemon):
    for transport in ("websocket", "sse"):
        figures = bench(daemon, "fanout", "--readers", "20", "--events", "30", "--transport", transport)
        assert figures["deliveries"] == 600 and figures["latency p99 ms"] >= figures["latency p50 ms"] > 0
    assert bench(daemon, "replay", "--events", "200", "--runs", "3")["replay p50 ms"] > 0
    assert bench(daemon, "ingest", "--requests", "40", "--batch", "5")["events/s"] > 0


def test_where_newer_values_replace_older_ones_a_slow_reader_gets_the_last_of_each_key(start_daemon, ws):
    daemon = start_daemon(LIMITS__SEND_BUFFER="64KiB", LIMITS__WRITE_TIMEOUT="60s", ROOMS__WELL__CONFLATE="true")
    slow = ws(daemon, "well:1", slow=True)
    for start in range(0, 3000, 250):
        daemon.publish("well:1", [{"kind": "n", "key": f"pump-{n % 3}", "data": {"n": n, "pad": "x" * 2000}} for n in range(start, start + 250)])
    slow.read_on()
    seen, last = [], {}
    while set(last.values()) != {2997, 2998, 2999}:
        event = slow.event()
        seen.append(event)
        last[event["key"]] = event["data"]["n"]
    assert numbers(seen) == sorted(numbers(seen)), "the order of the room broke"
    assert len(seen) < 3000
    assert slow.ask({"type": "get_stats"}, "stats")["conflated"] == 3000 - len(seen)


def test_a_client_that_never_answers_a_ping_is_disconnected(start_daemon):
    daemon = start_daemon(HEARTBEAT__INTERVAL="100ms", HEARTBEAT__TIMEOUT="300ms")
    host, port = daemon.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as silent:
        silent.sendall((f"GET /v1/stream?rooms=x&token={daemon.key} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
        received = b""
        while chunk := silent.recv(4096):
            received += chunk
    assert b"nothing was heard" in received, "cut without a word"
