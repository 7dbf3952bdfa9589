"""Who gets in: nothing but the probes without a credential, three ways to carry one, and a first start that makes its own token."""

import re
import stat

import pytest
from websockets.exceptions import InvalidStatus

from harness.api import problem
from harness.ws import Ws

SHUT = [("GET", "/"), ("GET", "/?x=1"), ("GET", "/metrics"), ("GET", "/v1/rooms"), ("GET", "/v1/rooms/a"), ("GET", "/v1/rooms/a/events"),
        ("POST", "/v1/rooms/a/events"), ("GET", "/v1/stream?rooms=a"), ("GET", "/v1/stream?nonsense=1"),
        ("GET", "/no/such/page"), ("DELETE", "/v1/rooms")]


def assert_shut(answer):
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer"), answer.headers


@pytest.mark.parametrize("method, path", SHUT)
def test_without_a_credential_everything_else_is_shut(daemon, method, path):
    assert_shut(daemon.request(method, path, key=None))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/api/health"])
def test_the_probes_are_open(daemon, path):
    assert daemon.get(path, key=None).status_code == 200


@pytest.mark.parametrize("wrong", ["nonsense", "Bearer", "test", "x" * 5000])
def test_a_wrong_key_is_shut_out(daemon, wrong):
    assert_shut(daemon.get("/v1/rooms", key=wrong))
    assert_shut(daemon.get("/v1/rooms", key=None, params={"token": wrong}))
    assert_shut(daemon.get("/v1/rooms", key=None, params={"access_token": wrong}))


def test_part_of_a_key_and_a_key_with_its_name_are_shut_out(daemon):
    for wrong in (daemon.key[:-1], daemon.key + "x", daemon.key.swapcase(), f"test:{daemon.key}", " "):
        assert_shut(daemon.get("/v1/rooms", key=wrong))


def test_a_key_in_another_scheme_is_shut_out(daemon):
    for value in (f"Basic {daemon.key}", daemon.key, "Bearer", ""):
        assert_shut(daemon.get("/v1/rooms", key=None, headers={"Authorization": value}))


def test_a_key_is_taken_as_bearer_access_token_or_token(daemon):
    assert daemon.get("/v1/rooms").status_code == 200
    assert daemon.get("/v1/rooms", key=None, headers={"Authorization": f"bearer {daemon.key}"}).status_code == 200
    for name in ("access_token", "token"):
        assert daemon.get("/v1/rooms", key=None, params={name: daemon.key}).status_code == 200


def test_a_credential_in_the_query_is_no_unknown_parameter_anywhere(daemon, room):
    for name in ("access_token", "token"):
        query = {name: daemon.key}
        answer = daemon.request("POST", f"/v1/rooms/{room}/events", key=None, params=query, json={"kind": "k", "data": 1})
        assert answer.status_code == 202, answer.text
        for path in (f"/v1/rooms/{room}", f"/v1/rooms/{room}/events", "/metrics"):
            assert daemon.get(path, key=None, params=query).status_code == 200, path
        assert daemon.get("/v1/stream", key=None, params={"rooms": room, "tail": 1, **query}).status_code == 200


def test_several_keys_work_each(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS="one:key-number-one-1234,two:key-number-two-5678")
    for key in ("key-number-one-1234", "key-number-two-5678"):
        assert daemon.get("/v1/rooms", key=key).status_code == 200
    assert_shut(daemon.get("/v1/rooms", key="key-number-one-1234,two:key-number-two-5678"))


def test_a_refused_publish_makes_nothing(daemon, room):
    assert_shut(daemon.request("POST", f"/v1/rooms/{room}/events", key="wrong", json={"kind": "k", "data": 1}))
    assert daemon.room(room) is None


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_websocket_upgrade_is_shut(daemon, key):
    with pytest.raises(InvalidStatus) as refusal:
        Ws(daemon, "a", key=key)
    answer = refusal.value.response
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_websocket_takes_its_key_from_the_query(daemon, ws, name):
    assert ws(daemon, key=None, **{name: daemon.key}).alive()


@pytest.mark.parametrize("key", [None, "wrong"])
def test_an_event_stream_is_shut(daemon, sse, key):
    status, headers = sse(daemon, "a", key=key).head()
    assert status == 401
    assert headers["content-type"].startswith("application/problem+json") and headers["www-authenticate"].startswith("Bearer")


def test_an_event_stream_takes_its_key_from_the_query(daemon, sse):
    for name in ("token", "access_token"):
        assert sse(daemon, "a", key=None, **{name: daemon.key}).welcome()


def printed_token(daemon):
    """The address a first start prints, and its token."""
    found = daemon.stdout.wait_for(r"(http://\S*[?&]token=([^\s&]+))", 10)
    assert found, f"no address with ?token= on stdout:\n{daemon.stdout.text()}"
    return found.group(1), found.group(2)


def test_a_first_start_without_any_key_makes_a_token_and_prints_an_address_that_opens(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS=None)
    address, token = printed_token(daemon)
    assert daemon.session.get(address, timeout=10).status_code == 200
    assert daemon.address in address
    assert daemon.get("/v1/rooms", key=token).status_code == 200
    assert_shut(daemon.get("/v1/rooms", key=None))


def test_the_token_file_is_for_its_owner_only(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS=None)
    mode = daemon.token_file.stat().st_mode
    assert stat.S_ISREG(mode) and stat.S_IMODE(mode) == 0o600
    assert len(printed_token(daemon)[1]) >= 20


def test_a_second_start_takes_the_same_token(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS=None)
    _, token = printed_token(daemon)
    daemon.restart()
    assert printed_token(daemon)[1] == token
    assert daemon.get("/v1/rooms", key=token).status_code == 200


def test_two_daemons_do_not_make_the_same_token(start_daemon):
    one, two = (start_daemon(AUTH__API_KEYS=None) for _ in range(2))
    assert printed_token(one)[1] != printed_token(two)[1]


def test_with_a_key_no_token_is_made(daemon):
    assert not daemon.token_file.exists()
    assert "token=" not in daemon.output_text()


@pytest.mark.parametrize("own", [True, False], ids=["made-token", "api-key"])
def test_no_credential_ever_stands_in_the_log(start_daemon, ws, sse, own):
    daemon = start_daemon(**({"AUTH__API_KEYS": None} if own else {}))
    key = printed_token(daemon)[1] if own else daemon.key
    for name in ("token", "access_token"):
        daemon.get("/v1/rooms", key=None, params={name: key})
        daemon.get("/v1/rooms", key=None, params={name: key, "nonsense": 1})
        daemon.get("/no/such/page", key=None, params={name: key})
        daemon.get("/v1/rooms", key=None, params={name: key + "-wrong"})
        ws(daemon, key=None, **{name: key}).send("{")
        sse(daemon, "a", key=None, **{name: key}).welcome()
    daemon.get("/v1/rooms", key=key)
    daemon.terminate()
    assert key not in daemon.log_text()
    assert own or key not in daemon.output_text()


def test_an_error_does_not_repeat_the_credential(daemon):
    answer = daemon.get("/v1/rooms", key=None, params={"token": "my-secret-guess"})
    assert "my-secret-guess" not in re.sub(r"\s", "", answer.text)
