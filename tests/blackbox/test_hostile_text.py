"""Texts that mean more to somebody else than to the daemon: line ends, control characters, NUL, bytes that are no UTF-8, paths.

They may come in room names, kinds, keys, ids, cursors, commands and headers. They are refused, or kept as they are; they never
make a header, a line or event of a stream, a line of the log, or a file.
"""

import json
import re
from urllib.parse import quote, quote_from_bytes

import pytest

from harness.frames import PING, PONG, Frames, close_frame, frame, text
from harness.hostile import strange_lines
from harness.raw import exchange, request, statuses
from harness.tokens import SECRET, mint

STAMP = "2001-01-01T00:00:00.000000Z"
LINE = f"{STAMP}  INFO tidegate::auth: forged"
HEADER = "X-Forged: 1"
EVENT = "data: forged\n\nevent: forged\ndata: forged"
INJECTIONS = {
    "header": f"a\r\n{HEADER}\r\nSet-Cookie: forged=1\r\n\r\n", "header-newline": f"a\n{HEADER}\n\n", "event": f"a\n\n{EVENT}\n\n",
    "event-return": "a\r\rdata: forged\r\r",
    "log": f"a\n{LINE}\n", "log-return": f"a\r{LINE}", "escape": "a\x1b[2J\x1b]0;forged\x07", "nul": "a\0b", "delete": "a\x7fb",
    "backspace": "a" + "\b" * 200 + LINE,
    "next-line": f"a\x85{LINE}", "line-separator": f"a\u2028{LINE}\u2029b", "tab": "a\tb", "twice-encoded": "a%0d%0aX-Forged: 1%00",
    "json": '","type":"event","forged":"',
    "html": "<script>alert(1)</script>", "json-escape": "\\r\\n\\u0000\\",
}


def said(daemon, method, target, *headers, body=b"", key=True):
    """One request; its answer, of which each header line was checked, and which must not carry what was forged."""
    if isinstance(body, str):
        body = body.encode()
    length = [f"Content-Length: {len(body)}"] if method == "POST" else []
    found = exchange(daemon, request(daemon, f"{method} {target} HTTP/1.1", *headers, *length, "Connection: close", body=body, key=key))
    assert len(found) == 1, found
    assert not any(name == "x-forged" or "forged=1" in value for name, value in found[0].headers), found[0].headers
    assert found[0].status < 500, found[0]
    if "json" in (found[0].header("content-type") or ""):
        json.loads(found[0].body)
    return found[0]


# Names, in paths, queries, headers, commands

@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("target", ["/v1/rooms/%s", "/v1/rooms/%s/events", "/v1/rooms?pattern=%s", "/v1/rooms?%s=1", "/v1/rooms/x/events?after=%s",
                                    "/v1/rooms/x/events?since=%s",
                                    "/v1/stream?rooms=%s&wait=0s", "/v1/stream?rooms=x&after=%s", "/v1/stream?rooms=x&wait=%s", "/v1/%s", "/%s"],
                         ids=["room", "history", "pattern", "parameter", "after", "since", "rooms", "cursor", "wait", "path", "root"])
def test_a_target_with_more_in_it_is_refused_in_one_clean_answer(victim, what, target):
    answer = said(victim, "GET", target % quote(INJECTIONS[what], safe=""))
    assert answer.status in (400, 404), answer


@pytest.mark.parametrize("what", INJECTIONS)
def test_a_room_of_such_a_name_is_never_made(victim, what):
    before = victim.get("/v1/rooms").json()["total"]
    name = INJECTIONS[what]
    assert said(victim, "POST", f"/v1/rooms/{quote(name, safe='')}/events", body=b'{"kind":"k","data":1}').status == 400
    with Frames(victim) as client:
        for message in ({"type": "publish", "room": name, "kind": "k", "data": 1}, {"type": "subscribe", "rooms": [name]},
                        {"type": "unsubscribe", "rooms": [name]}):
            client.send(text(message))
            client.error()
        assert client.alive()
    assert victim.get("/v1/rooms").json()["total"] == before


