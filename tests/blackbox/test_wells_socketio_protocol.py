"""The Engine.IO 4 and Socket.IO 5 protocols as their specifications have them, spoken packet by packet: handshake, heartbeat, close,
upgrade, connect, disconnect, messages and acknowledgements, and what is answered to who speaks otherwise.
"""

import itertools
import json
import random
import threading
import time

import pytest
import requests
from websockets.exceptions import ConnectionClosed

from harness.process import eventually
from harness.sio import Polling, Socket, refused
from harness.tokens import SECRET, mint

INTERVAL, TIMEOUT = 0.3, 0.2
SETTINGS = {"AUTH__JWT_SECRET": SECRET, "WELLS__PING_INTERVAL": "300ms", "WELLS__PING_TIMEOUT": "200ms", "WELLS__CONNECT_TIMEOUT": "1s"}
TOKEN = mint(sub="alice", rooms=["well:*"], ttl=3000)


@pytest.fixture
def url(shared_daemon):
    """The daemon's address."""
    return shared_daemon.url


def get(url, query, method="GET", **options):
    """A request as it was answered."""
    return requests.request(method, f"{url}/socket.io/?{query}", timeout=10, **options)


# Engine.IO: the handshake.

def test_a_session_opens_by_polling(url):
    answer = get(url, "EIO=4&transport=polling")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["cache-control"] == "no-store"
    opened = json.loads(answer.text.removeprefix("0"))
    assert opened.pop("sid") and opened == {"upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 102400}


def test_a_session_opens_by_websocket(url):
    opened = Socket(url).open
    assert opened.pop("sid") and opened == {"upgrades": [], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 102400}


def test_the_address_is_good_without_its_last_slash(url):
    assert requests.get(f"{url}/socket.io?EIO=4&transport=polling", timeout=10).status_code == 200


@pytest.mark.parametrize("query, method, code", [
    ("transport=polling", "GET", 5), ("EIO=abc&transport=polling", "GET", 5), ("EIO=3&transport=polling", "GET", 5), ("EIO=4", "GET", 0),
    ("EIO=4&transport=abc", "GET", 0), ("EIO=4&transport=polling", "POST", 2), ("EIO=4&transport=polling", "PUT", 2),
    ("EIO=4&transport=polling&sid=made-up", "GET", 1), ("EIO=4&transport=polling&sid=made-up", "POST", 1), ("EIO=4&transport=websocket", "GET", 3),
])
def test_a_wrong_request_is_answered_by_the_protocols_code(url, query, method, code):
    answer = get(url, query, method)
    assert answer.status_code == 400 and answer.json()["code"] == code and answer.json()["message"]


@pytest.mark.parametrize("query", ["transport=websocket", "EIO=abc&transport=websocket", "EIO=3&transport=websocket", "EIO=4", "EIO=4&transport=abc",
                                   "EIO=4&transport=websocket&sid=made-up"])
def test_a_wrong_websocket_is_not_opened(url, query):
    from websockets.sync.client import connect
    from websockets.exceptions import InvalidStatus
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"{url.replace('http', 'ws')}/socket.io/?{query}", proxy=None, legacy=True)
    assert refusal.value.response.status_code == 400


def test_a_browser_may_ask_from_an_allowed_page(url):
    answer = get(url, "EIO=4&transport=polling", headers={"Origin": "http://localhost:3000"})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["access-control-allow-credentials"] == "true"
    preflight = get(url, "EIO=4&transport=polling", "OPTIONS", headers={"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"})
    assert preflight.ok and "POST" in preflight.headers["access-control-allow-methods"]


# Messages.

def test_a_payload_may_hold_several_packets(url):
    session = Polling(url)
    session.connect(TOKEN)
    answer = session.post('42["ping"]', '42["subscribe",{"well_id":"A"}]', "3")
    assert (answer.status_code, answer.text) == (200, "ok")
    assert session.until("pong") and session.until("subscribed")["well_id"] == "A"


def test_a_payload_may_hold_binary(url):
    session = Polling(url)
    session.connect(TOKEN)
    assert session.post('42["ping"]', "bAQIDBA==").text == "ok"
    assert session.until("pong")
    assert session.until("error")["error"] == "ValidationError"


