"""tidegate's HTTP interface with `requests`: publish, history, rooms, long-poll, and what an error must look like."""

import json
from datetime import datetime, timezone
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import quote

import requests

TIMEOUT = 20
PROBLEM = "application/problem+json"


class Api:
    """Calls to one daemon with one key. Unless said otherwise a call fails when the answer is not the expected status."""

    def __init__(self, url, key):
        self.url, self.key = url, key
        self.tls = self.authority = None  # for an https address: an SSLContext, and the file with who signed the certificate
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no .netrc
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a cookie goes out only where a test says so

    def request(self, method, path, *, key="", headers=None, **options):
        """Any call; `key=None` sends no credential."""
        headers = dict(headers or {})
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key or self.key}")
        options.setdefault("timeout", TIMEOUT)
        options.setdefault("allow_redirects", False)
        return self.session.request(method, self.url + path, headers=headers, **options)

    def get(self, path, **options):
        """A GET of a path."""
        return self.request("GET", path, **options)

    def login(self, username, password, **more):
        """A login as it was answered."""
        return self.request("POST", "/api/v1/auth/login", key=None, json={"username": username, "password": password, **more})

    def me(self, key=""):
        """Who the daemon takes one for."""
        answer = self.get("/api/v1/auth/me", key=key)
        assert answer.status_code == 200, f"me: {answer.status_code} {answer.text}"
        return answer.json()

    def post_events(self, room, body, content_type="application/json", session=None, **params):
        """A raw publish; `body` is text or bytes as it goes over the wire. The answer as it came."""
        headers = {"Authorization": f"Bearer {self.key}"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if isinstance(body, str):
            body = body.encode()
        return (session or self.session).post(f"{self.url}/v1/rooms/{quote(room, safe='')}/events", data=body,
                                              headers=headers, params=params, timeout=TIMEOUT)

    def publish(self, room, body, session=None, **params):
        """Publishes an event (dict) or several (list) and returns the answer's JSON."""
        answer = self.post_events(room, json.dumps(body), session=session, **params)
        assert answer.status_code == 202, f"publish to {room}: {answer.status_code} {answer.text}"
        return answer.json()

    def publish_numbers(self, room, numbers, kind="n", pad=0, **params):
        """Publishes one event for each number, data `{"n": number}` and `pad` bytes more; all in one body."""
        filler = {"pad": "x" * pad} if pad else {}
        return self.publish(room, [{"kind": kind, "data": {"n": n, **filler}} for n in numbers], **params)

    def history(self, room, **params):
        """A page of the room's history."""
        answer = self.get(f"/v1/rooms/{quote(room, safe='')}/events", params=params)
        assert answer.status_code == 200, f"history of {room}: {answer.status_code} {answer.text}"
        return answer.json()

    def all_events(self, room, limit=1000):
        """The whole history, page by page, by its own cursor."""
        events, after = [], "0"
        while True:
            page = self.history(room, after=after, limit=limit)
            events += page["events"]
            if not page["more"]:
                return events
            assert page["events"], f"a page that promises more brought nothing: {page}"
            after = page["cursor"]

    def room(self, room):
        """The room's detail, or None when it never was."""
        answer = self.get(f"/v1/rooms/{quote(room, safe='')}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, f"room {room}: {answer.status_code} {answer.text}"
        return answer.json()

    def poll(self, rooms, timeout=TIMEOUT, **params):
        """One long-poll."""
        answer = self.get("/v1/stream", params={"rooms": rooms, **params}, headers={"Accept": "application/json"}, timeout=timeout)
        assert answer.status_code == 200, f"poll of {rooms}: {answer.status_code} {answer.text}"
        return answer.json()


def problem(answer, *statuses, kind=None):
    """The problem+json of an answer that must be one of `statuses` (and of this kind); checks what RFC 9457 and docs/api.md require."""
    assert answer.status_code in statuses, f"expected {statuses}: {answer.status_code} {answer.text}"
    assert answer.headers.get("content-type", "").split(";")[0] == PROBLEM, f"{answer.headers} {answer.text}"
    found = answer.json()
    assert found["status"] == answer.status_code, found
    assert isinstance(found["type"], str) and found["title"] and found["detail"], found
    assert kind is None or found["type"].rsplit(":", 1)[-1] == kind, f"expected kind {kind}: {found}"
    for fault in found.get("errors", []):
        assert fault["message"], found
    return found


def instant(value):
    """An event's time, RFC 3339 text or milliseconds, as seconds since 1970."""
    if isinstance(value, (int, float)):
        return value / 1000
    return datetime.fromisoformat(value).timestamp()


def rfc3339(seconds):
    """Seconds since 1970 as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seqs(events):
    """The numbers of events."""
    return [event["seq"] for event in events]


def numbers(events):
    """What `publish_numbers` put in."""
    return [event["data"]["n"] for event in events]


def cursor_map(cursor):
    """`a=1,b:x=2` as a dictionary."""
    parts = (part.rsplit("=", 1) for part in str(cursor).split(",") if part)
    return {room: int(seq) for room, seq in parts}
