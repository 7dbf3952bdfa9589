"""`tidegate token mint|inspect` and `tidegate key create|list|revoke`: what they print, what a running daemon makes of it, clear faults."""

import base64
import hashlib
import json
import stat
import subprocess
import time

import jwt
import pytest

from harness import tokens
from harness.api import problem
from harness.daemon import binary, environment
from harness.process import eventually, spawn
from harness.tokens import SECRET, Key, forge, hs256, mint, payload


def status(daemon, key):
    return daemon.get("/v1/rooms", key=key).status_code


def line(result):
    """The one line that a command printed."""
    assert result.code == 0, result
    [found] = result.stdout.splitlines()
    return found


def failed(result, *words, codes=(1, 2)):
    """Ended with one of these codes and said these words on stderr, without a panic."""
    assert result.code in codes and result.stderr.strip() and "panicked" not in result.stderr, result
    for word in words:
        assert word.lower() in result.stderr.lower(), f"{word!r} is not named\n{result}"


def create(daemon, name, *arguments):
    """A key by the command line; the key itself."""
    return line(daemon.run("key", "create", name, *arguments))


def taken(daemon, key, expected=200):
    """A running daemon answers so within seconds."""
    eventually(lambda: status(daemon, key) == expected, f"the daemon answers {expected}", timeout=6, every=0.1)


@pytest.fixture
def with_secret(start_daemon):
    """A daemon whose tokens are signed by SECRET."""
    return start_daemon(AUTH__JWT_SECRET=SECRET)


def test_mint_prints_a_token_that_a_foreign_library_verifies_and_the_daemon_takes(with_secret):
    token = line(with_secret.run("token", "mint", "--sub", "alice", "--role", "viewer", "--role", "operator"))
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"]) == ("alice", ["viewer", "operator"])
    assert claims["exp"] - claims["iat"] == 3600 and abs(claims["iat"] - time.time()) < 10 and claims["jti"]
    me = with_secret.me(token)
    assert (me["subject"], me["credential"], sorted(me["roles"])) == ("alice", "token", ["operator", "viewer"])


def test_mint_takes_rooms_publish_and_time(with_secret):
    token = line(with_secret.run("token", "mint", "--sub", "a", "--rooms", "well:*", "--rooms", "tank:1", "--publish", "well:1", "--ttl", "90s"))
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["rooms"], claims["publish"], claims["exp"] - claims["iat"]) == (["well:*", "tank:1"], ["well:1"], 90)
    assert "roles" not in claims
    me = with_secret.me(token)
    assert (sorted(me["rooms"]), me["publish"]) == (["tank:1", "well:*"], ["well:1"])


def test_mint_without_a_set_secret_signs_by_the_daemon_s_own(daemon):
    assert status(daemon, line(daemon.run("token", "mint", "--sub", "alice"))) == 200
    first, second = (tokens.parts(line(daemon.run("token", "mint", "--sub", "alice")))[1]["jti"] for _ in range(2))
    assert first != second


def test_mint_takes_settings_from_file_and_flags(start_daemon):
    daemon = start_daemon(started=False)
    file = daemon.directory / "mine.toml"
    file.write_text(f'[auth]\njwt_secret = "{SECRET}"\n')
    other = SECRET[::-1]
    assert jwt.decode(line(daemon.run("token", "mint", "--sub", "a", "--config", file)), SECRET, algorithms=["HS256"])
    assert jwt.decode(line(daemon.run("token", "mint", "--sub", "a", "--config", file, "--set", f"auth.jwt_secret={other}")), other, algorithms=["HS256"])


@pytest.mark.parametrize("arguments, word", [((), "--sub"), (("--sub", "a", "--ttl", "soon"), "soon"), (("--sub", "a", "--rooms", "a b"), "a b"),
                                             (("--sub", "a", "--publish", "we*ll"), "we*ll"), (("--sub", "a", "--nonsense"), "--nonsense"),
                                             (("--sub", ""), "sub")],
                         ids=["no-sub", "ttl", "rooms", "publish", "flag", "empty-sub"])
def test_mint_names_what_is_wrong(with_secret, arguments, word):
    result = with_secret.run("token", "mint", *arguments)
    failed(result, word, codes=(2,))
    assert result.stdout == ""


def test_inspect_shows_header_and_claims_of_a_token_that_holds(with_secret):
    result = with_secret.run("token", "inspect", mint(sub="alice", roles=["viewer"], jti="id-7"))
    assert result.code == 0, result
    for word in ("HS256", "alice", "viewer", "id-7"):
        assert word in result.stdout, result
    assert SECRET not in result.stdout + result.stderr


