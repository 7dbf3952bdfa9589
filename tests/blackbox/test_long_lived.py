"""Streams that live longer than what opened them: tokens that end, are renewed or revoked, keys and users that go, rights that change.

Whatever ends, ends within seconds and is said; whoever is not meant stays as he was.
"""

import time

import pytest

from harness.api import instant
from harness.process import eventually
from harness.tokens import SECRET, hashed, mint, parts

SOON = 5
SHORT = {"AUTH__JWT_SECRET": SECRET, "AUTH__LEEWAY": "0s", "AUTH__EXPIRY_WARNING": "2s"}
PASSWORD = "correct horse battery staple"


@pytest.fixture
def short(start_daemon):
    """A daemon without leeway that warns two seconds before a token ends."""
    return start_daemon(**SHORT)


def ended_ws(client, code, timeout=SOON, number=4401):
    """The server says `code` in an error and closes with `number`; what came before that error."""
    closed, before = client.closed(timeout)
    assert closed == number, f"close code {closed}, messages before it: {before[-3:]}"
    assert before and (before[-1]["type"], before[-1]["code"]) == ("error", code), f"last message: {before[-1:]}"
    return before[:-1]


def ended_sse(stream, code, timeout=SOON):
    """The stream ends properly, and its last message is an error of this code; the messages before it."""
    messages, exit_code = stream.ended(timeout)
    assert messages and (messages[-1].name, messages[-1].data["code"]) == ("error", code), f"last messages: {messages[-3:]}"
    assert exit_code == 0, "the response was cut off, not ended"
    return messages[:-1]


def test_a_websocket_is_warned_and_then_closed_at_the_end_of_its_token(short, ws, room):
    token = mint(ttl=5)
    end = parts(token)[1]["exp"]
    client, other = ws(short, room, key=token), ws(short, room)
    notice = client.until("expiring", timeout=SOON)
    warned = time.time()
    assert abs(instant(notice["expires_at"]) - end) < 0.01 and 0 <= notice["seconds"] <= 2
    assert end - 3 < warned < end, "not two seconds before the end"
    short.publish_numbers(room, [1])
    assert client.event()["data"]["n"] == 1, "warned, and not served any more"
    ended_ws(client, "token_expired")
    assert client.reason == "token_expired"
    assert end - 0.5 < time.time() < end + 2
    assert other.alive()


def test_an_event_stream_is_warned_and_then_ended(short, sse, room):
    token = mint(ttl=5)
    end = parts(token)[1]["exp"]
    stream, other = sse(short, room, key=token), sse(short, room)
    other.welcome()
    notice = stream.notice("expiring", timeout=SOON).data
    assert notice["type"] == "expiring" and abs(instant(notice["expires_at"]) - end) < 0.01 and 0 <= notice["seconds"] <= 2
    ended_sse(stream, "token_expired")
    assert end - 0.5 < time.time() < end + 2
    short.publish_numbers(room, [1])
    assert other.event().data["data"]["n"] == 1


def test_a_token_shorter_than_the_warning_is_warned_of_at_once(start_daemon, ws):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET)
    client = ws(daemon, "x", key=mint(ttl=20))
    assert 10 < client.until("expiring", timeout=2)["seconds"] <= 20


def test_a_cursor_goes_on_with_a_new_token_where_the_old_one_ended(short, ws, room):
    client = ws(short, room, key=mint(ttl=2))
    last = short.publish_numbers(room, range(3))["last_seq"]
    ended_ws(client, "token_expired")
    short.publish_numbers(room, [3])
    assert ws(short, room, key=mint(ttl=60), after=last).event()["data"]["n"] == 3


