"""The real nginx with config/nginx.conf in front of the daemon: everything works through it as without it, nothing is held back,
and limits see the clients and not the proxy.

Clients come from several addresses of the loopback net, 127.0.0.2 and so on; nginx itself comes from 127.0.0.1.
"""

import subprocess
import threading
import time

import pytest
import requests

from harness.api import numbers, problem, seqs
from harness.load import assert_no_hole
from harness.nginx import Nginx
from harness.process import eventually
from harness.tokens import SECRET, mint
from harness.ws import refused

TRUSTING = {"LIMITS__TRUSTED_PROXIES": "127.0.0.1", "LIMITS__PER_IP_CONNECTIONS": 1}
HTTP = pytest.mark.parametrize("version", ["--http1.1", "--http2"])


@pytest.fixture
def start_nginx(tmp_path_factory):
    """Starts nginx in front of a daemon; edits as for `Nginx`."""
    started = []

    def start(daemon, *edits):
        started.append(Nginx(tmp_path_factory.mktemp("nginx"), daemon, edits))
        return started[-1].start()

    yield start
    for nginx in started:
        nginx.stop()


def over_unix(path):
    """The edits for nginx.conf's variant with a Unix socket."""
    return [("        server 127.0.0.1:8000;\n", "        # server 127.0.0.1:8000;\n"),
            ("# server unix:/run/tidegate/tidegate.sock;", f"server unix:{path};")]


@pytest.fixture
def front(daemon, start_nginx):
    """nginx in front of a daemon with the harness's settings."""
    return start_nginx(daemon)


def curl(front, version, path, *options):
    """One call with curl in a version of HTTP; status, version and body."""
    done = subprocess.run(["curl", "-sS", version, "--noproxy", "*", "--cacert", front.authority, "-H", f"Authorization: Bearer {front.key}",
                           "-w", "\n%{http_code} %{http_version}", *options, front.url + path],
                          capture_output=True, text=True, timeout=30, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return *status.split(), body


def test_nginx_finds_nothing_wrong_with_the_file(daemon, tmp_path):
    code, said = Nginx(tmp_path, daemon).check()
    assert code == 0 and "[warn]" not in said, said


@HTTP
def test_publishing_and_reading_work(front, room, version):
    expected = {"--http1.1": "1.1", "--http2": "2"}[version]
    status, spoken, _ = curl(front, version, f"/v1/rooms/{room}/events", "-d", '[{"kind":"n","data":{"n":0}},{"kind":"n","data":{"n":1}}]')
    assert (status, spoken) == ("202", expected)
    status, spoken, body = curl(front, version, f"/v1/rooms/{room}/events")
    assert (status, spoken) == ("200", expected) and body.count('"type":"event"') == 2


def test_websocket_works_in_both_directions(front, room, ws):
    client, reader = ws(front), ws(front)
    reader.subscribe(room)
    seq = client.ask({"type": "publish", "room": room, "kind": "k", "data": {"a": 1}}, "published")["seq"]
    assert reader.event()["seq"] == seq
    assert client.alive()


def test_a_websocket_ping_is_answered_by_the_daemon(front, ws):
    assert ws(front).connection.ping(b"are you there").wait(5)


@HTTP
def test_each_event_arrives_at_once_over_sse(front, room, sse, version):
    stream = sse(front, room, curl=[version])
    stream.welcome()
    for number in range(20):
        front.publish_numbers(room, [number])
        assert stream.event(timeout=2).data["data"]["n"] == number, "it was held back until something else came"


def test_the_retry_line_and_comments_come_through(start_daemon, start_nginx, room, sse):
    stream = sse(start_nginx(start_daemon(HEARTBEAT__COMMENT="100ms")), room)
    stream.welcome()
    assert stream.retry
    stream.wait(lambda: len(stream.comments) >= 3, "comments", timeout=5)


@pytest.mark.parametrize("transport", ["sse", "ws"])
def test_a_quiet_stream_is_kept_open_by_what_the_daemon_says(start_daemon, start_nginx, room, sse, ws, transport):
    daemon = start_daemon(HEARTBEAT__COMMENT="200ms", HEARTBEAT__INTERVAL="300ms")
    front = start_nginx(daemon, ("proxy_read_timeout 5m;", "proxy_read_timeout 1s;"))
    if transport == "sse":
        stream = sse(front, room)
        for _ in range(8):
            stream.notice("heartbeat")
    else:
        stream = ws(front, room)
        for _ in range(8):
            stream.until("heartbeat")
    daemon.publish_numbers(room, [7])
    event = stream.event()
    assert (event.data if transport == "sse" else event)["data"]["n"] == 7


def test_a_reader_that_comes_back_goes_on_where_it_stopped(front, room, sse):
    front.publish_numbers(room, range(5))
    stream = sse(front, room, since="-5m")
    last = stream.take(3)[-1].last_id
    stream.stop()
    assert numbers([message.data for message in sse(front, room, last_id=last).take(2)]) == [3, 4]


def test_a_cursor_of_the_length_that_is_allowed_comes_through(front, sse):
    cursor = ",".join(f"well:{'x' * 120}:{number}=1" for number in range(45))
    assert 5_500 < len(cursor) < 6_144
    stream = sse(front, "well:*", last_id=cursor)
    stream.welcome()
    assert stream.status == 200


def test_a_long_poll_waits_and_answers_as_soon_as_something_comes(front, room):
    cursor, pages = front.poll(room, wait="0s")["cursor"], []
    waiting = threading.Thread(target=lambda: pages.append(front.poll(room, after=cursor, wait="20s")), daemon=True)
    start = time.monotonic()
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), f"answered before there was anything: {pages}"
    front.daemon.publish_numbers(room, [0])
    waiting.join(10)
    assert pages and numbers(pages[0]["events"]) == [0] and time.monotonic() - start < 10


