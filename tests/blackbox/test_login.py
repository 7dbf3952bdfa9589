"""Users and their sessions: login, refresh, logout, revocation, and who one is (`me`). Cookies and first starts are in
test_cookies_and_first_start.py.
"""

import json
import math
import statistics
import time

import pytest
from argon2 import PasswordHasher

from harness import tokens
from harness.api import instant, problem
from harness.process import eventually
from harness.tokens import SECRET, mint, user

LOGIN, REFRESH, LOGOUT, REVOKE = (f"/api/v1/auth/{name}" for name in ("login", "refresh", "logout", "revoke"))
PASSWORD = "correct horse battery staple"
ALICE = user("alice", PASSWORD, roles="viewer")
ROOT = user("root", PASSWORD, roles="admin")


@pytest.fixture
def with_users(start_daemon):
    """A daemon with alice (viewer) and root (admin), that also takes tokens by SECRET."""
    return start_daemon(AUTH__JWT_SECRET=SECRET, **ALICE, **ROOT)


def session(daemon, name="alice", **more):
    """Logs in and returns the answer's JSON."""
    answer = daemon.login(name, PASSWORD, **more)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.json()


def token(daemon, name="alice"):
    return session(daemon, name)["access_token"]


def status(daemon, key):
    return daemon.get("/v1/rooms", key=key).status_code


def post(daemon, path, key, body=None):
    return daemon.request("POST", path, key=key, **({"json": body} if body is not None else {}))


def test_a_login_gives_a_token_that_opens(with_users, ws, sse):
    found = session(with_users)
    assert set(found) == {"access_token", "token_type", "expires_in"}
    assert (found["token_type"], found["expires_in"]) == ("Bearer", 3600)
    assert status(with_users, found["access_token"]) == 200
    assert ws(with_users, "x", key=found["access_token"]).alive()
    assert sse(with_users, "x", key=found["access_token"]).welcome()


def test_me_says_who_one_is(with_users):
    me = with_users.me(token(with_users))
    assert (me["subject"], me["credential"], me["roles"], me["rooms"], me["publish"]) == ("alice", "user", ["viewer"], ["*"], [])
    assert abs(instant(me["expires_at"]) - time.time() - 3600) < 30
    me = with_users.me(with_users.key)
    assert (me["subject"], me["credential"], me["roles"], me["rooms"], me["publish"]) == ("test", "key", ["operator"], ["*"], ["*"])
    assert me.get("expires_at") is None
    assert with_users.me(mint(sub="bob"))["credential"] == "token"
    problem(with_users.get("/api/v1/auth/me", key=None), 401, kind="unauthorized")


def test_rooms_and_publish_of_a_user_replace_what_the_roles_allow(start_daemon):
    daemon = start_daemon(**user("carol", PASSWORD, roles="operator", rooms="well:*,tank:1", publish="well:1"))
    me = daemon.me(token(daemon, "carol"))
    assert (sorted(me["rooms"]), me["publish"], me["roles"]) == (["tank:1", "well:*"], ["well:1"], ["operator"])


def test_how_long_a_token_of_a_login_holds_can_be_set(start_daemon):
    daemon = start_daemon(AUTH__TOKEN_TTL="2s", AUTH__LEEWAY="0s", **ALICE)
    found = session(daemon)
    assert found["expires_in"] == 2 and status(daemon, found["access_token"]) == 200
    eventually(lambda: status(daemon, found["access_token"]) == 401, "the token ends", timeout=6)


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + " ", PASSWORD[:-1], PASSWORD.upper(), PASSWORD + "\0", "x" * 4000],
                         ids=["empty", "wrong", "longer", "shorter", "capitals", "nul", "huge"])
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(with_users, password):
    known, unknown = (problem(with_users.login(name, password), 401, kind="wrong-login") for name in ("alice", "nobody"))
    assert known == unknown and "alice" not in json.dumps(known)