def test_inspect_holds_by_public_keys_and_key_sets_too(start_daemon):
    daemon, pem, listed = start_daemon(started=False), Key("RS256", kid="r"), Key("ES256", kid="e")
    (daemon.directory / "jwks.json").write_text(json.dumps(tokens.jwks(listed)))
    daemon.settings.update(AUTH__JWT_KEYS=f"r={pem.write(daemon.directory)}", AUTH__JWKS_FILE=daemon.directory / "jwks.json")
    for key in (pem, listed):
        result = daemon.run("token", "inspect", key.mint(sub="bob"))
        assert result.code == 0 and "bob" in result.stdout, result
    assert daemon.run("token", "inspect", Key("RS256", "foreign", kid="r").mint()).code == 1


@pytest.mark.parametrize("wrong, shown", [(lambda: mint(sub="alice", ttl=-100), True), (lambda: mint(SECRET + "x", sub="alice"), True),
                                          (lambda: mint(sub="alice", exp=None), True), (lambda: mint(sub="alice", nbf=int(time.time()) + 900), True),
                                          (lambda: forge({"alg": "none"}, payload(sub="alice")), True), (lambda: mint(SECRET, "HS512", sub="alice"), True),
                                          (lambda: Key("RS256").mint(sub="alice"), True), (lambda: "nonsense", False), (lambda: "a.b.c", False),
                                          (lambda: forge({"alg": "HS256"}, b"\xff", hs256(SECRET)), False)],
                         ids=["expired", "signature", "no-exp", "not-yet", "none", "hs512", "no-key", "nonsense", "abc", "no-text"])
def test_inspect_says_why_a_token_does_not_hold(with_secret, wrong, shown):
    result = with_secret.run("token", "inspect", wrong())
    assert result.code == 1 and (result.stderr + result.stdout).strip() and "panicked" not in result.stderr, result
    assert not shown or "alice" in result.stdout, f"the claims are not shown\n{result}"


def test_inspect_names_the_reason(with_secret):
    result = with_secret.run("token", "inspect", mint(ttl=-100))
    assert "expired" in (result.stdout + result.stderr).lower(), result
    result = with_secret.run("token", "inspect", mint(SECRET + "x"))
    assert "signature" in (result.stdout + result.stderr).lower(), result


def test_a_key_is_printed_once_and_kept_only_as_its_hash(daemon):
    key = create(daemon, "screens", "--role", "viewer")
    file = daemon.keys_file
    assert len(key) >= 20 and stat.S_IMODE(file.stat().st_mode) == 0o600
    text, digest = file.read_text(), hashlib.sha256(key.encode()).digest()
    forms = [digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode().rstrip("=")]
    assert key not in text and any(form in text for form in forms), f"not the SHA-256 of the key:\n{text}"


def test_a_running_daemon_takes_a_new_key_with_its_rights(daemon, room):
    daemon.publish_numbers("well:1", range(1))
    daemon.publish_numbers("tank:1", range(1))
    key = create(daemon, "screens", "--role", "viewer", "--rooms", "well:*", "--publish", "well:9")
    taken(daemon, key)
    me = daemon.me(key)
    assert (me["subject"], me["credential"], me["roles"], me["rooms"], me["publish"]) == ("screens", "key", ["viewer"], ["well:*"], ["well:9"])
    assert [found["room"] for found in daemon.get("/v1/rooms", key=key).json()["rooms"]] == ["well:1"]
    problem(daemon.get("/v1/rooms/tank:1", key=key), 403)
    assert daemon.request("POST", "/v1/rooms/well:9/events", key=key, json={"kind": "k", "data": 1}).status_code == 202
    problem(daemon.request("POST", "/v1/rooms/well:1/events", key=key, json={"kind": "k", "data": 1}), 403)


def test_a_key_with_the_role_admin_makes_admin_calls(daemon):
    key = create(daemon, "boss", "--role", "admin")
    taken(daemon, key)
    assert daemon.get("/v1/connections", key=key).status_code == 200


def test_a_running_daemon_refuses_a_revoked_key_and_keeps_the_others(daemon):
    one, two = create(daemon, "one", "--role", "viewer"), create(daemon, "two", "--role", "viewer")
    taken(daemon, one)
    taken(daemon, two)
    assert daemon.run("key", "revoke", "one").code == 0
    taken(daemon, one, 401)
    assert (status(daemon, two), status(daemon, daemon.key)) == (200, 200)
    daemon.restart()
    assert (status(daemon, one), status(daemon, two)) == (401, 200)


def test_a_key_ends_at_its_time(daemon):
    key = create(daemon, "short", "--role", "viewer", "--expires", "4s")
    taken(daemon, key)
    assert daemon.me(key)["expires_at"]
    taken(daemon, key, 401)
    lasting = create(daemon, "lasting", "--role", "viewer", "--expires", "30d")
    taken(daemon, lasting)