def test_a_slow_reader_gets_every_event(start_daemon, start_nginx, ws):
    daemon = start_daemon(LIMITS__SEND_BUFFER="64KiB", LIMITS__MAILBOX_MESSAGES=10, LIMITS__WRITE_TIMEOUT="60s")
    front = start_nginx(daemon)
    slow, quick = ws(front, "well:1", slow=True), ws(front, "well:1")
    answers = [daemon.publish_numbers("well:1", range(start, start + 250), pad=2000) for start in range(0, 4000, 250)]
    first, last = answers[0]["first_seq"], answers[-1]["last_seq"]
    assert_no_hole(seqs(quick.take(4000)), first, last)
    slow.read_on()
    assert_no_hole(seqs(slow.take(4000)), first, last)


def test_a_refusal_of_the_daemon_comes_through_as_it_is(front, room):
    problem(front.get("/v1/stream?rooms=x", key="wrong"), 401)
    problem(front.get(f"/v1/rooms/{room}/events"), 404)
    problem(front.post_events(room, b" " * (10 * 1024 * 1024 + 1)), 413)


def test_the_address_without_tls_leads_to_the_one_with(front):
    answer = requests.post(f"{front.plain_url}/v1/rooms/x/events?ack=synced", data="{}", allow_redirects=False, timeout=5)
    assert answer.status_code == 308 and answer.headers["Location"] == "https://127.0.0.1/v1/rooms/x/events?ack=synced"


def test_a_credential_in_the_url_is_not_in_nginx_s_log(front, room, sse):
    stream = sse(front, room, key=None, token=front.key)
    stream.welcome()
    stream.stop()
    eventually(lambda: front.access_log.read_text(), "the stream is in the log")
    assert "/v1/stream" in front.access_log.read_text() and front.key not in front.access_log.read_text() + front.log.text()


# Whom limits see.

def test_a_limit_per_address_sees_the_client_and_not_nginx(start_daemon, start_nginx, room, ws):
    front = start_nginx(start_daemon(**TRUSTING))
    first = ws(front, room, source="127.0.0.2")
    problem(refused(front, room, source="127.0.0.2"), 429, kind="too-many-connections")
    second = ws(front, room, source="127.0.0.3")
    assert first.alive() and second.alive()


def test_a_limit_per_address_sees_the_client_over_sse_too(start_daemon, start_nginx, room, sse):
    front = start_nginx(start_daemon(**TRUSTING))
    first, again, other = (sse(front, room, curl=["--interface", address]) for address in ("127.0.0.2", "127.0.0.2", "127.0.0.3"))
    assert sorted([first.head()[0], again.head()[0]]) == [200, 429] and other.head()[0] == 200


@pytest.mark.parametrize("name, value", [
    ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "203.0.113.9, 127.0.0.1"), ("x-forwarded-for", "127.0.0.1"),
    ("X-Real-IP", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"),
])
def test_a_client_cannot_pretend_to_be_another_address(start_daemon, start_nginx, room, ws, name, value):
    front = start_nginx(start_daemon(**TRUSTING))
    ws(front, room, source="127.0.0.2")
    problem(refused(front, room, source="127.0.0.2", headers={name: value}), 429, kind="too-many-connections")