@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"], ids=["sse", "poll"])
def test_a_cursor_with_more_in_it_is_refused(victim, what, accept):
    for target, headers in (("/v1/stream?rooms=x&wait=0s&last_event_id=" + quote(INJECTIONS[what], safe=""), []),
                            ("/v1/stream?rooms=x&wait=0s", ["Last-Event-ID: " + quote(INJECTIONS[what], safe="")])):
        assert said(victim, "GET", target, f"Accept: {accept}", *headers).status == 400


@pytest.mark.parametrize("name", ["Last-Event-ID", "Authorization", "Origin", "Content-Type", "Accept", "Cookie", "User-Agent", "X-Forwarded-For",
                                  "Forwarded", "traceparent",
                                  "Upgrade", "Connection", "Expect", "If-None-Match", "Range", "Content-Encoding", "Accept-Encoding"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\x1b[2J", b"a\0b", b"a\x7f", b"\xe2\x80\xa8", b"%0d%0aX-Forged: 1", b"", b"\t", b"," * 500,
                                   b"\"", b"=" * 500],
                         ids=["no-utf8", "escape", "nul", "delete", "line-separator", "encoded", "empty", "tab", "commas", "quote", "equals"])
def test_a_strange_header_is_refused_or_passed_over(victim, name, value):
    for line in ("GET /v1/stream?rooms=x&wait=0s HTTP/1.1", "POST /v1/rooms/strange/events HTTP/1.1"):
        body = b'{"kind":"k","data":1}' if line.startswith("POST") else b""
        found = exchange(victim, request(victim, line, "Connection: close", f"Content-Length: {len(body)}", name.encode() + b": " + value,
                                         body=body, key=name != "Authorization"))
        assert len([one for one in found if one.status != 100]) <= 1 and all(one.status < 500 for one in found), found
        assert all("x-forged" not in dict(one.headers) for one in found), found


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe4", b"\xc3\xa4"],
                         ids=lambda raw: raw.hex())
@pytest.mark.parametrize("how", ["raw", "encoded"])
def test_bytes_that_are_no_name_are_refused_in_paths_and_queries(victim, raw, how):
    shown = raw if how == "raw" else quote_from_bytes(raw).encode()
    for line in (b"GET /v1/rooms/%s HTTP/1.1", b"GET /v1/rooms/a%sb/events HTTP/1.1", b"GET /v1/rooms?pattern=%s HTTP/1.1",
                 b"GET /v1/rooms?limit=%s HTTP/1.1",
                 b"GET /v1/stream?rooms=%s&wait=0s HTTP/1.1", b"GET /v1/stream?rooms=x&after=%s&wait=0s HTTP/1.1", b"GET /v1/rooms?token=%s HTTP/1.1",
                 b"GET /%s HTTP/1.1", b"GET /livez/%s HTTP/1.1"):
        found = statuses(exchange(victim, request(victim, line % shown, "Connection: close")))
        assert found in ([400], [404]) or (b"token=" in line and found == [200]), (line, found)


# Paths

TRICKS = ["..", "../..", "../../../etc/passwd", "%2e%2e", "%2e%2e%2f%2e%2e", "..%2f..", ".", "./x", "a/../b", "//", "///etc", "a//b", "/", "%2f",
          "x/", "....//....//etc", "%252e%252e",
          "..;/x", "..%5c..", "..%5C..%5Cetc", "%c0%ae%c0%ae/x", "x%00.json", "x%00", "%00", "C:%5Cx", "C:/x", "~root", "-rf", "@", ":", "CON",
          "x" * 200, "." * 200, "/" * 200, "LOCK",
          "gen-00000001", "events", "x/events/events", "events/events", "%2Fevents"]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.replace("/", "_")[:24])
