"""Who may do what: roles, the claims that replace them, patterns, and a refusal that tells nothing about what there is.

Rights that change while a connection is open are in test_long_lived.py.
"""

import json

import pytest

from harness.api import Api, numbers, problem
from harness.tokens import SECRET, mint, user
from harness.ws import refused

SETTINGS = {"AUTH__JWT_SECRET": SECRET, "AUTH__ROLES__WELLS__ROOMS": "well:*", "AUTH__ROLES__WELLS__PUBLISH": "well:a*",
            "AUTH__ROLES__TANKS__ROOMS": "tank:1", "AUTH__ROLES__WRITER__PUBLISH": "*"}
EVENT = {"kind": "k", "data": 1}
ALL = ["*"]
GIVES = [("viewer", ALL, []), ("operator", ALL, ALL), ("admin", ALL, ALL), ("platform_admin", ALL, ALL), ("no-such-role", [], []),
         ("wells", ["well:*"], ["well:a*"]), ("writer", [], ALL)]

READ = {"info": ("/v1/rooms/{0}", {}), "history": ("/v1/rooms/{0}/events", {}), "poll": ("/v1/stream?rooms={0}&wait=0s", {}),
        "sse": ("/v1/stream?rooms={0}", {"Accept": "text/event-stream"})}
ADMIN = [("GET", "/v1/connections", None), ("GET", "/v1/connections/1", None), ("DELETE", "/v1/connections/1", None),
         ("POST", "/api/v1/auth/revoke", {"token_id": "never"})]


@pytest.fixture
def guarded(start_daemon):
    """A daemon with roles of its own and the rooms tank:1, well:1 and well:2, three events each."""
    daemon = start_daemon(**SETTINGS)
    for name in ("tank:1", "well:1", "well:2"):
        daemon.publish_numbers(name, range(3))
    return daemon


def read(daemon, call, room, key):
    path, headers = READ[call]
    return daemon.get(path.format(room), key=key, headers=headers, stream=call == "sse")


def publish(daemon, room, key, event=EVENT):
    return daemon.request("POST", f"/v1/rooms/{room}/events", key=key, json=event)


def forbidden(answer):
    found = problem(answer, 403, kind="forbidden")
    assert "www-authenticate" not in answer.headers, "a 403 is no question for another credential"
    return found