def test_without_trusted_proxies_nginx_is_the_client_whatever_the_header_says(start_daemon, start_nginx, room, ws):
    front = start_nginx(start_daemon(LIMITS__PER_IP_CONNECTIONS=1))
    ws(front, room, source="127.0.0.2")
    problem(refused(front, room, source="127.0.0.3"), 429, kind="too-many-connections")


def test_an_operator_sees_the_client_s_address_and_the_proxy_s(start_daemon, start_nginx, room, ws):
    daemon = start_daemon(LIMITS__TRUSTED_PROXIES="127.0.0.0/31", AUTH__JWT_SECRET=SECRET)
    ws(start_nginx(daemon), room, source="127.0.0.2")
    [connection] = daemon.get("/v1/connections", key=mint(roles=["admin"])).json()["connections"]
    assert connection["client_ip"] == "127.0.0.2" and connection["peer"].startswith("127.0.0.1:")


# What nginx does itself.

def test_an_address_that_begins_streams_too_fast_is_told_to_wait_and_others_are_not(front, room, ws):
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(front.authority)
        headers = {"Authorization": f"Bearer {front.key}", "Accept": "text/event-stream"}

        def begin():
            with session.get(f"{front.url}/v1/stream?rooms={room}", headers=headers, stream=True, timeout=10) as answer:
                return answer if answer.status_code == 200 else (answer.content, answer)[1]

        answers = [begin() for _ in range(200)]
    refusals = [answer for answer in answers if answer.status_code != 200]
    assert 50 <= len(answers) - len(refusals) < 200
    assert problem(refusals[-1], 429, kind="too-many-connections")["retryAfter"] == 1 and refusals[-1].headers["Retry-After"] == "1"
    assert ws(front, room, source="127.0.0.2").alive()
    assert front.publish_numbers(room, range(1))["count"] == 1, "only streams are counted"


def test_polls_are_not_counted_as_new_streams(front, room):
    front.publish_numbers(room, range(1))
    assert all(len(front.poll(room, after=0)["events"]) == 1 for _ in range(150))


def test_while_the_daemon_is_away_clients_are_told_to_come_back_and_then_miss_nothing(front, room, sse):
    front.publish_numbers(room, range(2))
    stream = sse(front, room, since="-5m")
    last = stream.take(2)[-1].last_id
    front.daemon.terminate()
    stream.ended()
    answer = front.get("/v1/rooms")
    assert problem(answer, 503)["retryAfter"] == int(answer.headers["Retry-After"]) > 0
    front.daemon.start()
    front.daemon.publish_numbers(room, [2])
    assert sse(front, room, last_id=last).event().data["data"]["n"] == 2


def test_a_stopping_daemon_s_last_words_come_through(front, room, ws, sse):
    client, stream = ws(front, room), sse(front, room)
    stream.welcome()
    front.daemon.terminate()
    code, before = client.closed()
    assert code == 1012 and before[-1]["type"] == "error"
    messages, _ = stream.ended()
    assert messages[-1].name == "error"


def test_nginx_reads_its_file_anew_without_ending_streams(front, room, ws):
    client = ws(front, room)
    front.reload()
    eventually(lambda: front.get("/livez").ok, "new workers answer")
    front.publish_numbers(room, [0])
    assert client.event()["data"]["n"] == 0


def test_the_variant_with_a_unix_socket_works(start_daemon, start_nginx, tmp_path, room, ws, sse):
    path = tmp_path / "tidegate.sock"
    daemon = start_daemon(SERVER__UNIX=path)
    front = start_nginx(daemon, *over_unix(path))
    client, stream = ws(front, room), sse(front, room)
    stream.welcome()
    front.publish_numbers(room, [0])
    assert client.event()["data"]["n"] == stream.event().data["data"]["n"] == 0


def test_over_a_unix_socket_limits_see_the_client_too(start_daemon, start_nginx, tmp_path, room, ws):
    path = tmp_path / "tidegate.sock"
    daemon = start_daemon(SERVER__UNIX=path, **{**TRUSTING, "LIMITS__TRUSTED_PROXIES": "unix"})
    front = start_nginx(daemon, *over_unix(path))
    first = ws(front, room, source="127.0.0.2")
    problem(refused(front, room, source="127.0.0.2"), 429, kind="too-many-connections")
    assert ws(front, room, source="127.0.0.3").alive() and first.alive()