def test_a_path_in_a_room_s_name_is_a_name_and_no_path(victim, trick):
    def files():
        beside = [path for path in victim.directory.rglob("*") if victim.log_dir not in path.parents]
        strangers = [path for path in victim.log_dir.iterdir() if not re.fullmatch(r"FORMAT|HEAD|LOCK|CLEAN|gen-\d{8}|.+\.new", path.name)]
        return sorted(map(str, beside + strangers))

    before = files()
    answer = said(victim, "POST", f"/v1/rooms/{trick}/events", body=b'{"kind":"k","data":1}')
    names = {room["room"] for room in victim.get("/v1/rooms").json()["rooms"]}
    # What a name may not have is refused; what it may have stands in it as it came.
    name = trick.replace("%2e", ".").replace("%2f", "/").replace("%2F", "/")
    if "%" in name or "\\" in name or "~" in name or ";" in name:
        assert answer.status == 400 and name not in names, answer
    else:
        assert answer.status == 202 and name in names, answer
        events = json.loads(said(victim, "GET", f"/v1/rooms/{trick}/events").body)
        assert events["room"] == name and events["events"][-1]["room"] == name
    assert files() == before


@pytest.mark.parametrize("path", ["/livez/../v1/rooms", "/livez/..%2fv1/rooms", "//v1/rooms", "/v1//rooms", "/livez%2f..%2fv1%2frooms",
                                  "/v1/rooms/../../livez", "/%76%31/rooms", "/./v1/rooms",
                                  "/v1/rooms;/livez", "/v1/rooms%00/livez", "/v1/rooms%20", "/V1/ROOMS", "/v1/rooms/", "/v1/rooms?/livez",
                                  "/livez/", "/livez/x", "/livez;x", "//livez", "/livez%00",
                                  "/livez%2f", "/metrics/", "/METRICS", "/%2e/metrics", "/metrics%2f", "\\metrics", "/v1\\rooms",
                                  "/readyz/../metrics", "/api/health/../../metrics",
                                  "/v1/rooms/x/events/../../../livez", "/v1/stream?rooms=x&wait=0s&x=/livez", "/?/livez", "/api/../metrics",
                                  "http://x/v1/rooms", "http://livez/metrics"])
def test_no_way_of_writing_a_path_gets_round_the_door(victim, path):
    found = exchange(victim, request(victim, f"GET {path} HTTP/1.1", "Connection: close", key=False))
    assert statuses(found) in ([401], [400], [404], []), found


# What is in events

@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("field", ["kind", "key", "id", "priority", "timestamp"])
def test_a_field_with_a_control_character_is_refused_and_others_come_back_as_they_are(victim, room, what, field):
    value = INJECTIONS[what]
    body = json.dumps({"kind": "k", "data": 1, **{field: value[:100] if field == "kind" else value[:200]}})
    answer = said(victim, "POST", f"/v1/rooms/{room}/events", body=body)
    if any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in value) or field in ("priority", "timestamp"):
        assert answer.status == 422, answer
        assert victim.room(room) is None
    else:
        assert answer.status == 202, answer
        [event] = victim.history(room)["events"]
        assert field == "id" or event[field] == value[:200]


@pytest.mark.parametrize("field", ["id", "source", "subject", "type"])
@pytest.mark.parametrize("what", ["header", "event", "log", "nul", "escape"])
def test_an_attribute_of_a_cloudevent_with_a_control_character_is_refused(victim, room, what, field):
    body = json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1, field: INJECTIONS[what][:100]})
    assert said(victim, "POST", f"/v1/rooms/{room}/events", "Content-Type: application/cloudevents+json", body=body).status == 422
    assert victim.room(room) is None


def test_whatever_is_in_data_comes_back_as_it_is_and_makes_no_line_of_a_stream(victim, room, sse):
    stream = sse(victim, room)
    stream.welcome()
    with Frames(victim, f"?rooms={room}") as client:
        for n, value in enumerate(INJECTIONS.values()):
            if n % 2:
                victim.publish(room, {"kind": "k", "data": {"text": value, value: n}})
            else:
                with Frames(victim) as publisher:
                    publisher.send(text({"type": "publish", "room": room, "kind": "k", "data": {"text": value, value: n}}))
                    assert publisher.message()["type"] == "published"
        for n, (what, value) in enumerate(INJECTIONS.items()):
            event = client.message()
            assert event["data"] == {"text": value, value: n}, what
            assert stream.event().data == event, what
    assert [event["data"]["text"] for event in victim.history(room)["events"]] == list(INJECTIONS.values())
    assert {line.partition(":")[0] for line in stream.lines} <= {"", "id", "data", "event", "retry"}
    assert [line for line in stream.lines if line.startswith("event:")] == ["event: welcome"]


