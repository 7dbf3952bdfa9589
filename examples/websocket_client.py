#!/usr/bin/env python3
"""Follows wells over Socket.IO and prints what happens in them, a line of JSON each.

    pip install python-socketio requests
    python websocket_client.py --server http://localhost:8000 --token TOKEN --well WELL-001 --well WELL-002

The token is one of POST /api/v1/auth/login, or an API key. Ctrl-C ends it. It comes back by itself after a break.
With websocket-client installed too it uses a WebSocket, without it polls.
"""

import argparse
import json
import os
import signal
import sys
import threading

import socketio

try:
    import websocket  # noqa: F401
    TRANSPORTS = ["websocket", "polling"]
except ImportError:
    TRANSPORTS = ["polling"]

# Everything a well says; gap and dropped tell what could not be delivered.
EVENTS = ["telemetry_update", "alert", "diagnostic_update", "gap", "dropped", "subscribed", "unsubscribed", "stats", "pong", "error"]


def arguments():
    parser = argparse.ArgumentParser(description="Follows wells over Socket.IO.")
    parser.add_argument("--server", default="http://localhost:8000", help="where tidegate is (%(default)s)")
    parser.add_argument("--token", default=os.environ.get("TIDEGATE_TOKEN"), help="a token or an API key; TIDEGATE_TOKEN if it is not given")
    parser.add_argument("--well", action="append", required=True, metavar="ID", help="a well to follow; may be given again")
    found = parser.parse_args()
    if not found.token:
        parser.error("a token is needed: --token, or TIDEGATE_TOKEN in the environment")
    return found


def say(event, data):
    print(json.dumps({"event": event, "data": data}), flush=True)


def main():
    given = arguments()
    client = socketio.Client()
    over = threading.Event()

    def on_connected(data):
        say("connected", data)
        for well in given.well:
            client.emit("subscribe", {"well_id": well})

    def listener(event):
        return lambda data=None: say(event, data)

    client.on("connected", on_connected)  # at the beginning, and whenever it has come back
    client.on("disconnect", lambda reason=None: say("disconnect", reason))
    for event in EVENTS:
        client.on(event, listener(event))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        client.connect(given.server, auth={"token": given.token}, transports=TRANSPORTS, wait_timeout=10)
    except socketio.exceptions.ConnectionError as error:
        sys.exit(f"{given.server} cannot be reached or does not take the token: {error}")
    over.wait()
    client.disconnect()


if __name__ == "__main__":
    main()
