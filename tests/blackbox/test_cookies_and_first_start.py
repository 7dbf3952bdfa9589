"""Sessions in a browser's cookie (and pages of others that would ride on it), and what a start makes by itself: token, secret, admin."""

import re
import stat

import pytest

from harness import tokens
from harness.api import problem
from harness.tokens import SECRET, Key, user
from harness.ws import refused

PASSWORD = "correct horse battery staple"
EVIL = "https://evil.example"
FRIEND = "https://friend.example"


@pytest.fixture
def with_user(start_daemon):
    """A daemon with the user alice, an operator, that pages of FRIEND may call."""
    return start_daemon(CORS__ORIGINS=FRIEND, **user("alice", PASSWORD, roles="operator"))


def set_cookie(answer):
    """Value and attributes of the session cookie that an answer sets."""
    first, *rest = answer.headers["set-cookie"].split(";")
    name, value = first.split("=", 1)
    assert name == "tidegate_session"
    return value, {key.strip().lower(): found for key, _, found in (item.partition("=") for item in rest)}


def carried(daemon):
    """The header of a browser that has logged in."""
    return {"Cookie": f"tidegate_session={set_cookie(daemon.login('alice', PASSWORD, cookie=True))[0]}"}


def test_a_cookie_is_set_only_for_who_asks_and_keeps_to_itself(with_user):
    assert "set-cookie" not in with_user.login("alice", PASSWORD).headers
    assert "set-cookie" not in with_user.login("alice", PASSWORD, cookie=False).headers
    assert "set-cookie" not in with_user.login("alice", "wrong", cookie=True).headers
    value, attributes = set_cookie(with_user.login("alice", PASSWORD, cookie=True))
    assert value and attributes == {"httponly": "", "samesite": "Strict", "path": "/", "max-age": "3600"}


def test_a_cookie_opens_every_call(with_user, ws, sse, room):
    cookie = carried(with_user)
    assert with_user.get("/v1/rooms", key=None, headers=cookie).status_code == 200
    answer = with_user.request("POST", f"/v1/rooms/{room}/events", key=None, headers=cookie, json={"kind": "k", "data": 1})
    assert answer.status_code == 202
    assert ws(with_user, room, key=None, headers=cookie).alive()
    assert sse(with_user, room, key=None, headers=cookie).welcome()
    several = {"Cookie": f"theme=dark; {cookie['Cookie']}; x=y"}
    assert with_user.get("/api/v1/auth/me", key=None, headers=several).json()["subject"] == "alice"


def test_a_wrong_header_or_query_is_not_made_good_by_a_cookie(with_user):
    cookie = carried(with_user)
    problem(with_user.get("/v1/rooms", key="nonsense", headers=cookie), 401, kind="unauthorized")
    problem(with_user.get("/v1/rooms", key=None, headers=cookie, params={"token": "nonsense"}), 401, kind="unauthorized")
    assert with_user.get("/v1/rooms", headers={"Cookie": "tidegate_session=nonsense"}).status_code == 200


@pytest.mark.parametrize("value", ["", "nonsense", "a.b.c", "\u00ff", "x" * 3000])
def test_a_wrong_cookie_is_shut_out(with_user, value):
    problem(with_user.get("/v1/rooms", key=None, headers={"Cookie": f"tidegate_session={value}"}), 401, kind="unauthorized")


def foreign_origins(daemon):
    host, port = daemon.address.rsplit(":", 1)
    return [EVIL, "null", f"http://{host}", f"http://{host}:1", f"http://{host}.evil.example:{port}", f"http://localhost:{port}",
            f"{FRIEND}.evil.example", FRIEND.replace("https", "http"), f"http://evil.example/{daemon.address}", f"http://{daemon.address}@evil.example"]


def test_another_page_cannot_ride_on_the_cookie(with_user, room):
    cookie = carried(with_user)
    for origin in foreign_origins(with_user):
        headers = {**cookie, "Origin": origin}
        calls = [("GET", "/v1/rooms"), ("GET", "/v1/stream?rooms=x&wait=0s"), ("POST", f"/v1/rooms/{room}/events"), ("POST", "/api/v1/auth/logout")]
        for method, path in calls:
            answer = with_user.request(method, path, key=None, headers=headers, **({"json": {"kind": "k", "data": 1}} if method == "POST" else {}))
            problem(answer, 403, kind="origin")
        events = {**headers, "Accept": "text/event-stream"}
        problem(with_user.get("/v1/stream?rooms=x", key=None, headers=events, stream=True), 403, kind="origin")
        problem(refused(with_user, "x", key=None, headers=headers), 403, kind="origin")
    assert with_user.room(room) is None
    assert with_user.get("/v1/rooms", key=None, headers=cookie).status_code == 200, "the session is still there"


def test_the_daemon_s_own_pages_and_those_that_are_allowed_may_use_the_cookie(with_user, ws):
    cookie = carried(with_user)
    for origin in (with_user.url, FRIEND):
        headers = {**cookie, "Origin": origin}
        assert with_user.get("/v1/rooms", key=None, headers=headers).status_code == 200, origin
        assert ws(with_user, "x", key=None, headers=headers).alive()


def test_who_brings_a_token_may_call_from_anywhere(with_user, ws):
    given = with_user.login("alice", PASSWORD).json()["access_token"]
    assert with_user.get("/v1/rooms", key=given, headers={"Origin": EVIL}).status_code == 200
    assert with_user.get("/v1/rooms", key=given, headers={"Origin": EVIL, **carried(with_user)}).status_code == 200
    assert ws(with_user, "x", key=None, token=given, headers={"Origin": EVIL}).alive()


