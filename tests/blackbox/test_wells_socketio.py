"""What a dashboard of wells is promised over Socket.IO: python-socketio and socket.io-client work as they are, over WebSocket, polling
and the upgrade from one to the other; they sign in, subscribe, and get each event once and in order, also over a broken
connection. The protocol itself is in test_wells_socketio_protocol.py.
"""

import asyncio
import json
import subprocess
import threading
import time

import pytest
import requests
import socketio
from socketio.exceptions import ConnectionError as NotConnected

from harness.nginx import Nginx
from harness.node import SioJs
from harness.process import eventually
from harness.proxy import Proxy
from harness.sio import Polling, SioPy, Socket
from harness.tokens import SECRET, mint

SETTINGS = {"AUTH__JWT_SECRET": SECRET, "WELLS__MESSAGES_PER_SECOND": "1000"}
WAYS = ["websocket", "polling"]
ADMIN = mint(sub="root", roles=["admin"], ttl=3000)


@pytest.fixture
def server(start_daemon):
    """A daemon that takes tokens by SECRET."""
    return start_daemon(**SETTINGS)


@pytest.fixture
def well(room):
    """A well that no other test has."""
    return room.replace(":", "-").upper()


@pytest.fixture
def token():
    """A viewer's token."""
    return mint(sub="alice", rooms=["well:*"], ttl=3000)


@pytest.fixture
def js():
    """Starts real socket.io-clients."""
    scripts = []

    def start(url, token=None, **options):
        scripts.append(SioJs().connect(url, token, **options))
        return scripts[-1]

    yield start
    for script in scripts:
        script.stop()


@pytest.fixture
def py():
    """Starts real python-socketio clients."""
    clients = []

    def start(*arguments, **options):
        clients.append(SioPy(*arguments, **options))
        return clients[-1]

    yield start
    for client in clients:
        client.stop()


@pytest.fixture
def proxy(server):
    """A proxy in front of the daemon."""
    proxy = Proxy(server)
    yield proxy
    proxy.stop()


def measure(server, well, numbers):
    """Publishes measurements natively, one for each number."""
    events = [{"kind": "telemetry_update", "data": {"n": n, "pip": 2000.5}} for n in numbers]
    return server.publish(f"well:{well}", events)


def audited(server):
    """The lines of the audit log so far."""
    return [json.loads(line) for line in server.audit_file.read_text().splitlines()]


def ns(updates):
    """Their numbers."""
    return [update["data"]["n"] for update in updates]


# Signing in.

@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_the_python_client_connects_and_is_welcomed(server, token, py, transports):
    client = py(server.url, token, transports=transports)
    welcome = client.event("connected")
    assert (welcome["user_id"], welcome["username"]) == ("alice", "alice") and welcome["message"] and welcome["timestamp"].endswith("Z")
    assert client.client.transport() == transports[-1]


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_the_javascript_client_connects_and_is_welcomed(server, token, js, transports):
    client = js(server.url, token, transports=transports)
    connected = client.what("connect")
    assert connected["transport"] in transports and connected["id"] and connected["recovered"] is False
    assert client.event("connected")[0]["user_id"] == "alice"
    if connected["transport"] != transports[-1]:  # it may have gone over before it had signed in, or before it was welcomed
        eventually(lambda: {"what": "upgrade", "transport": "websocket"} in client.seen, "it goes over to a WebSocket")
    client.emit("ping")
    assert client.event("pong")


@pytest.mark.parametrize("transport", WAYS)
def test_the_asyncio_client_connects_subscribes_and_is_told(server, token, well, transport):
    async def run():
        came = {name: asyncio.Queue() for name in ("connected", "subscribed", "telemetry_update")}
        client = socketio.AsyncClient(reconnection=False)
        for name, queue in came.items():
            client.on(name, queue.put)  # which takes one argument and no more
        await client.connect(server.url, auth={"token": token}, transports=[transport])
        assert (await asyncio.wait_for(came["connected"].get(), 15))["user_id"] == "alice"
        await client.emit("subscribe", {"well_id": well})
        assert (await asyncio.wait_for(came["subscribed"].get(), 15))["well_id"] == well
        await asyncio.to_thread(measure, server, well, range(40))
        updates = [await asyncio.wait_for(came["telemetry_update"].get(), 15) for _ in range(40)]
        await client.disconnect()
        return updates

    assert ns(asyncio.run(run())) == list(range(40))