@pytest.mark.parametrize("space", ["\n", "\r", "\r\n", "\n\n", "\r\r", "\n\ndata: forged\n\n".replace("data: forged", " "), "\t"],
                         ids=["newline", "return", "both", "newlines", "returns", "empty-lines", "tab"])
@pytest.mark.parametrize("how", ["http", "websocket", "array", "cloudevent"])
def test_line_ends_between_the_parts_of_json_make_no_line_of_a_stream(victim, room, sse, space, how):
    stream = sse(victim, room)
    stream.welcome()
    data = f'{space}{{{space}"a"{space}:{space}[{space}1{space},{space}2{space}]{space}}}{space}'
    event = f'{{{space}"kind"{space}:{space}"k"{space},{space}"data":{data}}}'
    if how == "websocket":
        with Frames(victim) as client:
            client.send(text(f'{{"type":"publish","room":"{room}","kind":"k","data":{data}}}{space}'))
            assert client.message()["type"] == "published"
    elif how == "cloudevent":
        body = f'{{"specversion":"1.0","id":"1","source":"/s","type":"k","data":{data}}}'
        assert said(victim, "POST", f"/v1/rooms/{room}/events", "Content-Type: application/cloudevents+json", body=body).status == 202
    else:
        assert said(victim, "POST", f"/v1/rooms/{room}/events", body=event if how == "http" else f"{space}[{event}{space}]{space}").status == 202
    victim.publish(room, {"kind": "k", "data": "next"})
    first, second = stream.event().data, stream.event().data
    assert first["data"] == {"a": [1, 2]} and second["data"] == "next"
    assert first["seq"] + 1 == second["seq"]


@pytest.mark.parametrize("what", INJECTIONS)
def test_whatever_is_in_a_command_comes_back_as_json_in_one_message(victim, what):
    value = INJECTIONS[what]
    with Frames(victim) as client:
        client.send(text({"type": "ping", "id": value[:60], "data": {value: value}}))
        answer = client.message()
        assert answer["type"] == "pong" and answer["id"] == value[:60] and answer["data"] == {value: value}
        for message in ({"type": value}, {"type": "subscribe", "rooms": ["x"], "after": value}, {"type": "subscribe", "rooms": ["x"], "since": value},
                        {"type": "refresh", "token": value}, {value: 1, "type": "ping"},
                        {"type": "publish", "room": "x", "kind": "k", "data": 1, "ack": value}):
            client.send(text(message))
            client.error()
        client.send(text(value))
        client.error()
        assert client.alive()


# The log

def everything(daemon):
    """All that a client can say, with a log line in it."""
    for value in INJECTIONS.values():
        shown = quote(value, safe="")
        for target in ("/v1/rooms/%s", "/v1/rooms?pattern=%s", "/v1/stream?rooms=x&wait=0s&after=%s", "/%s", "/v1/rooms?token=%s"):
            said(daemon, "GET", target % shown, f"User-Agent: {shown}", f"Origin: {shown}", f"X-Forwarded-For: {shown}", f"traceparent: {shown}",
                 f"Host: {shown}")
        said(daemon, "GET", "/v1/rooms", f"Authorization: Bearer {shown}", key=False)
        said(daemon, "POST", "/v1/rooms/x/events", body=json.dumps({"kind": value, "data": value, "key": value, "id": value}))
        said(daemon, "POST", "/v1/rooms/x/events", body=json.dumps({"kind": "k", "data": value}))
        said(daemon, "POST", "/v1/rooms/x/events", body=value)
        said(daemon, "POST", "/api/v1/auth/login", "Content-Type: application/json", body=json.dumps({"username": value, "password": value}),
             key=False)
        with Frames(daemon, "?rooms=x") as client:
            client.send(text({"type": value, "id": value}), text({"type": "refresh", "token": value}), text(value), frame(PING, value.encode()[:125]),
                        frame(PONG, value.encode()[:125]), text({"type": "publish", "room": value, "kind": value, "data": value}),
                        text(f'{{"type":"ping","data":\n{json.dumps(value)}\n}}'))
            client.send(close_frame(1000, value.encode()[:120]))
            client.closing()
    for raw in (LINE.encode() + b"\r\n\r\n", b"GET /" + LINE.encode() + b" HTTP/1.1\r\n\r\n", b"\r\n" + LINE.encode(),
                b"GET / HTTP/1.1\r\n" + LINE.encode() + b"\r\n\r\n"):
        exchange(daemon, raw)


