"""docs/asyncapi.yaml says what the daemon says: the file is sound, and every message of it is provoked on every transport that
has it and held against its schema. Schemas forbid unknown fields, so whatever is added on one side alone shows here.

A client's own messages are tried the other way: what a schema allows is done, what it forbids is an error.
"""

import json
import os
import signal
import threading
from types import SimpleNamespace

import pytest
from jsonschema import Draft7Validator

from harness import pipelines
from harness.api import problem
from harness.contract import CheckedSse, CheckedWs, Contract
from harness.process import eventually
from harness.tokens import SECRET, mint
from harness.ws import refused

CONTRACT = Contract()
DOCUMENT = CONTRACT.document
MESSAGES, SCHEMAS = DOCUMENT["components"]["messages"], DOCUMENT["components"]["schemas"]
CHANNELS = DOCUMENT["channels"]
TOKENS = {"AUTH__JWT_SECRET": SECRET, "AUTH__LEEWAY": "0s", "AUTH__EXPIRY_WARNING": "2s"}
SLOW = {"LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "60s"}


@pytest.fixture
def stage(start_daemon, room):
    """What a provocation needs. All that `ws` and `sse` read is held against the contract."""
    clients = []

    def opened(kind, options):
        def open_client(*arguments, **more):
            clients.append(kind(CONTRACT, *arguments, **options, **more))
            return clients[-1]
        return open_client

    yield SimpleNamespace(start=start_daemon, room=room, ws=opened(CheckedWs, {}), slow_ws=opened(CheckedWs, {"slow": True}),
                          sse=opened(CheckedSse, {}))
    for client in clients:
        (client.stop if isinstance(client, CheckedSse) else client.close)()


# The file.

def every(value, path=()):
    """All that is in the document, with where it is."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from every(below, (*path, key))


def test_the_file_is_asyncapi_3_of_this_daemon(daemon):
    assert DOCUMENT["asyncapi"] == "3.0.0" and DOCUMENT["defaultContentType"] == "application/json"
    assert set(DOCUMENT) <= {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert DOCUMENT["info"]["version"] == daemon.get("/api/health", key=None).json()["version"]


def test_every_reference_leads_somewhere():
    for path, value in every(DOCUMENT):
        if isinstance(value, dict) and "$ref" in value:
            assert set(value) == {"$ref"}, f"beside a $ref nothing counts: {path}"
            CONTRACT.find(value["$ref"])


def test_nothing_is_described_that_is_not_used():
    used = {value["$ref"] for _, value in every(DOCUMENT) if isinstance(value, dict) and "$ref" in value}
    for kind, things in DOCUMENT["components"].items():
        for name in things:
            assert f"#/components/{kind}/{name}" in used, f"{kind} {name} is used nowhere"


def test_every_operation_has_a_channel_and_messages_of_it():
    for name, operation in DOCUMENT["operations"].items():
        assert operation["action"] in ("send", "receive") and operation["summary"], name
        for part in [operation, *([operation["reply"]] if "reply" in operation else [])]:
            channel = part["channel"]["$ref"]
            assert channel.startswith("#/channels/") and CONTRACT.find(channel), name
            assert part["messages"], name
            for message in part["messages"]:
                assert message["$ref"].startswith(f"{channel}/messages/"), f"{name}: {message} is not of {channel}"


def test_every_message_of_a_channel_is_sent_or_received_there():
    for name, channel in CHANNELS.items():
        assert set(channel["messages"]) == CONTRACT.sent(name) | CONTRACT.received(name)
        assert channel["address"] == "/v1/stream" and channel["servers"] and channel["description"]
        for key, message in channel["messages"].items():
            assert message == {"$ref": f"#/components/messages/{key}"}


def test_every_schema_is_one_and_forbids_fields_that_it_does_not_name():
    for name, schema in SCHEMAS.items():
        Draft7Validator.check_schema(schema)
        for path, value in every(schema):
            if isinstance(value, dict) and "properties" in value:
                assert value["type"] == "object" and value["additionalProperties"] is False, f"{name} {path}"
                assert set(value.get("required", [])) <= set(value["properties"]), f"{name} {path}"


def test_every_message_has_examples_that_are_as_its_schema_says():
    for name, message in MESSAGES.items():
        assert message["name"] == name and message["title"] and message["summary"] and message["examples"], name
        for example in message["examples"]:
            assert not CONTRACT.faults(name, example["payload"]), f"{name}: {example}"
            assert name in ("answer", "problem") or example["payload"]["type"] == name


# Every message that the daemon sends. A provocation is filed under its channel and message, and returns when it has come.

PROVOKED = {"webSocket": {}, "serverSentEvents": {}, "longPoll": {}}
ERRORS = {"webSocket": {}, "serverSentEvents": {}, "longPoll": {}}


def over(channel, name):
    """Files a provocation of a message."""
    def file(provoke):
        PROVOKED[channel][name] = provoke
        return provoke
    return file


def error_over(channel, code):
    """Files a provocation of an `error` with this code; it returns the error."""
    def file(provoke):
        ERRORS[channel][code] = provoke
        return provoke
    return file


def all_of(filed):
    """Every filed provocation, for `parametrize`."""
    return [pytest.param(channel, name, id=f"{channel}-{name}") for channel, names in filed.items() for name in sorted(names)]


@pytest.mark.parametrize("channel, name", all_of({channel: CONTRACT.sent(channel) for channel in CHANNELS}))
def test_a_message_that_the_daemon_sends_is_as_its_schema_says(stage, channel, name):
    assert name in PROVOKED[channel], f"nothing here provokes {name} on {channel}"
    PROVOKED[channel][name](stage)


@over("webSocket", "welcome")
def _(stage):
    daemon = stage.start()
    assert stage.ws(daemon).welcome["cursor"] == "0"
    daemon.publish_numbers(stage.room, range(2))
    assert stage.ws(daemon, f"{stage.room},never:1").welcome["rooms"]
    assert stage.ws(daemon, f"{stage.room}*").welcome["rooms"]
    assert set(stage.ws(daemon, stage.room, **{**SERVED, "kinds": "a,b"}).welcome["granted"]) == GRANTED


# Every way to say how one wants to be served, and what is granted then.
SERVED = {"mode": "mean", "period": "1s", "field": "data.a.b", "filter": "data.a.b > 1", "kinds": ["a", "b"], "priority": "high", "on_slow": "catch_up"}
GRANTED = {"mode", "period_ms", "field", "filter", "kinds", "priority", "on_slow", "mailbox_messages"}
EVENTS = [
    {"kind": "k", "data": {"a": [1, None]}},
    {"kind": "\"ä\\", "data": None, "key": "pump", "priority": "critical", "timestamp": "2026-01-01T00:00:00+02:00"},
    {"kind": "k", "data": "x", "priority": "low", "timestamp": 1714564800000, "id": "i"},
    {"kind": "k", "data": 1.5e300, "priority": "high"},
]


@over("webSocket", "event")
def _(stage):
    daemon = stage.start()
    reader = stage.ws(daemon, stage.room)
    daemon.publish(stage.room, EVENTS)
    assert [event["data"] for event in reader.take(4)] == [event["data"] for event in EVENTS]


@over("webSocket", "heartbeat")
def _(stage):
    daemon = stage.start(HEARTBEAT__INTERVAL="200ms")
    daemon.publish_numbers(stage.room, range(1))
    for rooms in (None, stage.room, f"{stage.room}*,never:1"):
        stage.ws(daemon, rooms).until("heartbeat")


def with_state(stage):
    """A daemon with a pipeline that keeps the state of the room `table`, of which a reader gets all; and what publishes to it."""
    daemon = stage.start(started=False)
    pipelines.write(daemon, table='[pipeline]\nfrom = "raw"\nstart = "beginning"\n[[output]]\nroom = "table"\nkey = "{key}"\nstate = true\n')
    daemon.start()

    def publish(*values):
        daemon.publish("raw", [{"kind": "k", "key": key, "data": data} for key, data in values])

    publish(("a", {"x": 1, "\"ä": [1]}), ("b", 2), ("c", None))
    eventually(lambda: (pipelines.state(daemon, "table") or {"keys": 0})["keys"] == 2, "two keys")
    return daemon, publish


@over("webSocket", "snapshot")
def _(stage):
    daemon, _ = with_state(stage)
    assert stage.ws(daemon, "table").until("snapshot")["keys"] == 2
    client = stage.ws(daemon)
    client.subscribe("t*")
    assert client.until("snapshot")["data"]["b"] == 2


@over("webSocket", "delta")
def _(stage):
    daemon, publish = with_state(stage)
    reader = stage.ws(daemon, "table")
    publish(("a", {"x": 2}), ("b", None))
    assert [reader.until("delta")["data"] for _ in range(2)] == [{"a": {"x": 2, "\"ä": None}}, {"b": None}]


@over("webSocket", "gap")
def _(stage):
    daemon = stage.start()
    daemon.publish_numbers(stage.room, range(2))
    stage.ws(daemon, stage.room, after=12345).until("gap")


def publish_much(daemon, count=4000):
    for start in range(0, count, 250):
        daemon.publish_numbers("well:1", range(start, start + 250), pad=2000)


@over("webSocket", "dropped")
def _(stage):
    daemon = stage.start(**SLOW, ROOMS__WELL__ON_FULL="displace")
    slow = stage.slow_ws(daemon, "well:1")
    publish_much(daemon)
    slow.read_on()
    slow.until("dropped", 30)


@pytest.mark.parametrize("policy, reason", [("displace", "displaced"), ("reject", "rejected"), ("wait", "timed_out")])
def test_every_documented_reason_of_a_dropped_notice_is_given(stage, policy, reason):
    assert reason in SCHEMAS["Dropped"]["properties"]["reason"]["enum"] and len(SCHEMAS["Dropped"]["properties"]["reason"]["enum"]) == 3
    daemon = stage.start(**SLOW, ROOMS__WELL__ON_FULL=policy, ROOMS__WELL__WAIT="1ms")
    slow = stage.slow_ws(daemon, "well:1")
    publish_much(daemon)
    slow.read_on()
    assert slow.until("dropped", 30)["reason"] == reason


@over("webSocket", "expiring")
def _(stage):
    daemon = stage.start(**TOKENS)
    assert 0 <= stage.ws(daemon, stage.room, key=mint(ttl=4)).until("expiring")["seconds"] <= 2


@over("webSocket", "error")
def _(stage):
    client = stage.ws(stage.start())
    for error_id in ("e", 5, -1.5):
        client.send({"type": "dance", "id": error_id})
        assert client.until("error")["id"] == error_id


@over("webSocket", "subscribed")
def _(stage):
    daemon = stage.start()
    daemon.publish_numbers(stage.room, range(2))
    client = stage.ws(daemon)
    for rooms in ([stage.room], [f"{stage.room}*", "never:1"], ["*"]):
        answer = client.subscribe(*rooms)
        assert ("already" in answer) == (rooms != [stage.room])
    assert set(client.subscribe("never:2", **SERVED)["granted"]) == GRANTED


@over("webSocket", "unsubscribed")
def _(stage):
    client = stage.ws(stage.start(), f"{stage.room}*")
    client.ask({"type": "unsubscribe", "rooms": [f"{stage.room}*", "never:1"]}, "unsubscribed")


@over("webSocket", "published")
def _(stage):
    client = stage.ws(stage.start())
    for ack in ("memory", "logged", "synced"):
        client.ask({"type": "publish", "room": stage.room, "kind": "k", "data": 1, "ack": ack}, "published")


@over("webSocket", "pong")
def _(stage):
    client = stage.ws(stage.start())
    for more in ({}, {"data": 0}, {"data": {"a": 1}}, {"id": 7}):
        client.send({"type": "ping", **more})
        assert client.until("pong") == {"type": "pong", **more}


@over("webSocket", "stats")
def _(stage):
    client = stage.ws(stage.start(), f"{stage.room}*,never:1")
    client.ask({"type": "get_stats"}, "stats")


@over("webSocket", "refreshed")
def _(stage):
    daemon = stage.start(**TOKENS)
    client = stage.ws(daemon, key=mint(sub="a", ttl=60))
    assert "expires_at" in client.ask({"type": "refresh", "token": mint(sub="a", ttl=600)}, "refreshed")
    client = stage.ws(daemon)
    assert "expires_at" not in client.ask({"type": "refresh", "token": daemon.key}, "refreshed")


@over("serverSentEvents", "welcome")
def _(stage):
    daemon = stage.start()
    daemon.publish_numbers(stage.room, range(2))
    for rooms in (stage.room, f"{stage.room}*,never:1", "never:*"):
        stage.sse(daemon, rooms).welcome()
    assert set(stage.sse(daemon, stage.room, **{**SERVED, "kinds": "a,b"}).welcome()["granted"]) == GRANTED


@over("serverSentEvents", "event")
def _(stage):
    daemon = stage.start()
    for rooms in (stage.room, f"{stage.room}*"):
        reader = stage.sse(daemon, rooms)
        reader.welcome()
        daemon.publish(stage.room, [{name: value for name, value in event.items() if name != "id"} for event in EVENTS])
        assert [message.data["data"] for message in reader.take(4)] == [event["data"] for event in EVENTS]


@over("serverSentEvents", "heartbeat")
def _(stage):
    daemon = stage.start(HEARTBEAT__INTERVAL="200ms")
    for rooms in (stage.room, f"{stage.room}*,never:1"):
        stage.sse(daemon, rooms).notice("heartbeat")


@over("serverSentEvents", "snapshot")
def _(stage):
    daemon, _ = with_state(stage)
    for rooms in ("table", "t*,never:1"):
        assert stage.sse(daemon, rooms).notice("snapshot").data["keys"] == 2


@over("serverSentEvents", "delta")
def _(stage):
    daemon, publish = with_state(stage)
    for number, rooms in enumerate(("table", "t*,never:1")):
        reader = stage.sse(daemon, rooms)
        reader.welcome()
        publish(("n", number))
        assert reader.notice("delta").data["data"] == {"n": number}


@over("serverSentEvents", "gap")
def _(stage):
    daemon = stage.start()
    daemon.publish_numbers(stage.room, range(2))
    stage.sse(daemon, stage.room, last_id=12345).notice("gap")


@over("serverSentEvents", "dropped")
def _(stage):
    daemon = stage.start(**SLOW, ROOMS__WELL__ON_FULL="displace")
    stream = stage.sse(daemon, "well:1")
    stream.welcome()
    os.kill(stream.child.pid, signal.SIGSTOP)
    publish_much(daemon)
    os.kill(stream.child.pid, signal.SIGCONT)
    stream.notice("dropped", 30)


@over("serverSentEvents", "expiring")
def _(stage):
    daemon = stage.start(**TOKENS)
    stage.sse(daemon, stage.room, key=mint(ttl=4)).notice("expiring")


@over("serverSentEvents", "error")
def _(stage):
    ERRORS["serverSentEvents"]["too_many_rooms"](stage)


def polled(daemon, rooms, **params):
    """One long-poll whose answer is held against the contract."""
    page = daemon.poll(rooms, **params)
    CONTRACT.check("longPoll", "answer", page)
    return page


@over("longPoll", "answer")
def _(stage):
    daemon = stage.start()
    assert polled(daemon, stage.room, wait="0s") == {"events": [], "notices": [], "cursor": "0"}
    daemon.publish(stage.room, EVENTS)
    assert len(polled(daemon, stage.room, after=0)["events"]) == 4
    assert len(polled(daemon, f"{stage.room}*,never:1", after=0)["events"]) == 4
    assert [notice["type"] for notice in polled(daemon, stage.room, after=12345)["notices"]] == ["gap"]


def test_an_answer_with_a_state_and_its_changes_is_as_documented(stage):
    daemon, publish = with_state(stage)
    page = polled(daemon, "table", wait="1s")
    assert page["events"] == [] and [notice["type"] for notice in page["notices"]] == ["snapshot"]
    publish(("n", 1))
    assert [change["data"] for change in polled(daemon, "table", after=page["cursor"])["notices"]] == [{"n": 1}]


def refusal(answer, *statuses, kind=None):
    """A problem that is held against the contract."""
    found = problem(answer, *statuses, kind=kind)
    CONTRACT.check("longPoll", "problem", found)
    return found


@over("longPoll", "problem")
def _(stage):
    daemon = stage.start()
    refusal(daemon.get("/v1/stream?rooms=x", key=None), 401)
    refusal(daemon.get("/v1/stream?rooms=x", key="wrong"), 401)
    assert refusal(daemon.get("/v1/stream?rooms=x&wait=soon"), 400)["errors"]
    refusal(daemon.get("/v1/stream"), 400)
    refusal(daemon.request("POST", "/v1/stream"), 405)


def test_a_stream_that_is_refused_for_rights_says_so_as_documented(stage):
    daemon = stage.start(**TOKENS)
    for headers in ({}, {"Accept": "text/event-stream"}):
        refusal(daemon.get("/v1/stream?rooms=well:1", key=mint(rooms=["host:*"]), headers=headers), 403, kind="forbidden")
    refusal(refused(daemon, "well:1", key=mint(rooms=["host:*"])), 403, kind="forbidden")


def test_a_stream_that_is_refused_for_a_limit_says_when_to_come_back(stage):
    daemon = stage.start(LIMITS__PER_USER_CONNECTIONS=1)
    stage.ws(daemon, stage.room)
    for headers in ({}, {"Accept": "text/event-stream"}):
        answer = daemon.get(f"/v1/stream?rooms={stage.room}", headers=headers)
        found = refusal(answer, 429, kind="too-many-connections")
        assert found["retryAfter"] > 0 and int(answer.headers["Retry-After"]) > 0


def test_a_poll_in_hand_at_the_stop_is_answered_as_documented(stage):
    daemon, answers = stage.start(), []
    waiting = threading.Thread(target=lambda: answers.append(daemon.get(f"/v1/stream?rooms={stage.room}&wait=30s", timeout=40)), daemon=True)
    waiting.start()
    waiting.join(0.5)  # gives the request the time to arrive; nothing announces it
    daemon.terminate()
    waiting.join(10)
    if answers[0].status_code == 200:
        CONTRACT.check("longPoll", "answer", answers[0].json())
    else:
        refusal(answers[0], 503)


# Every error.

UNPROVOKED = {
    "room_failed",  # a bug in the daemon
    "log_unavailable", "log_silent", "too_much_at_once",  # a full disk, a disk that hangs, a flood: test_full_disk.py, test_publish_refused.py
}


def test_every_documented_error_code_is_provoked_somewhere():
    provoked = {code for codes in ERRORS.values() for code in codes}
    assert provoked | UNPROVOKED == set(SCHEMAS["ErrorCode"]["enum"])
    described = SCHEMAS["ErrorCode"]["description"]
    assert all(f"`{code}`" in described for code in SCHEMAS["ErrorCode"]["enum"])


def by_message(code, message, **settings):
    """Files an error that answers a message and leaves the connection open."""
    @error_over("webSocket", code)
    def _(stage):
        client = stage.ws(stage.start(**settings))
        client.send(message)
        error = client.until("error")
        assert client.alive()
        return error


by_message("invalid_json", "{")
by_message("invalid_field", {"type": "subscribe", "id": "e", "rooms": "well:1"})
by_message("unknown_type", {"type": "dance"})
by_message("binary_unsupported", b"\x00")
by_message("event_too_large", {"type": "publish", "room": "x", "kind": "k", "data": "x" * 2000}, LIMITS__EVENT_BYTES="1KiB")
by_message("too_many_rooms", {"type": "subscribe", "rooms": ["a", "b", "c"]}, LIMITS__ROOMS=2)
by_message("unauthorized", {"type": "refresh", "token": "wrong"})


@error_over("webSocket", "message_too_big")
def _(stage):
    client = stage.ws(stage.start(LIMITS__MAX_MESSAGE_BYTES="1KiB"))
    client.send({"type": "ping", "data": "x" * 2000})
    code, before = client.closed()
    assert code == 1009
    return before[-1]


@error_over("webSocket", "wrong_subject")
def _(stage):
    client = stage.ws(stage.start(**TOKENS), key=mint(sub="a"))
    client.send({"type": "refresh", "token": mint(sub="b")})
    error = client.until("error")
    assert client.alive()
    return error


@error_over("webSocket", "forbidden")
def _(stage):
    client = stage.ws(stage.start(**TOKENS), key=mint(rooms=["host:*"], publish=["host:*"]))
    client.send({"type": "publish", "room": "well:1", "kind": "k", "data": 1})
    assert client.until("error")["code"] == "forbidden"
    client.send({"type": "subscribe", "id": "s", "rooms": ["well:1"]})
    error = client.until("error")
    assert client.alive()
    return error


@error_over("webSocket", "rate_limited")
def _(stage):
    client = stage.ws(stage.start(LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND=1))
    for _ in range(5):
        client.send({"type": "ping"})
    error = client.until("error")
    assert error["retryAfter"] > 0
    return error


def ended(stream):
    """The error with which an SSE stream ended; all before it is held against the contract too."""
    stream.ended()
    while True:
        message = stream.next()
        if message.name == "error":
            return message.data


@error_over("webSocket", "token_expired")
def _(stage):
    code, before = stage.ws(stage.start(**TOKENS), key=mint(ttl=3)).closed()
    assert code == 4401
    return before[-1]


@error_over("serverSentEvents", "token_expired")
def _(stage):
    return ended(stage.sse(stage.start(**TOKENS), stage.room, key=mint(ttl=3)))


def revoke(daemon, token):
    answer = daemon.request("POST", "/api/v1/auth/revoke", key=mint(sub="root", roles=["admin"]), json={"token": token})
    assert answer.status_code == 204, answer.text


@error_over("webSocket", "token_revoked")
def _(stage):
    daemon, token = stage.start(**TOKENS), mint(ttl=60)
    client = stage.ws(daemon, stage.room, key=token)
    revoke(daemon, token)
    code, before = client.closed()
    assert code == 4401
    return before[-1]


@error_over("serverSentEvents", "token_revoked")
def _(stage):
    daemon, token = stage.start(**TOKENS), mint(ttl=60)
    stream = stage.sse(daemon, stage.room, key=token)
    stream.welcome()
    revoke(daemon, token)
    return ended(stream)


@error_over("webSocket", "stream_unavailable")
def _(stage):
    daemon = stage.start()
    client = stage.ws(daemon, stage.room)
    daemon.terminate()
    code, before = client.closed()
    assert code == 1012 and before[-1]["retryAfter"] >= 0
    return before[-1]


@error_over("serverSentEvents", "stream_unavailable")
def _(stage):
    daemon = stage.start()
    stream = stage.sse(daemon, stage.room)
    stream.welcome()
    daemon.terminate()
    error = ended(stream)
    assert error["retryAfter"] >= 0
    return error


def kick(daemon, connection):
    answer = daemon.request("DELETE", f"/v1/connections/{connection}", key=mint(sub="root", roles=["admin"]))
    assert answer.status_code == 204, answer.text


@error_over("webSocket", "kicked")
def _(stage):
    daemon = stage.start(**TOKENS)
    client = stage.ws(daemon, stage.room)
    kick(daemon, client.welcome["connection_id"])
    code, before = client.closed()
    assert code == 1008
    return before[-1]


@error_over("serverSentEvents", "kicked")
def _(stage):
    daemon = stage.start(**TOKENS)
    stream = stage.sse(daemon, stage.room)
    kick(daemon, stream.welcome()["connection_id"])
    return ended(stream)


@error_over("webSocket", "too_slow")
def _(stage):
    daemon = stage.start(**SLOW)
    slow = stage.slow_ws(daemon, "well:1", on_slow="disconnect")
    publish_much(daemon)
    slow.read_on()
    code, before = slow.closed()
    assert code == 1008
    return before[-1]


@error_over("serverSentEvents", "too_slow")
def _(stage):
    daemon = stage.start(**SLOW)
    stream = stage.sse(daemon, "well:1", on_slow="disconnect")
    stream.welcome()
    os.kill(stream.child.pid, signal.SIGSTOP)
    publish_much(daemon, count=6000)
    os.kill(stream.child.pid, signal.SIGCONT)
    return ended(stream)


@error_over("serverSentEvents", "too_many_rooms")
def _(stage):
    daemon = stage.start(LIMITS__ROOMS_PER_CONNECTION=2)
    for letter in "abc":
        daemon.publish_numbers(f"{stage.room}:{letter}", range(1))
    return stage.sse(daemon, f"{stage.room}:*").notice("error").data


@error_over("longPoll", "too_many_rooms")
def _(stage):
    daemon = stage.start(LIMITS__ROOMS_PER_CONNECTION=2)
    for letter in "abc":
        daemon.publish_numbers(f"{stage.room}:{letter}", range(1))
    [notice] = polled(daemon, f"{stage.room}:*", after=0)["notices"]
    return notice


@error_over("serverSentEvents", "cursor_too_long")
def _(stage):
    daemon = stage.start(LIMITS__CURSOR_BYTES="200B")
    stream = stage.sse(daemon, f"{stage.room}:*")
    stream.welcome()
    for number in range(20):
        daemon.publish_numbers(f"{stage.room}:{number}", range(1))
    return stream.notice("error").data


@pytest.mark.parametrize("channel, code", all_of(ERRORS))
def test_an_error_has_its_documented_code_and_shape(stage, channel, code):
    assert ERRORS[channel][code](stage)["code"] == code


# What the daemon takes.

@pytest.mark.parametrize("name", sorted(CONTRACT.received("webSocket")))
def test_every_example_of_a_client_s_message_is_done(stage, name):
    daemon = stage.start(**TOKENS)
    client = stage.ws(daemon)
    answers = {"get_stats": "stats", "ping": "pong", "subscribe": "subscribed", "unsubscribe": "unsubscribed", "publish": "published",
               "refresh": "refreshed"}
    for example in MESSAGES[name]["examples"]:
        # The token of an example is nobody's; only its shape is one's own.
        message = {**example["payload"], **({"token": daemon.key} if name == "refresh" else {})}
        client.send(message)
        answer = client.next()
        while answer["type"] in ("gap", "event", "heartbeat"):
            answer = client.next()
        assert (answer["type"], answer.get("id")) == (answers[name], message.get("id")), f"{message}: {answer}"


def variants():
    """Messages around what is allowed: every example with each field left out, one too many, and each field wrong in many ways."""
    for name in sorted(CONTRACT.received("webSocket")):
        for example in MESSAGES[name]["examples"]:
            whole = example["payload"]
            yield {**whole, "extra": 1}
            for field in whole:
                if field != "type":
                    yield {key: value for key, value in whole.items() if key != field}
    rooms = {"type": "subscribe", "rooms": ["a"]}
    for value in ("a", [], [1], ["a b"], ["a*b"], ["*"], ["a*"], ["x" * 200], ["x" * 201], ["x" * 199 + "*"], ["ä"],
                  ["a", "b"], ["a:/@_-."], None):
        yield {**rooms, "rooms": value}
        yield {"type": "unsubscribe", "rooms": value}
    for start in ({"after": "0"}, {"after": 0}, {"after": -1}, {"after": "x"}, {"after": "a=1"}, {"after": "a=1,b=2"}, {"after": "a="}, {"after": True},
                  {"tail": 0}, {"tail": 1_000_000}, {"tail": 1_000_001}, {"tail": -1}, {"tail": "5"}, {"tail": 1.5}, {"since": "-5m"}, {"since": 5},
                  {"since": ""}, {"after": "0", "tail": 1}, {"after": "0", "since": "-5m"}, {"tail": 1, "since": "-5m"}):
        yield {**rooms, **start}
    yield {**rooms, **SERVED}
    for name in ("mode", "fn"):
        for value in ("every", "latest", "mean", "min", "max", "last", "p95", "", 1, ["mean"]):
            yield {**rooms, name: value}
            yield {**rooms, name: value, "period": "1s"}
            yield {**rooms, name: value, "every": "1s", "field": "x"}
    yield {**rooms, "mode": "mean", "fn": "mean", "period": "1s"}
    yield {**rooms, "mode": "mean", "every": "1s", "period": "1s"}
    for served in ({"period": 1}, {"every": ""}, {"every": "24h"}, {"period": True}, {"filter": ""}, {"filter": "data.x > 1"}, {"filter": 1},
                   {"filter": f'data.x == "{"1" * 1012}"'}, {"filter": f'data.x == "{"1" * 1013}"'}, {"kinds": []}, {"kinds": "a"}, {"kinds": ["a"] * 64},
                   {"kinds": ["a"] * 65}, {"kinds": [""]}, {"kinds": [1]}, {"priority": "high"}, {"priority": "urgent"}, {"priority": 1}, {"on_slow": "wait"},
                   {"on_slow": "latest"}, {"on_slow": []}, {"wait": "1s"}, {"where": "true"}):
        yield {**rooms, **served}
    for field in ("x", "data.x", "data", "data.", "a.b.c", "a..b", ".a", "", "kind", "seq", ".".join("x" * 16), ".".join("x" * 17), "x" * 400, "x" * 401, 1):
        yield {**rooms, "mode": "last", "period": "1s", "field": field}
        yield {**rooms, "mode": "latest", "period": "1s", "field": field}
    event = {"type": "publish", "room": "a", "kind": "k", "data": 1}
    for field, values in {
        "room": ["a*", "", "a b", 5, "x" * 200, "x" * 201], "kind": ["", 5, "x" * 100, "x" * 101, "ä ö", "a\nb", "a\u0085b"], "data": [None, [], {"a": 1}, "x"],
        "priority": ["critical", "low", "urgent", 1], "key": ["", "x" * 200, "x" * 201, 5, "\t"], "event_id": ["", "x" * 200, "x" * 201, 5, "\x7f"],
        "timestamp": [0, 1.5, True, "2026-01-01T00:00:00Z", []], "ack": ["memory", "maybe", 1], "id": ["", "x" * 198, "x" * 199, 5, 1.5, True, [], {}],
    }.items():
        for value in values:
            yield {**event, field: value}
    for value in ("", 5, True, {}):
        yield {"type": "ping", "id": value}
    yield {"type": "get_stats", "rooms": ["a"]}
    yield {"type": "refresh", "token": 5}
    yield {"type": "refresh"}


def test_the_daemon_takes_what_the_schemas_allow_and_nothing_else(stage):
    daemon = stage.start()
    client = stage.ws(daemon)
    differ = []
    for number, message in enumerate(variants()):
        if message["type"] == "refresh" and isinstance(message.get("token"), str):
            message = {**message, "token": daemon.key}
        client.send(message)
        client.send({"type": "ping", "id": f"after-{number}"})
        answers = []
        while not answers or answers[-1].get("id") != f"after-{number}":
            answers.append(client.next())
        # A publish is answered when the room has it, which may be after the ping.
        refused_it = next((answer for answer in answers if answer["type"] == "error"), None)
        allowed = not CONTRACT.faults(message["type"], message)
        if allowed == bool(refused_it):
            differ.append(f"{json.dumps(message)[:200]}: the schema {'allows' if allowed else 'forbids'} it, the daemon says {refused_it}")
    assert not differ, "\n".join(differ)