@pytest.mark.parametrize("transport", WAYS)
@pytest.mark.parametrize("wrong", [None, "made-up", "ended", "signed by another"])
def test_a_wrong_token_is_a_connect_error(server, py, js, transport, wrong):
    token = {"ended": mint(sub="alice", rooms=["*"], ttl=-3600), "signed by another": mint(key="x" * 40, sub="alice")}.get(wrong, wrong)
    with pytest.raises(NotConnected):
        py(server.url, token, transports=[transport])
    refused = js(server.url, token, transports=[transport]).what("connect_error")
    assert "token" in refused["message"] and refused["data"]["error"] == "AuthenticationError"
    eventually(lambda: any((line["event"], line.get("path"), line.get("status")) == ("refused", "/socket.io/", 401) for line in audited(server)),
               "it is written down")


@pytest.mark.parametrize("shown", ["header", "query", "key"])
def test_a_credential_is_taken_wherever_others_show_it(server, token, js, shown):
    options = {"header": {"extraHeaders": {"Authorization": f"Bearer {token}"}}, "query": {"query": {"access_token": token}},
               "key": {"auth": {"token": server.key}}}[shown]
    client = js(server.url, **options)
    assert client.event("connected")[0]["user_id"] == ("test" if shown == "key" else "alice")


def test_a_wrong_token_is_not_made_good_by_the_header(server, token, js):
    client = js(server.url, "made-up", extraHeaders={"Authorization": f"Bearer {token}"})
    assert client.what("connect_error")


# What may be asked for.

@pytest.mark.parametrize("transport", WAYS)
def test_a_client_asks_and_is_answered(server, token, well, py, transport):
    client = py(server.url, token, transports=[transport])
    client.client.emit("ping")
    assert client.event("pong")["timestamp"].endswith("Z")
    subscribed = client.subscribe(well)
    assert subscribed["well_id"] == well and subscribed["timestamp"] and "cursor" in subscribed
    measure(server, well, [1])
    assert client.event("telemetry_update")["data"]["n"] == 1
    client.client.emit("get_stats")
    stats = client.event("stats")
    assert stats["subscriptions"] == [well] and stats["message_count"] == 1 and stats["connected_at"].endswith("Z")
    assert "server" not in stats
    client.client.emit("unsubscribe", {"well_id": well})
    assert client.event("unsubscribed")["well_id"] == well
    measure(server, well, [2])
    client.client.emit("ping")
    client.event("pong")
    assert client.came["telemetry_update"].empty()


def test_an_acknowledgement_carries_the_same(server, token, well, js, py):
    client = js(server.url, token)
    client.do("ask", name="subscribe", args=[{"well_id": well}])
    assert client.what("ack")["args"][0]["well_id"] == well
    client.do("ask", name="subscribe", args=[{}])
    assert client.what("ack")["args"][0] == {"error": "ValidationError", "message": "well_id is required"}
    assert py(server.url, token).client.call("ping", timeout=10)["timestamp"]


@pytest.mark.parametrize("role, whole", [("viewer", False), ("operator", False), ("platform_admin", False), ("admin", True)])
def test_stats_are_the_whole_servers_for_an_admin_and_ones_own_for_others(server, well, py, role, whole):
    client = py(server.url, mint(sub="somebody", roles=[role], ttl=3000))
    client.subscribe(well)
    client.client.emit("get_stats")
    stats = client.event("stats")
    assert stats["subscriptions"] == [well] and ("server" in stats) == whole, stats


def test_an_admin_is_told_of_the_whole_server(server, token, well, js):
    other = js(server.url, token)
    other.subscribe(well)
    admin = js(server.url, ADMIN)
    admin.what("connect")
    admin.emit("get_stats")
    stats = admin.event("stats")[0]
    assert stats["server"]["connections"] == {"socketio": 2} and stats["server"]["total_connections"] == 2
    assert stats["server"]["well_subscriptions"] == 1 and stats["subscriptions"] == []