@pytest.mark.parametrize("body", ["abc", "", "4abc\x1e", "b***", "0{}", "\x1e\x1e", "x4hello"])
def test_a_payload_that_is_none_ends_a_polled_session(url, body):
    session = Polling(url)
    assert session.post(body).status_code == 400
    assert session.poll().status_code == 400


def test_bytes_that_are_no_text_end_a_polled_session(url):
    session = Polling(url)
    answer = requests.post(f"{session.url}?{session.query}", data=b"4\xff\xfe", timeout=10)
    assert answer.status_code == 400 and session.poll().status_code == 400


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_packet_that_is_none_ends_a_websocket(url, signed_in):
    socket = Socket(url)
    if signed_in:
        socket.connect(TOKEN)
    socket.send("abc")
    _, before = socket.closed()
    assert any("ProtocolError" in packet for packet in before) == signed_in


def test_two_polls_at_once_end_the_session(url):
    session = Polling(url)
    first = {}
    waiting = threading.Thread(target=lambda: first.update(answer=requests.get(f"{session.url}?{session.query}", timeout=10)))
    waiting.start()
    second = session.poll()  # whichever comes first is told the end, the other is refused
    waiting.join()
    answers = sorted([second, first["answer"]], key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 400] and answers[0].text == "1"
    assert session.poll().status_code == 400


def test_a_poll_that_is_broken_off_ends_the_session(url):
    session = Polling(url)
    with pytest.raises(requests.exceptions.Timeout):
        requests.get(f"{session.url}?{session.query}", timeout=0.05)
    eventually(lambda: session.post("3").status_code == 400, "the session has ended")


# Heartbeat.

def test_a_polled_client_is_asked_whether_it_lives(url):
    session = Polling(url)
    for _ in range(3):
        assert session.packets() == ["2"]
        assert session.post("3").text == "ok"


def test_a_websocket_client_is_asked_whether_it_lives(url):
    socket = Socket(url)
    for _ in range(3):
        asked = time.monotonic()
        assert socket.packet() == "2"
        assert time.monotonic() - asked < 2 * INTERVAL
        socket.send("3")


@pytest.mark.parametrize("polls", [True, False])
def test_a_polled_client_that_does_not_answer_is_timed_out(url, polls):
    session = Polling(url)
    session.connect(TOKEN)
    began = time.monotonic()
    if polls:
        assert session.packets()[-1] == "2" and session.poll().text == "1"
    else:
        time.sleep(INTERVAL + TIMEOUT + 0.05)  # what is tested is that time passes
    assert session.poll().status_code == 400
    assert time.monotonic() - began < 2


def test_a_websocket_client_that_does_not_answer_is_timed_out(url):
    began = time.monotonic()
    _, before = Socket(url).closed()
    assert before == ["2"] and INTERVAL + TIMEOUT - 0.05 < time.monotonic() - began < 2


def test_a_polled_client_that_posts_and_never_polls_is_timed_out(url):
    session = Polling(url)
    session.connect(TOKEN)

    def over():
        return session.post("3").status_code == 400

    eventually(over, "a client that does not poll has gone", timeout=5, every=0.05)


# Close.

def test_a_polled_client_ends_its_session(url):
    session = Polling(url)
    first = {}
    waiting = threading.Thread(target=lambda: first.update(answer=requests.get(f"{session.url}?{session.query}", timeout=10)))
    waiting.start()
    time.sleep(0.05)  # so that the poll is the first to come
    assert session.post("1").text == "ok"
    waiting.join()
    assert (first["answer"].status_code, first["answer"].text) == (200, "6")
    assert session.poll().status_code == 400


def test_a_websocket_client_ends_its_session(url):
    socket = Socket(url)
    socket.send("1")
    assert socket.closed()[0] == 1000


# The upgrade.

def upgraded(session):
    """A WebSocket to which the session has been asked to go over."""
    url = session.url.removesuffix("/socket.io/")
    socket = Socket(url, f"&sid={session.open['sid']}", opened=False)
    socket.send("2probe")
    assert socket.packet() == "3probe"
    return socket


def test_a_session_goes_over_from_polling_to_a_websocket(url):
    session = Polling(url)
    session.connect(TOKEN)
    socket = upgraded(session)
    assert session.poll().text == "6", "the poll is ended, so that nothing comes by it any more"
    socket.send("5", '42["ping"]')
    assert socket.event("pong")