def test_a_refresh_extends_a_websocket(short, ws, room):
    token, longer = mint(ttl=3), mint(ttl=60)
    client = ws(short, room, key=token)
    answer = client.ask({"type": "refresh", "token": longer}, "refreshed")
    assert abs(instant(answer["expires_at"]) - parts(longer)[1]["exp"]) < 0.01
    while time.time() < parts(token)[1]["exp"] + 1.5:
        assert client.alive()
        time.sleep(0.1)
    short.publish_numbers(room, [1])
    assert client.event()["data"]["n"] == 1


def test_a_refresh_can_also_shorten(short, ws, room):
    client = ws(short, room, key=mint(ttl=60))
    client.ask({"type": "refresh", "token": mint(ttl=2)}, "refreshed")
    ended_ws(client, "token_expired")


@pytest.mark.parametrize("token, code", [(lambda: mint(sub="mallory", roles=["admin"]), "wrong_subject"), (lambda: mint(SECRET + "x"), "unauthorized"),
                                         (lambda: mint(ttl=-5), "unauthorized"), (lambda: "nonsense", "unauthorized"), (lambda: "", "unauthorized")],
                         ids=["subject", "signature", "expired", "nonsense", "empty"])
def test_a_refresh_that_is_refused_changes_nothing(short, ws, room, token, code):
    own = mint(ttl=4, rooms=[room])
    client = ws(short, room, key=own)
    assert client.ask({"type": "refresh", "token": token()}, "error")["code"] == code
    assert client.alive()
    assert client.ask({"type": "subscribe", "rooms": ["other:1"]}, "error")["code"] == "forbidden"
    short.publish_numbers(room, [1])
    assert client.event()["data"]["n"] == 1
    ended_ws(client, "token_expired")
    assert time.time() < parts(own)[1]["exp"] + 2


@pytest.mark.parametrize("token", [5, None, ["x"]], ids=str)
def test_a_refresh_of_another_shape_is_an_error_and_changes_nothing(short, ws, token):
    client = ws(short, "x", key=mint())
    client.ask({"type": "refresh", **({"token": token} if token is not None else {})}, "error")
    assert client.alive()


def test_a_refresh_takes_over_the_new_token_s_rights(short, ws):
    client = ws(short, "well:1,tank:1", key=mint(rooms=["well:*", "tank:*"], publish=[]))
    client.send({"type": "refresh", "token": mint(rooms=["well:*", "gas:*"], publish=["gas:*"])})
    answers = {message["type"]: message for message in (client.next(SOON), client.next(SOON))}
    assert set(answers) == {"refreshed", "error"}, answers
    error = answers["error"]
    assert error["code"] == "forbidden" and "tank:1" in str(error), error
    client.subscribe("gas:1")
    short.publish_numbers("tank:1", [1])
    short.publish_numbers("gas:1", [2])
    short.publish_numbers("well:1", [3])
    assert sorted((event["room"], event["data"]["n"]) for event in client.take(2)) == [("gas:1", 2), ("well:1", 3)]
    assert client.ask({"type": "subscribe", "rooms": ["tank:1"]}, "error")["code"] == "forbidden"
    assert client.ask({"type": "publish", "room": "gas:1", "kind": "k", "data": 1}, "published")


def test_a_revoked_token_ends_its_streams_and_no_others(short, ws, sse, room):
    mine, other = mint(jti="mine"), mint(jti="other")
    client, stream = ws(short, room, key=mine), sse(short, room, key=mine)
    stream.welcome()
    kept, kept_stream = ws(short, room, key=other), sse(short, room, key=other)
    kept_stream.welcome()
    assert short.request("POST", "/api/v1/auth/logout", key=mine).status_code == 204
    ended_ws(client, "token_revoked", timeout=4)
    ended_sse(stream, "token_revoked", timeout=4)
    short.publish_numbers(room, [1])
    assert kept.event()["data"]["n"] == 1 and kept_stream.event().data["data"]["n"] == 1