@pytest.mark.parametrize("sent, error", [
    ('42["subscribe"]', "ValidationError"), ('42["subscribe",{}]', "ValidationError"), ('42["subscribe",{"well_id":7}]', "ValidationError"),
    ('42["subscribe",{"well_id":"a b"}]', "ValidationError"), ('42["subscribe",{"well_id":"*"}]', "ValidationError"),
    ('42["subscribe",{"well_id":"A","after":"x"}]', "ValidationError"), ('42["subscribe",{"well_id":"A","tail":-1}]', "ValidationError"),
    ('42["subscribe",{"well_id":"A","since":"soon"}]', "ValidationError"), ('42["unsubscribe",{}]', "ValidationError"),
    ('42["subscribe",{"well_id":"B"}]', "AuthorizationError"), ('42["nothing"]', "UnknownEvent"), ('42["subscribe",{bro', "ValidationError"),
    ("42[]", "ValidationError"), ("42[1]", "ValidationError"), ('42/other,["ping"]', "ValidationError"), ("40", "ValidationError"),
    (b"\x01\x02", "ValidationError"), ('42["deep",' + "[" * 100 + "]" * 100 + "]", "ValidationError"),
])
def test_what_cannot_be_done_is_an_error_and_the_client_stays(server, sent, error):
    client = Socket(server.url)
    client.connect(mint(sub="alice", rooms=["well:A"], ttl=3000))
    client.send(sent)
    told = client.event("error")[0]
    assert told["error"] == error and told["message"], told
    assert client.alive()


def test_a_well_that_may_not_be_read_is_refused_and_written_down(server, js):
    client = js(server.url, mint(sub="bob", rooms=["well:A"], ttl=3000))
    client.emit("subscribe", {"well_id": "B"})
    assert client.event("error")[0]["error"] == "AuthorizationError"
    eventually(lambda: any((line.get("subject"), line.get("status"), line.get("method")) == ("bob", 403, "subscribe") for line in audited(server)),
               "it is written down")


# Events.

@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_each_event_comes_once_and_in_order(server, token, well, js, py, transports):
    script, client = js(server.url, token, transports=transports), py(server.url, token, transports=transports)
    script.subscribe(well)
    client.subscribe(well)
    for start in range(0, 600, 60):
        measure(server, well, range(start, start + 60))
    assert ns(script.event("telemetry_update")[0] for _ in range(600)) == list(range(600))
    assert ns(client.event("telemetry_update") for _ in range(600)) == list(range(600))


def test_events_look_as_the_dashboard_knows_them(server, token, well, py):
    client = py(server.url, token)
    client.subscribe(well)
    first = server.publish(f"well:{well}", [
        {"kind": "telemetry_update", "data": {"vibration": 3.2}, "timestamp": "2026-11-20T10:30:00Z"},
        {"kind": "alert", "priority": "critical", "data": {"type": "high_vibration", "severity": "critical", "value": 5.2, "threshold": 4.0}},
        {"kind": "diagnostic_update", "data": {"vibration": {"mean": 3}}},
    ])["first_seq"]
    update = client.event("telemetry_update")
    assert (update["event"], update["well_id"]) == ("telemetry_update", well) and update["timestamp"].endswith("Z")
    assert update["data"] == {"telemetry_id": first, "timestamp": "2026-11-20T10:30:00.000Z", "vibration": 3.2}
    alert = client.event("alert")
    assert alert["alert"]["type"] == "high_vibration" and alert["well_id"] == well
    assert client.event("diagnostic_update")["diagnostic"] == {"vibration": {"mean": 3}}


@pytest.mark.parametrize("start, expected", [({"tail": 3}, [7, 8, 9]), ({"after": 5}, [6, 7, 8, 9]), ({"last_event_id": 5}, [6, 7, 8, 9]),
                                             ({"since": "-5m"}, list(range(10))), ({}, [])], ids=str)