@pytest.mark.parametrize("role, rooms, publishes", GIVES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_role_gives_what_the_settings_say(guarded, role, rooms, publishes):
    key = mint(roles=[role])
    me = guarded.me(key)
    assert (me["rooms"], me["publish"], me["roles"]) == (rooms, publishes, [role])
    for name in ("well:1", "tank:1"):
        answer = guarded.get(f"/v1/rooms/{name}", key=key)
        assert answer.status_code == (200 if rooms == ALL or (rooms and name == "well:1") else 403), name
        answer = publish(guarded, name, key)
        assert answer.status_code == (202 if publishes == ALL else 403), name
    assert publish(guarded, "well:abc", key).status_code == (202 if publishes else 403)


@pytest.mark.parametrize("call", READ)
def test_every_way_to_read_is_open_to_a_reader_and_shut_to_others(guarded, call):
    assert read(guarded, call, "well:1", mint(roles=["viewer"])).status_code == 200
    assert read(guarded, call, "well:1", mint(rooms=["well:1"])).status_code == 200
    for key in (mint(roles=[]), mint(roles=["no-such-role"]), mint(rooms=[]), mint(rooms=["well:2", "well"]), mint(roles=["writer"])):
        forbidden(read(guarded, call, "well:1", key))
    problem(read(guarded, call, "well:1", None), 401, kind="unauthorized")
    problem(read(guarded, call, "well:1", "nonsense"), 401, kind="unauthorized")


@pytest.mark.parametrize("method, path, body", ADMIN, ids=lambda value: value if isinstance(value, str) else "")
def test_admin_calls_are_for_admins_only(guarded, method, path, body):
    def call(key):
        return guarded.request(method, path, key=key, **({"json": body} if body else {}))

    for roles in (["viewer"], ["operator"], ["platform_admin"], ["wells", "writer"], [], ["Admin"], ["admins"]):
        forbidden(call(mint(roles=roles, rooms=ALL, publish=ALL)))
    forbidden(call(guarded.key))
    problem(call(None), 401, kind="unauthorized")
    assert call(mint(roles=["admin"])).status_code in (200, 204, 404)
    assert call(mint(roles=["viewer", "admin"], rooms=["well:1"])).status_code in (200, 204, 404), "narrower rooms leave an admin an admin"


def test_several_roles_add_up(guarded):
    me = guarded.me(mint(roles=["wells", "tanks", "no-such-role"]))
    assert (sorted(me["rooms"]), me["publish"]) == (["tank:1", "well:*"], ["well:a*"])


def test_claims_replace_what_the_roles_allow(guarded):
    me = guarded.me(mint(roles=["operator"], rooms=["well:1"]))
    assert (me["rooms"], me["publish"]) == (["well:1"], ALL)
    me = guarded.me(mint(roles=["viewer"], publish=["tank:*"]))
    assert (me["rooms"], me["publish"]) == (ALL, ["tank:*"])
    me = guarded.me(mint(roles=["operator"], rooms=[], publish=[]))
    assert (me["rooms"], me["publish"]) == ([], [])


def test_a_token_without_roles_has_the_default_role(start_daemon):
    assert start_daemon(**SETTINGS).me(mint())["roles"] == ["viewer"]
    assert start_daemon(**SETTINGS, AUTH__DEFAULT_ROLE="wells").me(mint())["rooms"] == ["well:*"]
    nobody = start_daemon(**SETTINGS, AUTH__DEFAULT_ROLE="")
    assert nobody.me(mint())["rooms"] == []
    forbidden(nobody.get("/v1/rooms/well:1", key=mint()))
    assert nobody.me(mint(roles=["viewer"]))["rooms"] == ALL


def test_a_shipped_role_can_be_changed(start_daemon):
    daemon = start_daemon(**SETTINGS, AUTH__ROLES__VIEWER__ROOMS="well:*", AUTH__ROLES__OPERATOR__PUBLISH="well:1")
    assert daemon.me(mint(roles=["viewer"]))["rooms"] == ["well:*"]
    assert daemon.me(mint(roles=["operator"]))["publish"] == ["well:1"]
    assert daemon.me()["publish"] == ["well:1"], "a key of the settings has the role operator"


@pytest.mark.parametrize("pattern, covered, not_covered", [
    ("well:1", ["well:1"], ["well:10", "well:", "well", "Well:1"]), ("well:1*", ["well:1", "well:10", "well:1:x"], ["well:2", "well:"]),
    ("well:*", ["well:1", "well:a:b"], ["wellness:1", "well", "tank:1"]), ("*", ["well:1", "x"], []), ("w*", ["well:1", "wx", "w"], ["tank:1"])])
def test_a_pattern_covers_what_begins_with_it(guarded, pattern, covered, not_covered):
    key = mint(rooms=[pattern], publish=[pattern])
    for name in covered:
        assert publish(guarded, name, key).status_code == 202, name
        assert guarded.get(f"/v1/rooms/{name}/events", key=key).status_code == 200, name
    for name in not_covered:
        forbidden(publish(guarded, name, key))
        forbidden(guarded.get(f"/v1/rooms/{name}/events", key=key))


def alike(one, two, name, other):
    """Two answers are the same to the byte, apart from the room's name."""
    def plain(answer, room):
        headers = {key.lower(): value for key, value in answer.headers.items() if key.lower() != "date"}
        return json.dumps([answer.status_code, headers, answer.text]).replace(room, "ROOM")

    assert plain(one, name) == plain(two, other)


@pytest.mark.parametrize("call", [*READ, "publish", "broken-publish", "wrong-parameter"])
def test_a_refusal_does_not_tell_whether_the_room_exists(guarded, call):
    key = mint(rooms=["well:1"], publish=["well:1"])
    answers = []
    for name in ("tank:1", "none:1"):
        if call == "publish":
            answers.append(publish(guarded, name, key))
        elif call == "broken-publish":
            answers.append(guarded.request("POST", f"/v1/rooms/{name}/events", key=key, data=b"{"))
        elif call == "wrong-parameter":
            answers.append(guarded.get(f"/v1/rooms/{name}/events?after=12345", key=key))
        else:
            answers.append(read(guarded, call, name, key))
    alike(*answers, "tank:1", "none:1")
    assert answers[0].status_code in ((400, 403) if call == "broken-publish" else (403,))


def test_a_websocket_refusal_does_not_tell_whether_the_room_exists_either(guarded, ws):
    client = ws(guarded, key=mint(rooms=["well:1"], publish=[]))
    for message in ({"type": "subscribe", "rooms": ["R"]}, {"type": "subscribe", "rooms": ["R"], "after": "0"}, {"type": "publish", "room": "R", **EVENT}):
        texts = [json.dumps(client.ask(json.loads(json.dumps({**message, "id": "q"}).replace('"R"', f'"{name}"')), "error")).replace(name, "R")
                 for name in ("tank:1", "none:1")]
        assert texts[0] == texts[1] and json.loads(texts[0])["code"] == "forbidden"


def test_a_refused_publish_makes_no_room(guarded, ws):
    forbidden(publish(guarded, "new:1", mint(publish=["well:*"])))
    client = ws(guarded, key=mint(publish=["well:*"]))
    assert client.ask({"type": "publish", "room": "new:1", **EVENT}, "error")["code"] == "forbidden"
    assert guarded.room("new:1") is None
    assert client.ask({"type": "publish", "room": "well:1", **EVENT}, "published")["room"] == "well:1"


def test_the_list_names_and_counts_only_what_may_be_read(guarded):
    def listed(key, **params):
        answer = guarded.get("/v1/rooms", key=key, params=params).json()
        return [room["room"] for room in answer["rooms"]], answer["total"]

    assert listed(mint(rooms=["well:*"])) == (["well:1", "well:2"], 2)
    assert listed(mint(rooms=["well:*"]), limit=1) == (["well:1"], 2)
    assert listed(mint(rooms=["well:2", "none:*"])) == (["well:2"], 1)
    assert listed(mint(rooms=["well:*"]), pattern="*") == (["well:1", "well:2"], 2)
    assert listed(mint(rooms=["well:*"]), pattern="tank:*") == ([], 0)
    assert listed(mint(rooms=[])) == ([], 0)
    assert listed(mint()) == (["tank:1", "well:1", "well:2"], 3)


def test_metrics_are_for_who_may_read_every_room(start_daemon):
    daemon = start_daemon(**SETTINGS)
    for key in (mint(), daemon.key, mint(roles=[], rooms=ALL), mint(rooms=["well:*", "*"])):
        assert daemon.get("/metrics", key=key).status_code == 200
    for key in (mint(rooms=["well:*"]), mint(roles=["wells"]), mint(roles=[]), mint(roles=["writer"])):
        forbidden(daemon.get("/metrics", key=key))
    assert start_daemon(**SETTINGS, METRICS__PUBLIC="true").get("/metrics", key=mint(roles=[])).status_code == 200


def test_a_pattern_is_followed_as_far_as_it_is_covered_later_rooms_too(guarded, ws):
    clients = {pattern: ws(guarded, pattern, key=mint(rooms=["well:*"])) for pattern in ("*", "w*", "well:*")}
    later = ws(guarded, key=mint(rooms=["well:*"]))
    later.subscribe("*")
    clients["subscribed"] = later
    for n, name in enumerate(["tank:1", "well:1", "tank:new", "well:new", "x", "wells:1", "well:z"]):
        guarded.publish_numbers(name, [n])
    for pattern, client in clients.items():
        assert sorted(event["room"] for event in client.take(3)) == ["well:1", "well:new", "well:z"], pattern
        assert client.ask({"type": "get_stats"}, "stats")["delivered"] == 3, f"{pattern}: something else was delivered"


def test_replay_of_a_pattern_keeps_to_what_is_covered(guarded, ws, sse):
    key = mint(rooms=["well:*"])
    assert {event["room"] for event in guarded_poll(guarded, key, rooms="*", after=0)["events"]} == {"well:1", "well:2"}
    stream = sse(guarded, "*", key=key, tail=3)
    assert "tank" not in json.dumps(stream.welcome())
    assert {message.data["room"] for message in stream.take(6)} == {"well:1", "well:2"}
    guarded.publish_numbers("tank:1", [9])
    guarded.publish_numbers("well:1", [10])
    assert stream.event().data["data"]["n"] == 10
    client = ws(guarded, "*", key=key, since="-5m")
    assert "tank" not in json.dumps(client.welcome)
    assert {event["room"] for event in client.take(7)} == {"well:1", "well:2"}


def guarded_poll(daemon, key, **params):
    answer = daemon.get("/v1/stream", key=key, params={"wait": "0s", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_cursor_that_names_a_room_does_not_open_it(guarded):
    first = guarded.history("tank:1")["events"][0]["seq"]
    page = guarded_poll(guarded, mint(rooms=["well:*"]), rooms="*", after=f"tank:1={first},well:1=0")
    assert {event["room"] for event in page["events"]} <= {"well:1", "well:2"}
    assert "tank" not in json.dumps(page["notices"])


@pytest.mark.parametrize("rooms", ["tank:1", "tank:*", "t*", "well:9,tank:1"])
def test_where_nothing_or_a_named_room_is_not_covered_the_stream_is_refused(guarded, rooms):
    key = mint(rooms=["well:*"])
    for headers in ({}, {"Accept": "text/event-stream"}):
        forbidden(guarded.get("/v1/stream", params={"rooms": rooms, **({} if headers else {"wait": "0s"})}, key=key, headers=headers, stream=bool(headers)))
    forbidden(refused(guarded, rooms, key=key))


def test_on_a_websocket_a_refusal_is_an_error_and_the_connection_stays(guarded, ws):
    client = ws(guarded, "well:1", key=mint(rooms=["well:*"], publish=["well:1"]))
    for rooms in (["tank:1"], ["tank:*"], ["well:2", "tank:1"]):
        assert client.ask({"type": "subscribe", "rooms": rooms}, "error")["code"] == "forbidden"
    assert client.ask({"type": "publish", "room": "well:2", **EVENT}, "error")["code"] == "forbidden"
    assert client.alive()
    guarded.publish_numbers("well:2", [7])
    guarded.publish_numbers("well:1", [8])
    assert client.event()["data"]["n"] == 8, "a refused subscription was followed"


def test_a_wrong_credential_is_not_told_what_it_may_not_do(guarded):
    for path in ("/v1/rooms/tank:1", "/v1/rooms/none:1", "/metrics", "/v1/connections", "/no/such/page"):
        problem(guarded.get(path, key="nonsense"), 401, kind="unauthorized")


def test_refusals_are_counted_by_their_reason(guarded):
    def counted(reason):
        found = [line for line in guarded.get("/metrics").text.splitlines() if line.startswith("tidegate_requests_refused_total{") and f'"{reason}"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    before = counted("unauthorized"), counted("forbidden")
    for key in ("nonsense", "nonsense", mint(roles=[])):
        guarded.get("/v1/rooms/well:1", key=key)
    assert (counted("unauthorized"), counted("forbidden")) == (before[0] + 2, before[1] + 1)


def test_who_may_only_write_writes_and_reads_nothing(guarded):
    writer = Api(guarded.url, mint(roles=["writer"]))
    assert writer.publish_numbers("well:1", [3])["count"] == 1
    forbidden(writer.get("/v1/rooms/well:1/events"))
    assert writer.get("/v1/rooms").json() == {"rooms": [], "total": 0}
    assert numbers(guarded.history("well:1")["events"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name, value", [("AUTH__ROLES__WELLS__ROOMS", "we*ll"), ("AUTH__ROLES__WELLS__NO_SUCH", "x"), ("AUTH__ROLES__WELLS__PUBLISH", "a b"),
                                         ("AUTH__USERS__ALICE__ROOMS", "**")])
def test_a_pattern_that_is_none_is_a_fault_at_start(start_daemon, name, value):
    result = start_daemon(started=False).run("check", **{**user("alice", "password"), name: value})
    assert result.code == 2 and name.lower().replace("__", ".") in result.stderr.lower(), result