@pytest.mark.parametrize("end", ["expired", "revoked"])
def test_a_reader_that_takes_nothing_is_ended_in_time_too(start_daemon, ws, end):
    daemon = start_daemon(**SHORT, LIMITS__SEND_BUFFER="64KiB", LIMITS__WRITE_TIMEOUT="60s")
    token = mint(ttl=4 if end == "expired" else 60)
    ws(daemon, "well:1", key=token, slow=True)
    for start in range(0, 3000, 250):
        daemon.publish_numbers("well:1", range(start, start + 250), pad=2000)
    if end == "revoked":
        assert daemon.request("POST", "/api/v1/auth/logout", key=token).status_code == 204
    eventually(lambda: daemon.room("well:1")["subscribers"] == 0, "the reader is gone", timeout=9)


def test_a_token_revoked_by_an_admin_ends_its_streams(short, ws, room):
    client = ws(short, room, key=mint(jti="id-1"))
    answer = short.request("POST", "/api/v1/auth/revoke", key=mint(roles=["admin"]), json={"token_id": "id-1"})
    assert answer.status_code == 204
    ended_ws(client, "token_revoked", timeout=4)


def test_after_a_refresh_the_new_token_counts_when_one_is_revoked(short, ws, room):
    client = ws(short, room, key=mint(jti="old"))
    client.ask({"type": "refresh", "token": mint(jti="new")}, "refreshed")
    admin = mint(roles=["admin"])
    short.request("POST", "/api/v1/auth/revoke", key=admin, json={"token_id": "new"})
    ended_ws(client, "token_revoked", timeout=4)


def test_a_revoked_key_ends_its_streams_and_no_others(short, ws, sse, room):
    keys = [short.run("key", "create", name, "--role", "viewer").stdout.strip() for name in ("one", "two")]
    for key in keys:
        eventually(lambda: short.get("/v1/rooms", key=key).status_code == 200, "the key is taken", timeout=6)
    client, stream, kept = ws(short, room, key=keys[0]), sse(short, room, key=keys[0]), ws(short, room, key=keys[1])
    stream.welcome()
    assert short.run("key", "revoke", "one").code == 0
    ended_ws(client, "token_revoked")
    ended_sse(stream, "token_revoked")
    assert kept.alive()


def test_a_key_that_ends_ends_its_streams(short, ws, room):
    key = short.run("key", "create", "one", "--role", "viewer", "--expires", "5s").stdout.strip()
    eventually(lambda: short.get("/v1/rooms", key=key).status_code == 200, "the key is taken", timeout=4)
    ended_ws(ws(short, room, key=key), "token_expired", timeout=8)


def settings(users="", roles='[auth.roles.wells]\nrooms = ["well:*", "tank:*"]\n', keys=("test",)):
    listed = ", ".join(f'"{name}:a-key-of-{name}-1234567890"' for name in keys)
    return f'[auth]\njwt_secret = "{SECRET}"\napi_keys = [{listed}]\n{roles}{users}'


def user(name, password=PASSWORD, more='roles = ["viewer"]'):
    return f'[auth.users.{name}]\npassword_hash = "{hashed(password)}"\n{more}\n'


@pytest.fixture
def by_file(start_daemon):
    """Starts a daemon whose credentials and roles stand in a file, so that SIGHUP can change them."""
    def start(text):
        daemon = start_daemon(started=False, AUTH__API_KEYS=None).configure(text).start()
        daemon.key = "a-key-of-test-1234567890"
        return daemon

    return start


def test_a_user_that_is_gone_after_a_reload_ends_his_streams(by_file, ws, sse, room):
    alice, bob = user("alice"), user("bob")
    daemon = by_file(settings(users=alice + bob))
    tokens = {name: daemon.login(name, PASSWORD).json()["access_token"] for name in ("alice", "bob")}
    client, stream, kept = ws(daemon, room, key=tokens["alice"]), sse(daemon, room, key=tokens["alice"]), ws(daemon, room, key=tokens["bob"])
    stream.welcome()
    daemon.reload(settings(users=bob))
    ended_ws(client, "token_revoked")
    ended_sse(stream, "token_revoked")
    assert kept.alive() and daemon.get("/v1/rooms", key=tokens["alice"]).status_code == 401
    assert daemon.get("/v1/rooms", key=tokens["bob"]).status_code == 200