def test_a_subscription_says_where_it_begins(server, token, well, py, start, expected):
    first = measure(server, well, range(10))["first_seq"]
    start = {name: str(first + value) if name in ("after", "last_event_id") else value for name, value in start.items()}
    client = py(server.url, token)
    client.subscribe(well, **start)
    measure(server, well, [10])
    assert ns(client.event("telemetry_update") for _ in range(len(expected) + 1)) == [*expected, 10]


def test_a_cursor_that_is_not_held_any_more_is_a_gap(server, token, well, py):
    first = measure(server, well, range(3))["first_seq"]
    client = py(server.url, token)
    client.subscribe(well, after=str(first - 1000))
    gap = client.event("gap")
    assert (gap["well_id"], gap["after"], gap["first_seq"]) == (well, first - 1000, first)
    assert ns(client.event("telemetry_update") for _ in range(3)) == [0, 1, 2]


def test_a_polling_client_that_does_not_come_for_a_while_reads_on_from_the_log(start_daemon, token, well):
    server = start_daemon(**SETTINGS, LIMITS__MAILBOX_MESSAGES="10")
    client = Polling(server.url)
    client.connect(token)
    client.post('42["subscribe",' + json.dumps({"well_id": well}) + "]")
    client.until("subscribed")
    for start in range(0, 500, 50):
        measure(server, well, range(start, start + 50))
    assert ns(client.until("telemetry_update") for _ in range(500)) == list(range(500))


def test_a_polling_client_may_ask_for_a_past_of_any_length(server, token, well):
    server.publish(f"well:{well}", [{"kind": "k", "data": n} for n in range(3000)])  # small ones: far more at once than answers may wait
    client = Polling(server.url)
    client.connect(token)
    client.post('42["subscribe",' + json.dumps({"well_id": well, "tail": 3000}) + "]")
    client.until("subscribed")
    assert [client.until("k")["data"] for _ in range(3000)] == list(range(3000))


def test_a_websocket_whose_network_stalls_reads_on_from_the_log(start_daemon, token, well, js):
    server = start_daemon(**SETTINGS, LIMITS__MAILBOX_MESSAGES="50")
    proxy = Proxy(server)
    client = js(proxy.url, token, transports=["websocket"])
    client.subscribe(well)
    proxy.hold()
    for start in range(0, 3000, 100):  # far more than what networks hold
        server.publish(f"well:{well}", [{"kind": "telemetry_update", "data": {"n": n, "more": "x" * 8000}} for n in range(start, start + 100)])
    [connection] = server.get("/v1/connections", key=ADMIN).json()["connections"]
    assert connection["catch_ups"] == connection["mailbox"]["behind"] == 1 and connection["mailbox"]["messages"] <= 50
    proxy.hold(False)
    assert ns(client.event("telemetry_update", timeout=60)[0] for _ in range(3000)) == list(range(3000))
    assert not [told for told in client.seen if told["what"] == "disconnect"]
    proxy.stop()


def test_what_a_slow_client_loses_it_is_told(start_daemon, token, well):
    server = start_daemon(**SETTINGS, LIMITS__MAILBOX_MESSAGES="10", ROOMS__WELL__ON_FULL="displace")
    client = Polling(server.url)
    client.connect(token)
    client.post('42["subscribe",' + json.dumps({"well_id": well}) + "]")
    client.until("subscribed")
    measure(server, well, range(100))
    dropped = client.until("dropped")
    assert dropped["count"] == dropped["to_seq"] - dropped["from_seq"] + 1 == 90 and dropped["well_id"] == well and dropped["reason"]
    assert ns(client.until("telemetry_update") for _ in range(10)) == list(range(90, 100))


def test_what_was_published_by_any_way_counts_in_the_books(server, well, js):
    client = js(server.url, ADMIN)
    client.subscribe(well)
    measure(server, well, range(20))
    [client.event("telemetry_update") for _ in range(20)]

    def books():
        [connection] = server.get("/v1/connections", key=ADMIN).json()["connections"]
        return connection if connection["ledger"]["delivered"] == 20 else None

    connection = eventually(books, "20 deliveries in the books")
    assert connection["transport"] == "socketio" and connection["rooms"] == [f"well:{well}"]
    metrics = server.get("/metrics", key=ADMIN).text
    assert 'tidegate_connections{transport="socketio"} 1' in metrics and "\nwebsocket_connections 1" in metrics


