"""Socket.IO by hand and by the real Python clients: `Polling` and `Socket` speak Engine.IO packet by packet, `SioPy` is python-socketio."""

import json
import queue
import threading
import time

import requests
import socketio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

WAIT = 15
SEPARATOR = "\x1e"


class Polling:
    """An Engine.IO session that is polled. `open` is what the handshake said."""

    def __init__(self, url, query="", headers=None, **options):
        self.url, self.headers = f"{url}/socket.io/", headers or {}
        self.session = requests.Session()
        self.session.trust_env = False
        answer = self.get(f"EIO=4&transport=polling{query}", **options)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        assert answer.text.startswith("0"), answer.text
        self.open = json.loads(answer.text[1:])
        self.query = f"EIO=4&transport=polling&sid={self.open['sid']}"

    def get(self, query, **options):
        """A GET as it was answered."""
        return self.session.get(f"{self.url}?{query}", headers=self.headers, timeout=WAIT, **options)

    def poll(self):
        """A poll as it was answered."""
        return self.get(self.query)

    def packets(self):
        """The packets of a poll that must be answered by some."""
        answer = self.poll()
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.text.split(SEPARATOR)

    def post(self, *packets):
        """A POST of packets as it was answered."""
        body = SEPARATOR.join(packets).encode()
        return requests.post(f"{self.url}?{self.query}", data=body, headers=self.headers, timeout=WAIT)

    def connect(self, token=None):
        """Signs in; the CONNECT packet that came."""
        answer = self.post("40" + (json.dumps({"token": token}) if token else ""))
        assert (answer.status_code, answer.text) == (200, "ok"), answer.text
        self.waiting = self.packets()
        return self.waiting.pop(0)

    def until(self, name, timeout=WAIT):
        """The argument of the next event of this name; pings are answered, all else is passed over."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self.waiting:
                packet = self.waiting.pop(0)
                if packet == "2":
                    self.post("3")
                if packet.startswith("42") and json.loads(packet[2:])[0] == name:
                    return json.loads(packet[2:])[1]
            self.waiting = self.packets()
        raise AssertionError(f"no {name} within {timeout} s")


class Socket:
    """A WebSocket that speaks Engine.IO packet by packet."""

    def __init__(self, url, query="", headers=None, opened=True):
        address = f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket{query}"
        self.connection = connect(address, additional_headers=headers, proxy=None, compression=None, ping_interval=None,
                                  open_timeout=WAIT, close_timeout=1, max_size=None, max_queue=1024, legacy=True)
        self.open = None
        if opened:
            first = self.packet()
            assert first.startswith("0"), first
            self.open = json.loads(first[1:])

    def send(self, *packets):
        """Sends packets."""
        for packet in packets:
            self.connection.send(packet)

    def flood(self, *packets):
        """Sends packets, as many as the server takes before it closes."""
        try:
            self.send(*packets)
        except ConnectionClosed:
            pass

    def packet(self, timeout=WAIT):
        """The next packet."""
        return self.connection.recv(timeout)

    def until(self, begins, timeout=WAIT):
        """The next packet that begins so; pings are answered, others passed over."""
        deadline = time.monotonic() + timeout
        while True:
            packet = self.packet(max(0.01, deadline - time.monotonic()))
            if packet == "2" and begins != "2":
                self.send("3")
            if packet.startswith(begins):
                return packet

    def event(self, name, timeout=WAIT):
        """The arguments of the next event of this name."""
        deadline = time.monotonic() + timeout
        while True:
            found = json.loads(self.until("42", max(0.01, deadline - time.monotonic()))[2:])
            if found[0] == name:
                return found[1:]

    def connect(self, token=None, **auth):
        """Signs in; what CONNECT was answered with."""
        auth = {**({"token": token} if token else {}), **auth}
        self.send("40" + (json.dumps(auth) if auth else ""))
        return json.loads(self.until("40")[2:])

    def ask(self, name, *args, answer=None):
        """Sends an event; the argument of the next event of the answer's name."""
        self.send("42" + json.dumps([name, *args]))
        return self.event(answer or name)[0]

    def closed(self, timeout=WAIT):
        """Reads until the server closes; the code and the packets before it."""
        before, deadline = [], time.monotonic() + timeout
        try:
            while True:
                before.append(self.packet(max(0.01, deadline - time.monotonic())))
        except ConnectionClosed as end:
            return (end.rcvd.code if end.rcvd else 1006), before

    def alive(self):
        """Still open and answering."""
        return "timestamp" in self.ask("ping", answer="pong")

    def close(self):
        """Closes, whatever state it is in."""
        self.connection.socket.close()
        self.connection.close()


def refused(url, query):
    """The status with which a WebSocket is refused."""
    try:
        Socket(url, query).close()
    except InvalidStatus as refusal:
        return refusal.response.status_code
    raise AssertionError("the WebSocket was opened")


class SioPy:
    """python-socketio's client. Every handler takes whatever comes, so that what comes too much is seen."""

    NAMES = ("connected", "pong", "subscribed", "unsubscribed", "stats", "telemetry_update", "alert", "diagnostic_update", "error",
             "gap", "dropped", "connect_error", "disconnect")

    def __init__(self, url, token=None, **options):
        # On a machine that is busy, too, it does not take the WebSocket that it tries for a failed one.
        self.client = socketio.Client(reconnection=False, request_timeout=WAIT)
        self.came = {name: queue.Queue() for name in self.NAMES}
        for name, came in self.came.items():
            self.client.on(name, lambda *args, came=came: came.put(args))
        auth = None if token is None else {"token": token}
        self.client.connect(url, auth=auth, wait_timeout=WAIT, **options)

    def event(self, name, timeout=WAIT):
        """The one argument of the next event of this name."""
        args = self.came[name].get(timeout=timeout)
        assert len(args) == 1, f"a handler of Python takes one argument: {args}"
        return args[0]

    def subscribe(self, well, **more):
        """Subscribes; what it was answered."""
        self.client.emit("subscribe", {"well_id": well, **more})
        return self.event("subscribed")

    def stop(self):
        """Disconnects. One whose last packet is on its way at that moment says nothing, and sits its poll out until it is pinged: that is not waited for."""
        leaving = threading.Thread(target=self.client.disconnect, daemon=True)
        leaving.start()
        leaving.join(2)