def test_after_the_upgrade_requests_with_the_same_sid_are_refused(url):
    session = Polling(url)
    session.connect(TOKEN)
    socket = Socket(url, f"&sid={session.open['sid']}", opened=False)
    socket.send("2probe", "5")
    assert session.poll().status_code == 400, "also one that comes while it goes over"
    assert socket.packet() == "3probe"
    assert session.post("3").status_code == 400
    assert session.poll().status_code == 400 and session.poll().json()["code"] == 3
    assert refused(url, f"&sid={session.open['sid']}") == 400
    assert socket.alive()


def test_only_one_websocket_is_tried_at_a_time_and_a_failed_one_does_no_harm(url):
    session = Polling(url)
    session.connect(TOKEN)
    socket = upgraded(session)
    assert refused(url, f"&sid={session.open['sid']}") == 400
    socket.close()
    session.post('42["ping"]')
    assert session.until("pong")
    again = eventually(lambda: _try(session), "another one may be tried")
    again.send("5")
    assert again.alive()


def _try(session):
    try:
        return upgraded(session)
    except Exception:
        return None


def test_a_websocket_that_says_something_else_than_a_probe_is_closed(url):
    session = Polling(url)
    session.connect(TOKEN)
    socket = Socket(url, f"&sid={session.open['sid']}", opened=False)
    socket.send("4hello")
    with pytest.raises(ConnectionClosed):
        socket.packet()
    session.post('42["ping"]')
    assert session.until("pong")


def test_events_around_the_upgrade_come_once_and_in_order(shared_daemon, url):
    for round in range(5):
        session = Polling(url)
        session.connect(TOKEN)
        session.post('42["subscribe",{"well_id":"U%d"}]' % round)
        session.until("subscribed")
        numbers = itertools.count()
        stop = threading.Event()
        publishing = threading.Thread(target=lambda: [shared_daemon.publish(f"well:U{round}", {"kind": "telemetry_update", "data": {"n": next(numbers)}})
                                                      for _ in iter(stop.is_set, True)])
        publishing.start()
        seen = [session.until("telemetry_update")["data"]["n"] for _ in range(10)]
        socket = upgraded(session)
        rest = [json.loads(packet[2:])[1]["data"]["n"] for packet in session.waiting + session.packets() if packet.startswith("42[\"telemetry")]
        socket.send("5", "3")
        seen += rest + [socket.event("telemetry_update")[0]["data"]["n"] for _ in range(20)]
        stop.set()
        publishing.join()
        assert seen == list(range(len(seen)))
        socket.close()


# Socket.IO.

def test_the_main_namespace_is_connected_to(url):
    assert list(Socket(url).connect(TOKEN)) == ["sid"]


@pytest.mark.parametrize("packet", ["40/random", "40/random,", '40/random,{"token":"x"}'])
def test_another_namespace_is_unknown(url, packet):
    socket = Socket(url)
    socket.send(packet)
    assert socket.until("44") == '44/random,{"message":"Invalid namespace"}'
    assert socket.connect(TOKEN)["sid"]


@pytest.mark.parametrize("packet", ["4abc", "40[]", "40{bro", "49", '42["ping"]', "43[1]", "44{}", ""])
def test_a_handshake_that_is_none_ends_the_session(url, packet):
    socket = Socket(url)
    socket.send(packet)
    socket.closed()


def test_who_does_not_sign_in_is_sent_away(url):
    session, socket = Polling(url), Socket(url)
    began = time.monotonic()
    assert socket.packet() == "2"
    socket.send("3")
    assert socket.until("2") and socket.send("3") is None
    code, _ = socket.closed()
    assert code == 1008 and time.monotonic() - began < 3
    assert session.poll().status_code == 400


def test_who_is_refused_may_try_again_a_few_times(url):
    socket = Socket(url)
    socket.send('40{"token":"wrong"}')
    assert json.loads(socket.until("44")[2:])["message"]
    assert socket.connect(TOKEN)["sid"]
    socket = Socket(url)
    socket.flood(*['40{"token":"wrong"}'] * 6)
    _, before = socket.closed()
    assert sum(packet.startswith("44") for packet in before) == 5