# Coming back.

def broken(proxy, script, tell_server=True):
    """Cuts until the client has noticed: one that polls has a moment between its requests in which there is nothing to cut."""
    def noticed():
        return any(told["what"] == "disconnect" for told in script.seen[before:])

    def cut():
        proxy.cut(tell_server)
        # It comes back soon: what it comes back by is not to be cut too.
        deadline = time.monotonic() + 0.5
        while not noticed() and time.monotonic() < deadline:
            time.sleep(0.005)
        return noticed()

    before = len(script.seen)
    eventually(cut, "the client has noticed")


def recovered(script):
    """Waits until it is connected again; it must be the session it was."""
    again = script.what("connect")
    assert again["recovered"] is True, again
    return again


@pytest.mark.parametrize("transport", WAYS)
@pytest.mark.parametrize("how", ["the network breaks", "the network breaks for the client alone", "the client ends it"])
def test_a_client_whose_connection_broke_goes_on_where_it_was(server, proxy, token, well, js, transport, how):
    client = js(proxy.url, token, transports=[transport])
    first = client.what("connect")
    client.subscribe(well)
    measure(server, well, range(10))
    seen = [client.event("telemetry_update") for _ in range(10)]
    for round in range(1, 4):
        if how == "the client ends it":
            client.do("cut")
            client.what("disconnect")
            client.do("reconnect")
        else:
            broken(proxy, client, tell_server="alone" not in how)
        measure(server, well, range(10 * round, 10 * round + 10))
        assert recovered(client)["id"] == first["id"]
        seen += [client.event("telemetry_update") for _ in range(10)]
    assert ns(event[0] for event in seen) == list(range(40)), "each once and in order"
    assert all(isinstance(event[1], str) for event in seen), "an offset behind each"
    client.emit("get_stats")
    assert client.event("stats")[0]["subscriptions"] == [well]


def test_many_cuts_at_any_moment_lose_nothing_and_bring_nothing_twice(server, proxy, token, well, js):
    client = js(proxy.url, token, transports=["websocket"])
    client.what("connect")
    wells = [f"{well}-{number}" for number in range(3)]
    for each in wells:
        client.subscribe(each)
    stop = threading.Event()

    def cut():
        while not stop.wait(0.15):
            proxy.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    for number in range(150):
        for each in wells:
            measure(server, each, [number])
    stop.set()
    cutting.join()
    came = {each: [] for each in wells}
    while any(len(numbers) < 150 for numbers in came.values()):
        update = client.event("telemetry_update")[0]
        came[update["well_id"]].append(update["data"]["n"])
    assert all(numbers == list(range(150)) for numbers in came.values())
    connects = [told for told in client.seen if told["what"] == "connect"]
    assert len(connects) > 2 and all(told["recovered"] for told in connects[1:]), connects


def test_who_comes_back_while_its_old_socket_takes_nothing_goes_on_where_it_was(server, proxy, token, well, js):
    client = js(proxy.url, token, transports=["websocket"])
    client.what("connect")
    client.subscribe(well)
    proxy.hold()
    for start in range(0, 3000, 100):  # far more than what networks hold, so that the daemon waits in a write
        server.publish(f"well:{well}", [{"kind": "telemetry_update", "data": {"n": n, "more": "x" * 8000}} for n in range(start, start + 100)])
    proxy.cut(tell_server=False)
    proxy.hold(False)
    recovered(client)
    assert ns(client.event("telemetry_update", timeout=60)[0] for _ in range(3000)) == list(range(3000))


def test_what_a_client_followed_last_goes_on_though_it_did_not_hear_of_it(server, proxy, token, well, js):
    client = js(proxy.url, token, transports=["websocket"])
    client.event("connected")
    proxy.hold()
    client.emit("subscribe", {"well_id": well})
    eventually(lambda: server.room(f"well:{well}"), "the subscription has come")
    measure(server, well, range(5))
    proxy.cut()
    proxy.hold(False)
    recovered(client)
    assert client.event("subscribed")[0]["well_id"] == well
    assert ns(client.event("telemetry_update")[0] for _ in range(5)) == list(range(5))