def test_a_logout_clears_the_cookie(with_user):
    cookie = carried(with_user)
    answer = with_user.request("POST", "/api/v1/auth/logout", key=None, headers=cookie)
    assert answer.status_code == 204
    value, attributes = set_cookie(answer)
    assert value == "" and attributes["max-age"] == "0" and attributes["path"] == "/"
    problem(with_user.get("/v1/rooms", key=None, headers=cookie), 401)


def printed(daemon):
    """All addresses that were printed, once the daemon has said all of its first words."""
    assert daemon.stdout.wait_for(r"http", 10), "no address was printed"
    return re.findall(r"http\S+", daemon.output_text())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_start_makes_one_token_for_everything_and_prints_one_address(start_daemon, room):
    daemon = start_daemon(AUTH__API_KEYS=None)
    [address] = printed(daemon)
    key = re.search(r"token=([^&\s]+)", address).group(1)
    assert daemon.token_file.read_text().strip() == key
    me = daemon.me(key)
    assert sorted(me["roles"]) == ["admin", "platform_admin"] and (me["rooms"], me["publish"]) == (["*"], ["*"])
    for path in ("/v1/rooms", "/metrics", "/v1/connections"):
        assert daemon.get(path, key=key).status_code == 200, path
    assert daemon.request("POST", f"/v1/rooms/{room}/events", key=key, json={"kind": "k", "data": 1}).status_code == 202


def test_what_a_start_makes_is_for_its_owner_only(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS=None)
    assert (mode(daemon.token_file), mode(daemon.secret_file)) == (0o600, 0o600)
    secret = daemon.secret_file.read_text().strip()
    daemon.restart()
    assert daemon.secret_file.read_text().strip() == secret, "made anew; all sessions are lost"
    assert secret not in daemon.log_text() + daemon.output_text()


@pytest.mark.parametrize("configured", ["api_keys", "jwt_secret", "jwt_keys", "jwks_url", "admin_password", "users", "keys_file"])
def test_where_anything_is_configured_no_token_is_made(start_daemon, configured, jwks_server):
    daemon = start_daemon(started=False, AUTH__API_KEYS=None)
    if configured == "keys_file":
        assert daemon.run("key", "create", "screens", "--role", "viewer").code == 0
    if configured == "jwks_url":
        daemon.settings["AUTH__JWKS_URL"] = jwks_server(Key("ES256", kid="a")).url
    daemon.settings.update({"api_keys": {"AUTH__API_KEYS": "a:a-key-of-some-length"}, "jwt_secret": {"AUTH__JWT_SECRET": SECRET},
                            "jwt_keys": {"AUTH__JWT_KEYS": Key("RS256").write(daemon.directory)}, "admin_password": {"AUTH__ADMIN_PASSWORD": PASSWORD},
                            "users": user("alice", PASSWORD)}.get(configured, {}))
    daemon.start()
    problem(daemon.get("/v1/rooms", key=None), 401)
    assert not daemon.token_file.exists() and "token=" not in daemon.output_text()


def test_the_admin_password_makes_an_admin(start_daemon):
    daemon = start_daemon(AUTH__API_KEYS=None, AUTH__ADMIN_PASSWORD=PASSWORD, LOGGING__LEVEL="debug")
    answer = daemon.login("admin", PASSWORD)
    assert answer.status_code == 200, answer.text
    me = daemon.me(answer.json()["access_token"])
    assert (me["subject"], sorted(me["roles"])) == ("admin", ["admin", "platform_admin"])
    assert daemon.get("/v1/connections", key=answer.json()["access_token"]).status_code == 200
    problem(daemon.login("admin", PASSWORD + "x"), 401, kind="wrong-login")
    problem(daemon.login("root", PASSWORD), 401, kind="wrong-login")
    assert PASSWORD not in daemon.log_text() + daemon.output_text()


def test_without_an_admin_password_there_is_no_admin(start_daemon):
    for settings in ({}, {"AUTH__ADMIN_PASSWORD": ""}):
        daemon = start_daemon(**settings)
        for password in ("", "admin", "password"):
            problem(daemon.login("admin", password), 401, kind="wrong-login")


def test_a_session_lives_through_a_restart_and_opens_no_other_daemon(start_daemon):
    one, two = (start_daemon(**user("alice", PASSWORD, roles="viewer")) for _ in range(2))
    given = one.login("alice", PASSWORD).json()["access_token"]
    one.restart()
    assert one.get("/v1/rooms", key=given).status_code == 200
    problem(two.get("/v1/rooms", key=given), 401)
    assert tokens.parts(given)[0]["alg"] == "HS256"


def test_a_secret_file_that_is_empty_is_filled(start_daemon):
    daemon = start_daemon(started=False)
    daemon.secret_file.parent.mkdir()
    daemon.secret_file.touch()
    daemon.start()
    assert len(daemon.secret_file.read_text().strip()) >= 32 and mode(daemon.secret_file) == 0o600
    problem(daemon.get("/v1/rooms", key=tokens.forge({"alg": "HS256"}, tokens.payload(), tokens.hs256(b""))), 401)


@pytest.mark.parametrize("content", [b"x", b"a-secret-cut-off", b"\xff" * 40], ids=["letter", "cut", "bytes"])
def test_a_secret_file_without_a_real_secret_is_a_clear_fault_and_not_made_anew(start_daemon, content):
    daemon = start_daemon(started=False)
    daemon.secret_file.parent.mkdir()
    daemon.secret_file.write_bytes(content)
    result = daemon.run("serve", timeout=5)
    assert result.code in (1, 2) and "data/secret" in result.stderr and "panicked" not in result.stderr, result
    assert daemon.secret_file.read_bytes() == content
