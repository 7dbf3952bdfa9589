"""Bodies that are sent to the calls around a login, which are open to all and read what they get before anybody is known:
too large, too slow, too deep, no JSON. Each is refused within the daemon's memory, and never with more than a problem says.
"""

import json

import pytest

from harness.api import PROBLEM
from harness.raw import Raw, exchange, request, statuses

SETTINGS = {"LIMITS__HEADER_TIMEOUT": "1s", "LIMITS__BODY_TIMEOUT": "1s", "LIMITS__PER_IP_LOGINS_PER_MINUTE": 0}
CALLS = ["login", "refresh", "logout", "revoke"]
WORDS = {"username": "x", "password": "y"}


def posted(daemon, call, body, *headers, key=False):
    """A call as it was answered, or None where the connection ended first."""
    body = body.encode() if isinstance(body, str) else body
    found = exchange(daemon, request(daemon, f"POST /api/v1/auth/{call} HTTP/1.1", f"Content-Length: {len(body)}", "Content-Type: application/json",
                                     *headers, "Connection: close", body=body, key=key))
    assert len(found) <= 1, found
    return found[0] if found else None


def refused(answer, *expected):
    assert answer and answer.status in expected, answer
    assert answer.header("content-type") == PROBLEM and len(answer.body) < 5000, answer


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("key", [True, False], ids=["key", "no-key"])
def test_a_body_that_is_far_too_large_is_refused(victim, call, key):
    answer = posted(victim, call, b" " * (64 << 20), key=key)
    assert answer is None or 400 <= answer.status < 500, answer


@pytest.mark.parametrize("field", ["username", "password"])
@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_huge_name_or_password_is_refused_and_not_repeated(victim, field, size):
    refused(posted(victim, "login", json.dumps({**WORDS, field: "x" * size})), 400, 401, 413, 422)


@pytest.mark.parametrize("body", ["", " ", "{", "[]", "1", "null", '"x"', "{}", '{"username":"x"}', '{"username":1,"password":2}',
                                  '{"username":null,"password":null}',
                                  '{"username":"x","password":"y","nonsense":1}', '{"username":"x","username":"y","password":"z"}', "[" * 100_000,
                                  '{"username":' * 10_000, '{"username":"\\ud800","password":"x"}', '{"username":"x","password":"a\0b"}',
                                  '{"username":["x"],"password":{"a":1}}', '{"username":"x","password":"y","cookie":"yes"}'],
                         ids=lambda body: body[:24] or "empty")
def test_a_login_that_makes_no_sense_is_refused(victim, body):
    refused(posted(victim, "login", body), 400, 401, 413, 422)


def test_a_login_that_is_not_utf8_is_refused(victim):
    refused(posted(victim, "login", b'{"username":"\xff","password":"x"}'), 400, 422)


@pytest.mark.parametrize("call", CALLS)
def test_a_body_that_never_ends_is_not_waited_for(victim, call):
    with Raw(victim) as connection:
        connection.send(request(victim, f"POST /api/v1/auth/{call} HTTP/1.1", "Content-Length: 100", key=call != "login"))
        # A login is given ten seconds whatever limits.body_timeout is, which is for publish bodies.
        assert all(400 <= status < 500 or (status == 204 and call == "logout") for status in statuses(connection.answers(timeout=15)))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_by_another_method_is_refused(victim, call, method):
    with Raw(victim) as connection:
        connection.send(request(victim, f"{method} /api/v1/auth/{call} HTTP/1.1", "Connection: close"))
        assert connection.answer(bodiless=method == "HEAD").status == 405


@pytest.mark.parametrize("cookie", ["tidegate_session=", "tidegate_session", "tidegate_session=x; tidegate_session=y", "tidegate_session=\"x\"",
                                    ";;;;", "=x", "tidegate_session=" + "x" * 4000,
                                    "a=b; tidegate_session=%00", "tidegate_session=x" * 100])
def test_a_strange_cookie_is_no_credential(victim, cookie):
    found = exchange(victim, request(victim, "GET /v1/rooms HTTP/1.1", f"Cookie: {cookie}", "Connection: close", key=False))
    assert statuses(found) == [401]


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30", "eyJhbGciOiJub25lIn0.e30.", "=.=.=", "a" * 7000,
                                   "." * 7000, "\\x00", "%00", "e30" * 500 + ".e30.e30"],
                         ids=lambda token: token[:20] or "empty")
def test_a_strange_token_is_no_credential(victim, token):
    found = exchange(victim, request(victim, "GET /v1/rooms HTTP/1.1", f"Authorization: Bearer {token}", "Connection: close", key=False))
    assert statuses(found) == [401]
