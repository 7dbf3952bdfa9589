"""What Schemathesis is told beside the description: who it is, and what a schema has no words for. It loads this file itself.

Only requests that are meant to be right are made right; those that are meant to be wrong go out as they are.
"""

import json
import os

import requests
import schemathesis

STARTS = ("after", "last_event_id", "since", "tail")


def login():
    """A new token of the admin."""
    answer = requests.post(os.environ["TESTED_URL"] + "/api/v1/auth/login", json=json.loads(os.environ["TESTED_LOGIN"]), timeout=10)
    answer.raise_for_status()
    return answer.json()["access_token"]


TOKEN = login()


@schemathesis.auth(refresh_interval=None)
class Credential:
    """One token for all calls, but one of its own for the call that ends it."""

    def get(self, case, _context):
        """The token for a call."""
        return login() if case.operation.path == "/api/v1/auth/logout" else TOKEN

    def set(self, case, token, _context):
        """Puts it into the call."""
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Makes a request right that is meant to be."""
    if (case.query or {}).get("filter") in (True, False, "true", "false"):
        case.query["filter"] = "data.x >"  # a flag is no text in a schema, but in a query it is, and a right filter
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.operation.path == "/v1/rooms/{room}/state":
        case.path_parameters["room"] = "wells"  # few rooms have a state
    if case.operation.path == "/v1/sinks/{name}/events":
        case.path_parameters["name"] = "wells"  # there are two
    if case.operation.path == "/v1/connections/{id}":
        case.path_parameters["id"] = connection() or case.path_parameters["id"]
    if case.query:
        start(case)
        contract(case.query)
    if "wait" in (case.query or {}):
        case.query["wait"] = "20ms"  # a longer one is as right, and there is no time for it
    if case.operation.path == "/api/v1/auth/revoke" and isinstance(case.body, dict) and isinstance(case.body.get("token"), str):
        case.body["token"] = login()  # any text but a token is none


def connection():
    """The number of a stream that is open now."""
    answer = requests.get(os.environ["TESTED_URL"] + "/v1/connections", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    return next((one["id"] for one in answer.json()["connections"]), None)


def contract(query):
    """Of two names for the same thing one is given; what is made of a period needs one, and only that has a field."""
    for name, other in (("mode", "fn"), ("period", "every")):
        if name in query and other in query:
            del query[other]
    made = {query.get("mode"), query.get("fn")} & {"mean", "min", "max", "last"}
    if made and not {"period", "every"} & set(query):
        query["period"] = "10s"
    if not made:
        query.pop("field", None)


def start(case):
    """At most one parameter says where to begin, and a cursor must be of the rooms that are read."""
    first, *others = [name for name in STARTS if name in case.query] or [None]
    for name in others:
        del case.query[name]
    if first not in ("after", "last_event_id"):
        return
    cursor, rooms = str(case.query[first]), str(case.query.get("rooms", ""))
    if "room" in (case.path_parameters or {}):
        if "=" in cursor:
            case.query[first] = f"{case.path_parameters['room']}=5"
    elif "=" not in cursor and ("," in rooms or "*" in rooms):
        case.query[first] = "0"