def test_a_dashboard_that_subscribes_whenever_it_connects_gets_nothing_twice(server, proxy, token, well, js):
    wells = [f"{well}-1", f"{well}-2"]
    client = js(proxy.url, token, transports=["websocket", "polling"], wells=wells)
    for each in wells:
        assert client.event("subscribed")[0]["well_id"] == each
    for round in range(3):
        for each in wells:
            measure(server, each, [round])
        assert {(update["well_id"], update["data"]["n"]) for update in (client.event("telemetry_update")[0] for _ in wells)} == {(each, round) for each in wells}
        broken(proxy, client)
        recovered(client)
        [client.event("subscribed") for _ in wells]
    client.emit("ping")
    client.event("pong")
    assert len([told for told in client.seen if told["what"] == "event" and told["name"] == "telemetry_update"]) == 6


def test_who_comes_back_too_late_begins_anew(start_daemon, token, well, js):
    server = start_daemon(**SETTINGS, WELLS__RECOVERY_WINDOW="50ms")
    proxy = Proxy(server)
    client = js(proxy.url, token, transports=["websocket"], reconnectionDelay=500, reconnectionDelayMax=500, randomizationFactor=0)
    first = client.what("connect")
    client.subscribe(well)
    proxy.cut()
    again = client.what("connect")
    assert again["recovered"] is False and again["id"] != first["id"]
    client.emit("get_stats")
    assert client.event("stats")[0]["subscriptions"] == []
    proxy.stop()


@pytest.mark.parametrize("who", ["another user", "a made-up name", "a client that left", "once too often"])
def test_a_session_is_its_own_clients_only(server, token, well, who):
    client = Socket(server.url, "&recovery=1")
    first = client.connect(token)
    offset = client.event("connected")[1]
    client.send("42" + json.dumps(["subscribe", {"well_id": well}]))
    assert client.event("subscribed")
    if who == "a client that left":
        client.send("41", "2left")
        client.until("3left")
    client.close()
    pid = "made-up" if who == "a made-up name" else first["pid"]
    shown = mint(sub="bob", rooms=["*"], ttl=3000) if who == "another user" else token
    if who == "once too often":
        assert Socket(server.url, "&recovery=1").connect(token, pid=pid, offset=offset)["sid"] == first["sid"]
        Socket(server.url, "&recovery=1").connect(token)
        server.get("/livez", key=None)
    other = Socket(server.url, "&recovery=1")
    answer = other.connect(shown, pid=pid, offset=offset)
    if who == "once too often":
        assert answer["sid"] == first["sid"], "it was taken over"
        return
    assert answer["sid"] != first["sid"] and answer["pid"] != first["pid"]
    assert other.ask("get_stats", answer="stats")["subscriptions"] == []


def test_rights_that_were_lost_meanwhile_are_not_come_back_to(server, well):
    client = Socket(server.url, "&recovery=1")
    first = client.connect(mint(sub="alice", rooms=["well:*"], ttl=3000))
    offset = client.event("connected")[1]
    client.send("42" + json.dumps(["subscribe", {"well_id": well}]))
    client.event("subscribed")
    client.close()
    again = Socket(server.url, "&recovery=1")
    assert again.connect(mint(sub="alice", rooms=["well:other"], ttl=3000), pid=first["pid"], offset=offset)["sid"] == first["sid"]
    assert again.event("error")[0]["error"] == "AuthorizationError"
    assert again.ask("get_stats", answer="stats")["subscriptions"] == []


def test_python_is_not_given_what_its_handlers_do_not_take(server, token, well, py):
    for transport in WAYS:
        client = py(server.url, token, transports=[transport])
        client.event("connected")
        client.subscribe(f"{well}-{transport}")
        measure(server, f"{well}-{transport}", [1])
        assert client.event("telemetry_update")["data"]["n"] == 1


# The daemon's own reasons.