@pytest.mark.parametrize("name", ["", "ALICE", "alice ", "test", "viewer", "a" * 300, "alice.password_hash", "*", "ä"])
def test_a_name_that_is_no_user_s_is_told_the_same(with_users, name):
    found = problem(with_users.login(name, PASSWORD), 401, kind="wrong-login")
    assert found == problem(with_users.login("alice", "wrong"), 401)


def test_a_wrong_password_takes_as_long_as_an_unknown_user(start_daemon):
    daemon = start_daemon(started=False, LIMITS__PER_IP_LOGINS_PER_MINUTE=0)
    daemon.settings["AUTH__USERS__ALICE__PASSWORD_HASH"] = daemon.run("user", "hash", stdin=PASSWORD).stdout.strip()
    daemon.start()
    times = {"alice": [], "nobody": []}
    for _ in range(9):
        for name, found in times.items():
            found.append(daemon.login(name, "wrong").elapsed.total_seconds())
    known, unknown = (statistics.median(times[name]) for name in ("alice", "nobody"))
    assert 0.5 < known / unknown < 2, f"alice {known:.4f} s, nobody {unknown:.4f} s"


@pytest.mark.parametrize("body", [{}, {"username": "alice"}, {"password": PASSWORD}, {"username": 1, "password": PASSWORD}, [], "alice",
                                  {"username": "alice", "password": [PASSWORD]}, {"username": "alice", "password": PASSWORD, "cookie": "yes"},
                                  {"username": "alice", "password": PASSWORD, "pasword": "x"}], ids=str)
def test_a_login_of_another_shape_is_refused_and_says_why(with_users, body):
    answer = post(with_users, LOGIN, None, body)
    problem(answer, 400, 422)
    assert PASSWORD not in answer.text


def test_a_login_that_is_no_json_or_too_big_is_refused(with_users):
    problem(with_users.request("GET", LOGIN, key=None), 405)
    for body in (b"", b"{", b"username=alice", b'{"username":"\xff"}'):
        problem(with_users.request("POST", LOGIN, key=None, data=body, headers={"Content-Type": "application/json"}), 400, 415, 422)
    problem(with_users.login("alice", "x" * 2_000_000), 400, 401, 413, 422)


def test_a_password_of_any_letters_works(start_daemon):
    odd = "pä§$wörd \u2603 ' \" \\ \t=,#"
    daemon = start_daemon(**user("dora", odd, roles="viewer"))
    assert daemon.login("dora", odd).status_code == 200


def test_the_hash_command_makes_hashes_that_work(start_daemon):
    daemon = start_daemon(started=False)
    made = [daemon.run("user", "hash", stdin=text) for text in (PASSWORD, f"{PASSWORD}\n")]
    hashes = [result.stdout.strip() for result in made]
    assert all(result.code == 0 and found.startswith("$argon2id$") for result, found in zip(made, hashes)), made
    assert hashes[0] != hashes[1] and all(PASSWORD not in result.stdout + result.stderr for result in made)
    for found in hashes:
        assert PasswordHasher().verify(found, PASSWORD)  # a foreign implementation agrees, with and without the line's end
    daemon.settings["AUTH__USERS__ALICE__PASSWORD_HASH"] = hashes[1]
    daemon.start()
    assert session(daemon)
    result = daemon.run("user", "hash", stdin="")
    assert result.code in (1, 2) and result.stderr.strip(), "a hash of nothing was made"


@pytest.mark.parametrize("value", ["plain-password-4711", "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA", "$2b$12$abcdefghijklmnopqrstuv", "", "$argon2id$"])
def test_a_password_hash_that_is_none_is_a_fault_that_names_the_user(start_daemon, value):
    result = start_daemon(started=False).run("check", AUTH__USERS__ALICE__PASSWORD_HASH=value)
    assert result.code == 2 and "alice" in result.stderr.lower(), result
    assert "plain-password-4711" not in result.stderr


def test_all_that_is_wrong_with_a_user_is_named_at_once(start_daemon):
    result = start_daemon(started=False).run("check", AUTH__USERS__ALICE__PASSWORD_HASH="plain", AUTH__USERS__ALICE__ROOMS="we*ll")
    assert result.code == 2 and "alice.password_hash" in result.stderr and "alice.rooms" in result.stderr, result