def test_a_key_that_is_gone_after_a_reload_ends_its_streams(by_file, ws, room):
    daemon = by_file(settings(keys=("test", "screens")))
    client, kept = ws(daemon, room, key="a-key-of-screens-1234567890"), ws(daemon, room)
    daemon.reload(settings())
    ended_ws(client, "token_revoked")
    assert kept.alive()


@pytest.mark.parametrize("transport", ["ws", "sse"])
def test_a_role_that_shrinks_ends_what_it_no_longer_covers(by_file, ws, sse, transport):
    daemon = by_file(settings())
    rooms, key = "well:1,tank:1", mint(roles=["wells"])
    reader = ws(daemon, rooms, key=key) if transport == "ws" else sse(daemon, rooms, key=key)
    beside = ws(daemon, rooms, key=mint(roles=["viewer"]))
    if transport == "sse":
        reader.welcome()
    daemon.reload(settings(roles='[auth.roles.wells]\nrooms = ["well:*"]\n'))
    error = reader.until("error", timeout=SOON) if transport == "ws" else reader.notice("error", timeout=SOON).data
    assert error["code"] == "forbidden" and "tank:1" in str(error) and "well:1" not in str(error), error
    daemon.publish_numbers("tank:1", [1])
    daemon.publish_numbers("well:1", [2])
    event = reader.event() if transport == "ws" else reader.event().data
    assert event["data"]["n"] == 2
    assert sorted(event["data"]["n"] for event in beside.take(2)) == [1, 2]


def test_a_pattern_shrinks_with_its_role(by_file, ws):
    daemon = by_file(settings())
    client = ws(daemon, "*", key=mint(roles=["wells"]))
    daemon.publish_numbers("tank:1", [0])
    assert client.event()["room"] == "tank:1"
    daemon.reload(settings(roles='[auth.roles.wells]\nrooms = ["well:*"]\n'))
    client.until("error", timeout=SOON)
    for n, name in enumerate(["tank:1", "tank:new", "well:new"]):
        daemon.publish_numbers(name, [n])
    assert client.event()["room"] == "well:new"
    assert client.ask({"type": "get_stats"}, "stats")["delivered"] == 2


def test_a_role_that_grows_is_taken_too(by_file, ws):
    daemon = by_file(settings(roles='[auth.roles.wells]\nrooms = ["well:*"]\n'))
    client = ws(daemon, "well:1", key=mint(roles=["wells"]))
    assert client.ask({"type": "subscribe", "rooms": ["tank:1"]}, "error")["code"] == "forbidden"
    daemon.reload(settings())
    eventually(lambda: client.alive() and subscribes(client, "tank:1"), "the wider role is taken", timeout=SOON, every=0.2)
    daemon.publish_numbers("tank:1", [1])
    assert client.event()["room"] == "tank:1"


def subscribes(client, room):
    client.send({"type": "subscribe", "id": f"s-{time.monotonic_ns()}", "rooms": [room]})
    answer = client.next()
    return answer["type"] == "subscribed"


def test_a_publisher_on_a_websocket_loses_a_right_that_is_taken_away(by_file, ws):
    roles = '[auth.roles.writer]\npublish = ["{0}"]\n'
    daemon = by_file(settings(roles=roles.format("well:*")))
    client = ws(daemon, key=mint(roles=["writer"]))
    message = {"type": "publish", "room": "well:1", "kind": "n", "data": {"n": 1}}
    client.ask(dict(message), "published")
    daemon.reload(settings(roles=roles.format("tank:*")))

    def refused():
        client.send({**message, "id": "p"})
        return client.next()["type"] == "error"

    eventually(refused, "a publish is refused", timeout=SOON, every=0.2)