@pytest.mark.parametrize("transport", WAYS)
def test_a_client_that_is_kicked_is_told_and_stays_away(server, js, py, transport):
    client, other = js(server.url, ADMIN, transports=[transport]), py(server.url, ADMIN, transports=[transport])
    client.what("connect")
    other.event("connected")
    for connection in server.get("/v1/connections", key=ADMIN).json()["connections"]:
        assert server.request("DELETE", f"/v1/connections/{connection['id']}", key=ADMIN).status_code == 204
    assert client.event("error")[0]["code"] == "kicked"
    assert client.what("disconnect")["reason"] == "io server disconnect"
    assert other.event("error")["code"] == "kicked"
    assert other.came["disconnect"].get(timeout=15)


def test_a_token_that_ends_ends_its_connection(server, js):
    client = js(server.url, mint(sub="alice", rooms=["well:*"], ttl=-27), transports=["websocket"])  # within the leeway of 30 s for a little longer
    client.what("connect")
    told = client.next(lambda told: told["what"] == "event" and told["name"] == "error")
    assert told["args"][0]["error"] == "AuthenticationError" and told["args"][0]["code"] == "token_expired"
    assert client.what("disconnect")["reason"] == "io server disconnect"


def test_a_daemon_that_stops_lets_its_clients_come_back(server, token, well, js):
    client = js(server.url, token, transports=["websocket"])
    client.what("connect")
    client.subscribe(well)
    server.terminate()
    assert client.event("error")[0]["code"] == "stream_unavailable"
    assert client.what("disconnect")["reason"] == "transport close"
    server.start()
    assert client.what("connect")["recovered"] is False


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_it_works_through_nginx(server, tmp_path, token, well, js, transports):
    front = Nginx(tmp_path, server).start()
    client = js(front.url, token, transports=transports, rejectUnauthorized=False)
    client.subscribe(well)
    for start in range(0, 300, 60):
        measure(server, well, range(start, start + 60))
    assert ns(client.event("telemetry_update")[0] for _ in range(300)) == list(range(300))
    assert not [told for told in client.seen if told["what"] in ("disconnect", "connect_error")]
    front.stop()


# Limits.

@pytest.mark.parametrize("transport", WAYS)
def test_ten_messages_a_second_are_taken(start_daemon, token, py, transport):
    server = start_daemon(AUTH__JWT_SECRET=SECRET)
    client = py(server.url, token, transports=[transport])
    for _ in range(10):
        client.client.emit("ping")
    assert all(client.event("pong") for _ in range(10))
    assert client.came["error"].empty()


def test_the_limit_of_all_streams_counts_where_it_is_set(start_daemon, token, py):
    server = start_daemon(AUTH__JWT_SECRET=SECRET, LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND="0")
    client = py(server.url, token)
    for _ in range(100):
        client.client.emit("ping")
    assert all(client.event("pong") for _ in range(100))


def test_too_many_messages_are_refused_and_then_the_client_is_sent_away(start_daemon, token, js):
    server = start_daemon(AUTH__JWT_SECRET=SECRET)
    client = js(server.url, token, transports=["websocket"])
    client.what("connect")
    for _ in range(60):
        client.emit("ping")
    error = client.event("error")[0]
    assert error["error"] == "RateLimitError" and error["retryAfter"] >= 1 and error["message"]
    assert client.what("disconnect")["reason"] == "io server disconnect"
    pongs = [told for told in client.seen if told["what"] == "event" and told["name"] == "pong"]
    assert len(pongs) >= 10
    raw = Socket(server.url)
    raw.connect(token)
    raw.flood(*['42["ping"]'] * 60)
    code, before = raw.closed()
    assert code == 1008 and before[-1] == "41" and sum("RateLimitError" in packet for packet in before) > 1


@pytest.mark.parametrize("transport", WAYS)
def test_a_message_that_is_too_large_is_told_and_ends_the_session(start_daemon, token, js, transport):
    server = start_daemon(**SETTINGS, LIMITS__MAX_MESSAGE_BYTES="20KiB")
    client = js(server.url, token, transports=[transport])
    client.what("connect")
    client.emit("ping", "x" * 25_000)
    assert client.what("disconnect")
    if transport == "websocket":
        raw = Socket(server.url)
        assert raw.open["maxPayload"] == 20 << 10
        raw.connect(token)
        raw.send('42["ping","' + "x" * 25_000 + '"]')
        code, before = raw.closed()
        assert code == 1009 and any("PayloadTooLarge" in packet for packet in before)