def test_a_refresh_gives_a_new_token_of_the_same_session(with_users):
    first = token(with_users)
    answer = post(with_users, REFRESH, first)
    assert answer.status_code == 200, answer.text
    second = answer.json()
    assert set(second) == {"access_token", "token_type", "expires_in"} and second["access_token"] != first
    assert with_users.me(second["access_token"])["subject"] == "alice"
    assert post(with_users, REFRESH, second["access_token"]).status_code == 200


def test_what_no_login_gave_is_not_refreshed(with_users):
    own = with_users.run("token", "mint", "--sub", "alice").stdout.strip()
    assert status(with_users, own) == 200
    for key in (with_users.key, mint(sub="alice"), own):
        problem(post(with_users, REFRESH, key), 403)
    for key in (None, "nonsense", mint(ttl=-100)):
        problem(post(with_users, REFRESH, key), 401, kind="unauthorized")


def test_a_session_does_not_outlive_its_longest_time_however_often_it_is_refreshed(start_daemon):
    daemon = start_daemon(AUTH__TOKEN_TTL="4s", AUTH__SESSION_MAX="5s", AUTH__LEEWAY="0s", **ALICE)
    current = token(daemon)
    begun = tokens.parts(current)[1]["iat"]
    while (answer := post(daemon, REFRESH, current)).status_code == 200:
        current = answer.json()["access_token"]
        assert tokens.parts(current)[1]["exp"] <= begun + 5, "a refresh reaches beyond the longest time of a session"
        assert answer.json()["expires_in"] <= 5
        assert time.time() < begun + 8, "the session never ends"
        time.sleep(0.3)
    assert answer.status_code in (401, 403)
    eventually(lambda: status(daemon, current) == 401, "the session ends", timeout=6)
    assert time.time() >= begun + 4


def test_a_logout_ends_the_token_and_no_other(with_users):
    one, two = token(with_users), token(with_users)
    answer = post(with_users, LOGOUT, one)
    assert (answer.status_code, answer.text) == (204, "")
    problem(with_users.get("/v1/rooms", key=one), 401, kind="unauthorized")
    problem(post(with_users, REFRESH, one), 401)
    assert status(with_users, two) == 200 and status(with_users, token(with_users)) == 200


@pytest.mark.parametrize("jti", ["id-1", None])
def test_a_token_from_elsewhere_can_be_given_up_too(with_users, jti):
    mine, other = mint(sub="bob", jti=jti), mint(sub="bob", jti=jti and "id-2", ttl=301)
    assert post(with_users, LOGOUT, mine).status_code == 204
    assert (status(with_users, mine), status(with_users, other)) == (401, 200)
    assert jti is None or status(with_users, mint(sub="bob", jti=jti, ttl=600)) == 401, "another token of the same id"


def test_a_key_is_not_logged_out(with_users):
    found = problem(post(with_users, LOGOUT, with_users.key), 400)
    assert "key revoke" in found["detail"], "it does not say what to do instead"
    assert status(with_users, with_users.key) == 200
    problem(post(with_users, LOGOUT, None), 401)


@pytest.mark.parametrize("end", ["restart", "kill9"])
def test_what_was_revoked_stays_revoked(with_users, end):
    one, two, three, kept = (token(with_users) for _ in range(4))
    root = token(with_users, "root")
    for key, path, body in ((one, LOGOUT, None), (root, REVOKE, {"token": two}), (root, REVOKE, {"token_id": tokens.parts(three)[1]["jti"]})):
        assert post(with_users, path, key, body).status_code == 204
    if end == "restart":
        with_users.restart()
    else:
        with_users.kill9()
        with_users.start()
    assert [status(with_users, key) for key in (one, two, three, kept)] == [401, 401, 401, 200]