@pytest.mark.parametrize("level", ["info", "debug", "trace"])
def test_nothing_that_a_client_says_makes_a_line_of_the_log(start_daemon, level):
    daemon = start_daemon(LOGGING__LEVEL=level, LIMITS__HEADER_TIMEOUT="1s")
    everything(daemon)
    daemon.terminate()
    assert strange_lines(daemon.log_text(), STAMP) == []


@pytest.mark.parametrize("level", ["debug", "trace"])
def test_no_credential_stands_in_the_log_at_any_level(start_daemon, level):
    daemon = start_daemon(LOGGING__LEVEL=level)
    said(daemon, "GET", f"/v1/rooms?token={daemon.key}", key=False)
    said(daemon, "GET", "/v1/rooms", f"Cookie: tidegate_session={daemon.key}", key=False)
    with Frames(daemon) as client:
        client.send(text({"type": "refresh", "token": daemon.key}))
        client.message()
    daemon.terminate()
    assert [line[:200] for line in daemon.log_text().splitlines() if daemon.key in line] == []


def test_in_a_log_of_json_every_line_is_json(start_daemon):
    daemon = start_daemon(LOGGING__LEVEL="debug", LOGGING__FORMAT="json", LIMITS__HEADER_TIMEOUT="1s")
    everything(daemon)
    daemon.terminate()
    for line in daemon.log_text().splitlines():
        assert json.loads(line)["level"] in ("ERROR", "WARN", "INFO", "DEBUG"), line


# Who one is: a token's subject and id are its issuer's text, and stand in the log, the audit log and lists

@pytest.mark.parametrize("what", INJECTIONS)
def test_a_subject_makes_no_line_of_the_log_and_no_header(start_daemon, what):
    value = INJECTIONS[what]
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, LOGGING__LEVEL="debug")
    token = mint(sub=value, jti=value, roles=["operator", "admin"])
    for target in ("/v1/rooms", "/api/v1/auth/me", "/v1/connections"):
        answer = said(daemon, "GET", target, f"Authorization: Bearer {token}", key=False)
        assert answer.status in (200, 401), answer
    said(daemon, "POST", "/v1/rooms/x/events", f"Authorization: Bearer {token}", body=b'{"kind":"k","data":1}', key=False)
    said(daemon, "POST", "/api/v1/auth/refresh", f"Authorization: Bearer {token}", key=False)
    said(daemon, "POST", "/api/v1/auth/logout", f"Authorization: Bearer {token}", key=False)
    daemon.terminate()
    assert strange_lines(daemon.log_text(), STAMP) == []
    for line in daemon.audit_file.read_text().split("\n")[:-1]:
        assert isinstance(json.loads(line), dict), line


def test_a_user_s_name_makes_no_line_of_the_audit_log(start_daemon):
    daemon = start_daemon(AUTH__ADMIN_PASSWORD="correct horse battery staple")
    for value in INJECTIONS.values():
        answer = said(daemon, "POST", "/api/v1/auth/login", "Content-Type: application/json",
                      body=json.dumps({"username": value, "password": value}), key=False)
        assert answer.status in (400, 401, 422), answer
    daemon.terminate()
    lines = daemon.audit_file.read_text().split("\n")[:-1]
    assert lines and all(isinstance(json.loads(line), dict) for line in lines)
    assert not [line for line in lines if line.startswith(STAMP)]