def test_who_leaves_the_namespace_keeps_the_session_and_may_come_again(url):
    socket = Socket(url)
    first = socket.connect(TOKEN)
    socket.event("connected")
    socket.send('42["subscribe",{"well_id":"A"}]', "41")
    assert socket.until("2") == "2"
    socket.send("3")
    assert socket.connect(TOKEN)["sid"] != first["sid"]
    assert socket.ask("get_stats", answer="stats")["subscriptions"] == []


def test_leaving_another_namespace_means_nothing(url):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send("41/random")
    assert socket.alive()


def test_an_event_with_an_id_is_acknowledged(url):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send('42456["ping",1,"2",{"3":[false]}]')
    assert json.loads(socket.until("43").removeprefix("43456"))[0]["timestamp"]
    socket.send('427["nothing"]')
    assert json.loads(socket.until("43").removeprefix("437"))[0]["error"] == "UnknownEvent"


@pytest.mark.parametrize("id", ["", "789"])
def test_an_event_with_attachments_is_taken_when_all_are_there(url, id):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send(f'452-{id}["ping",{{"_placeholder":true,"num":0}},{{"_placeholder":true,"num":1}}]', b"\x01\x02\x03", b"\x04")
    assert socket.event("pong")
    if id:
        assert socket.until(f"43{id}")
    assert socket.alive()


def test_attachments_that_do_not_come_are_told(url):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send('452-["ping",{"_placeholder":true,"num":0}]', b"\x01", '42["get_stats"]')
    assert socket.event("error")[0]["error"] == "ValidationError"
    assert socket.event("stats")


@pytest.mark.parametrize("packet", ["4abc", "42{}", '42abc["message-with-ack",1,"2",{"3":[false]}]', "45[]", "4599-[]", "43[]", "44{}", "42"])
def test_a_packet_that_is_malformed_ends_the_session(url, packet):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send(packet)
    _, before = socket.closed()
    assert any("ProtocolError" in packet for packet in before)


def test_an_acknowledgement_that_nobody_asked_for_means_nothing(url):
    socket = Socket(url)
    socket.connect(TOKEN)
    socket.send("430[1]")
    assert socket.alive()


def test_a_pid_and_offsets_are_given_to_who_asks_for_them(url, shared_daemon):
    socket = Socket(url, "&recovery=1")
    assert set(socket.connect(TOKEN)) == {"sid", "pid"}
    assert [len(args) for args in (socket.event("connected"),)] == [2]
    socket.send('42["subscribe",{"well_id":"R"}]')
    assert len(socket.event("subscribed")) == 2
    seq = shared_daemon.publish("well:R", {"kind": "alert", "data": {}})["first_seq"]
    assert socket.event("alert")[1] == f"well:R={seq}"
    assert socket.send('42["ping"]') is None and len(socket.event("pong")) == 1


# What strangers send.

PARTS = ["0", "1", "2", "3", "4", "40", "41", "42", "43", "44", "45", "451-", "4599999999999999999-", "42/", "42/a,", "42999999999999999999", "b", "bAQ==",
         "\x1e", "[", "]", "{", "}", '"', ",", ":", "\\", '["ping"]', '["subscribe",', '{"well_id":', '"A"', "1e999", "-0", "null", '"\\ud800"', '"\\u0000"',
         '{"_placeholder":true,"num":0}', '{"token":', "[" * 200, "\u00e9", "\u2028", "\x00", "{}", "probe"]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_is_stood(victim, seed):
    made = random.Random(seed)
    for _ in range(50):
        packets = ["".join(made.choices(PARTS, k=made.randrange(1, 7))) for _ in range(made.randrange(1, 4))]
        if made.random() < 0.5:
            session = Polling(victim.url)
            if made.random() < 0.7:
                session.connect(TOKEN)
            assert session.post(*packets).status_code in (200, 400), packets
            continue
        socket = Socket(victim.url)
        if made.random() < 0.7:
            socket.connect(TOKEN)
        try:
            for packet in packets:
                socket.send(packet.encode() if made.random() < 0.1 else packet)
            socket.send("2alive")
            socket.until("3alive")
        except ConnectionClosed as closed:
            assert closed.rcvd, f"closed without a word for {packets}"
        socket.close()