def test_list_names_the_keys_and_shows_none(daemon):
    result = daemon.run("key", "list")
    assert result.code == 0, result
    keys = {name: create(daemon, name, "--role", "viewer", "--rooms", "well:*", "--expires", "30d") for name in ("screens", "sensors")}
    shown = daemon.run("key", "list")
    assert shown.code == 0, shown
    for name, key in keys.items():
        assert name in shown.stdout and key not in shown.stdout and hashlib.sha256(key.encode()).hexdigest() not in shown.stdout
    assert "viewer" in shown.stdout and "well:*" in shown.stdout
    daemon.run("key", "revoke", "screens")
    left = daemon.run("key", "list").stdout
    assert "sensors" in left
    assert all("revoked" in row for row in left.splitlines() if "screens" in row)


def test_a_name_is_given_once_and_free_again_after_its_key_was_revoked(daemon):
    first = create(daemon, "screens", "--role", "viewer")
    failed(daemon.run("key", "create", "screens"), "screens")
    taken(daemon, first)
    assert daemon.run("key", "revoke", "screens").code == 0
    second = create(daemon, "screens", "--role", "viewer")
    taken(daemon, second)
    taken(daemon, first, 401)


@pytest.mark.parametrize("arguments, word", [(("create",), "name"), (("create", "x", "--expires", "soon"), "soon"), (("create", "x", "--rooms", "a b"), "a b"),
                                             (("create", "x", "--publish", "we*ll"), "we*ll"), (("create", ""), "name"),
                                             (("create", "x\ny"), "name"), (("revoke", "nobody"), "nobody"), (("revoke",), "name"), (("dance",), "dance")],
                         ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_a_fault_is_named_and_changes_nothing(daemon, arguments, word):
    create(daemon, "kept", "--role", "viewer")
    before = daemon.keys_file.read_text()
    result = daemon.run("key", *arguments)
    failed(result, word)
    assert result.stdout == "" and daemon.keys_file.read_text() == before


def test_a_wrong_setting_is_named_by_these_commands_too(daemon):
    for command in (("key", "list"), ("key", "create", "x"), ("token", "mint", "--sub", "a"), ("token", "inspect", mint())):
        failed(daemon.run(*command, AUTH__LEEWAY="much"), "auth.leeway", codes=(2,))


def test_keys_made_at_the_same_moment_are_all_kept(daemon):
    env = environment(daemon.settings)
    children = [spawn([binary(), "key", "create", f"k{n}", "--role", "viewer"], cwd=daemon.directory, env=env, stdin=subprocess.DEVNULL,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(24)]
    done = [child.communicate(timeout=20) for child in children]
    assert [child.returncode for child in children] == [0] * 24, done
    for out, _ in done:
        taken(daemon, out.decode().strip())


def test_a_key_made_before_the_first_start_is_taken(start_daemon):
    daemon = start_daemon(started=False, AUTH__API_KEYS=None)
    key = create(daemon, "screens", "--role", "viewer")
    daemon.start()
    assert status(daemon, key) == 200


@pytest.mark.parametrize("content", ["not = [ toml", "my-garbage-4711"])
def test_a_keys_file_that_is_broken_is_a_clear_fault_at_start_and_takes_no_key_away_later(start_daemon, content):
    daemon = start_daemon(started=False)
    file = daemon.keys_file
    file.parent.mkdir()
    file.write_text(content)
    failed(daemon.run("serve"), "data/keys.toml")
    failed(daemon.run("key", "create", "x"), "data/keys.toml")
    assert file.read_text() == content, "overwritten"
    file.unlink()
    key = create(daemon, "screens", "--role", "viewer")
    daemon.start()
    file.write_text(content)
    eventually(lambda: "data/keys.toml" in daemon.log_text(), "the log names the file", timeout=8)
    assert status(daemon, key) == 200 and "my-garbage-4711" not in daemon.log_text()


def test_a_keys_file_that_is_changed_while_it_is_read_is_taken_as_it_is_in_the_end(start_daemon):
    daemon = start_daemon(started=False)
    key = create(daemon, "screens", "--role", "viewer")
    text = daemon.keys_file.read_text()
    for seconds in (1, 2, 3):  # whole seconds after the start, so that the last change falls into a look that happens every second
        daemon.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # in its place, as an editor may write it: empty for a moment, then whole
            daemon.keys_file.write_text(text)
            daemon.keys_file.write_text(text + "\n")
        taken(daemon, key)
        daemon.terminate()


def test_keys_never_stand_in_the_log(daemon):
    key = create(daemon, "screens", "--role", "viewer")
    taken(daemon, key)
    daemon.get("/v1/rooms", key=None, params={"token": key, "nonsense": 1})
    daemon.run("key", "revoke", "screens")
    taken(daemon, key, 401)
    daemon.terminate()
    assert key not in daemon.log_text() and hashlib.sha256(key.encode()).hexdigest() not in daemon.log_text()