def test_revoked_tokens_are_kept_without_the_tokens_themselves(with_users):
    revoked = token(with_users)
    post(with_users, LOGOUT, revoked)
    file = with_users.revoked_file
    eventually(file.exists, "the file of revoked tokens is there")
    assert not any(part in file.read_text() for part in revoked.split(".")[1:])


def test_an_admin_revokes_by_id_and_by_token(with_users):
    root = token(with_users, "root")
    assert post(with_users, REVOKE, root, {"token_id": "id-9"}).status_code == 204
    assert (status(with_users, mint(jti="id-9")), status(with_users, mint(jti="id-8"))) == (401, 200)
    assert post(with_users, REVOKE, root, {"token_id": "id-8", "expires_in": 2}).status_code == 204
    assert status(with_users, mint(jti="id-8")) == 401
    without_id = mint(sub="bob")
    assert post(with_users, REVOKE, root, {"token": without_id}).status_code == 204
    assert (status(with_users, without_id), status(with_users, mint(sub="bob", ttl=400))) == (401, 200)


@pytest.mark.parametrize("body", [{}, {"token_id": 5}, {"token_id": "x", "expires_in": "long"}, {"token_id": "x", "expires_in": -1}, {"id": "x"}, [],
                                  {"token_id": ""}], ids=str)
def test_a_revocation_of_another_shape_is_refused(with_users, body):
    problem(post(with_users, REVOKE, token(with_users, "root"), body), 400, 422)


def test_nobody_but_an_admin_revokes(with_users):
    body = {"token_id": "id-1"}
    for key in (with_users.key, token(with_users), mint(roles=["operator"]), mint(roles=["platform_admin"])):
        problem(post(with_users, REVOKE, key, body), 403, kind="forbidden")
    problem(post(with_users, REVOKE, None, body), 401)
    assert status(with_users, mint(jti="id-1")) == 200


def test_too_many_logins_are_told_when_to_come_back(start_daemon):
    daemon = start_daemon(LIMITS__PER_IP_LOGINS_PER_MINUTE=3, **ALICE)
    for name in ("alice", "nobody", "alice"):
        problem(daemon.login(name, "wrong"), 401, kind="wrong-login")
    for password in ("wrong", PASSWORD):
        answer = daemon.login("alice", password)
        found = problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60 and "per_ip_logins_per_minute" in found["detail"]
    assert status(daemon, daemon.key) == 200, "nobody else is held up"


def test_by_default_thirty_logins_a_minute_are_taken(start_daemon):
    daemon = start_daemon(**ALICE)
    begun = time.monotonic()
    taken = next(count for count in range(100) if daemon.login("nobody", "wrong").status_code == 429)
    # One more is allowed every two seconds, and each takes its time.
    assert 30 <= taken <= 30 + math.ceil((time.monotonic() - begun) / 2)


def test_the_limit_of_logins_can_be_switched_off(start_daemon):
    daemon = start_daemon(LIMITS__PER_IP_LOGINS_PER_MINUTE=0, **ALICE)
    assert {daemon.login("nobody", "wrong").status_code for _ in range(50)} == {401}


def test_logins_are_counted_by_their_outcome(with_users):
    token(with_users)
    for _ in range(2):
        with_users.login("alice", "wrong")
    lines = [line for line in with_users.get("/metrics").text.splitlines() if line.startswith("tidegate_logins_total{outcome=")]
    assert sorted(float(line.rsplit(" ", 1)[1]) for line in lines if not line.endswith(" 0")) == [1, 2], lines


def test_passwords_and_hashes_never_stand_in_the_log(start_daemon):
    daemon = start_daemon(LOGGING__LEVEL="debug", **ALICE)
    given = token(daemon)
    daemon.login("alice", "wrong-password-4711")
    daemon.login("my-password-in-the-wrong-box", "x")
    daemon.terminate()
    said = daemon.log_text() + daemon.output_text()
    for secret in (PASSWORD, "wrong-password-4711", ALICE["AUTH__USERS__ALICE__PASSWORD_HASH"], *given.split(".")[1:]):
        assert secret not in said