def test_binary_is_answered_and_does_no_harm(server, token, js):
    client = js(server.url, token)
    client.what("connect")
    client.do("binary", name="ping", bytes=[1, 2, 3])
    assert client.event("pong")


def test_a_user_may_have_so_many_connections(start_daemon, token, js):
    server = start_daemon(**SETTINGS, LIMITS__PER_USER_CONNECTIONS="1")
    proxy = Proxy(server)
    first = js(proxy.url, token, transports=["websocket"])
    first.what("connect")
    refused = js(server.url, token, transports=["websocket"]).what("connect_error")
    assert refused["data"]["error"] == "RateLimitError" and refused["data"]["retryAfter"] >= 1
    proxy.cut(tell_server=False)
    assert first.what("connect")["recovered"] is True, "its own place is not in its way"
    proxy.stop()


def test_one_address_alone_does_not_keep_others_from_signing_in(start_daemon, token):
    server = start_daemon(**SETTINGS, WELLS__GUESTS_PER_IP="2")
    crowd = [Polling(server.url) for _ in range(2)]

    def opens(source):
        """What a handshake of this address is answered, and its status."""
        curl = ["curl", "-sS", "--noproxy", "*", "--interface", source, "-w", "\n%{http_code}", f"{server.url}/socket.io/?EIO=4&transport=polling"]
        return subprocess.run(curl, capture_output=True, text=True, timeout=20, check=True).stdout.rsplit("\n", 1)

    refused, status = opens("127.0.0.1")
    assert status == "503" and "wells.guests_per_ip" in refused, refused
    assert opens("127.0.0.2")[1] == "200", "another address"
    crowd[0].connect(token)
    eventually(lambda: opens("127.0.0.1")[1] == "200", "who has signed in does not count")


def test_who_asks_and_does_not_come_for_the_answers_is_sent_away(start_daemon, token):
    server = start_daemon(**SETTINGS, WELLS__WAITING_MAX="16")
    client = Polling(server.url)
    client.connect(token)
    assert client.post(*['42["ping"]'] * 16).text == client.post('42["ping"]').text == "ok"
    packets = list(client.waiting)
    while "1" not in packets:
        packets += client.packets()
    assert sum(packet.startswith('42["pong"') for packet in packets) == 17 and packets[-2:] == ["41", "1"]
    assert client.poll().status_code == 400


def test_who_is_refused_too_often_is_sent_away(start_daemon):
    server = start_daemon(**SETTINGS, WELLS__REFUSALS_MAX="2")
    socket = Socket(server.url)
    socket.flood(*['40{"token":"wrong"}'] * 3)
    code, before = socket.closed()
    assert code == 1008 and [packet[:2] for packet in before] == ["44", "44"]


def test_an_address_may_have_so_many_sessions_signed_in_or_not(start_daemon):
    server = start_daemon(**SETTINGS, LIMITS__PER_IP_CONNECTIONS="2")
    open = [Polling(server.url), Socket(server.url)]
    answer = requests.get(f"{server.url}/socket.io/?EIO=4&transport=polling", timeout=10)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    open[1].close()
    eventually(lambda: requests.get(f"{server.url}/socket.io/?EIO=4&transport=polling", timeout=10).status_code == 200, "a place is free again")


def test_who_has_not_signed_in_takes_little(start_daemon):
    server = start_daemon(**SETTINGS, WELLS__GUESTS_MAX="2")
    first, second = Polling(server.url), Socket(server.url)
    assert requests.get(f"{server.url}/socket.io/?EIO=4&transport=polling", timeout=10).status_code == 503
    assert first.post("4" + "0" * 20_000).status_code == 413
    second.send("40" + json.dumps({"token": "x" * 20_000}))
    assert second.closed()[0] == 1009
    eventually(lambda: requests.get(f"{server.url}/socket.io/?EIO=4&transport=polling", timeout=10).status_code == 200, "a place is free again")
