"""SIGHUP: what changes at once, what needs a restart and is named, and a fault that changes nothing.

The settings stand in a file here, because the environment of a running process cannot change. Streams that end because their
rights do are in test_long_lived.py.
"""

import json
import os
import signal

import pytest

from harness.api import problem
from harness.process import eventually
from harness.tokens import SECRET, Key, hashed, jwks, mint
from harness.ws import refused

KEY = "a-key-of-test-1234567890"
AUTH = f'[auth]\napi_keys = ["test:{KEY}"]\njwt_secret = "{SECRET}"\n'
PASSWORD, OTHER = "correct horse battery staple", "another password"
FAULTS = {"toml": "this is = not [ toml", "value": AUTH + '[limits]\nevent_bytes = "much"\n', "unknown": AUTH + "[limits]\nevnt_bytes = 5\n",
          "pattern": AUTH + '[auth.roles.wells]\nrooms = ["we*ll"]\n', "hash": AUTH + '[auth.users.alice]\npassword_hash = "plain"\n',
          "key-file": AUTH.replace("[auth]", '[auth]\njwt_keys = ["/no/such/key.pem"]'), "proxy": AUTH + '[limits]\ntrusted_proxies = ["x"]\n'}
NAMED = {"toml": "tidegate.toml", "value": "limits.event_bytes", "unknown": "evnt_bytes", "pattern": "auth.roles.wells.rooms",
         "hash": "auth.users.alice.password_hash", "key-file": "/no/such/key.pem", "proxy": "limits.trusted_proxies"}


@pytest.fixture
def by_file(start_daemon):
    """Starts a daemon on a settings file."""
    def start(text=AUTH, **settings):
        daemon = start_daemon(started=False, AUTH__API_KEYS=None, **settings).configure(text).start()
        daemon.key = KEY
        return daemon

    return start


def user(password, more='roles = ["viewer"]'):
    return f'[auth.users.alice]\npassword_hash = "{hashed(password)}"\n{more}\n'


def status(daemon, key):
    return daemon.get("/v1/rooms", key=key).status_code


def test_api_keys_are_taken_and_taken_away(by_file):
    daemon = by_file()
    assert status(daemon, "a-new-key-1234567890") == 401
    daemon.reload(AUTH.replace(f'"test:{KEY}"', '"new:a-new-key-1234567890"'))
    assert (status(daemon, "a-new-key-1234567890"), status(daemon, KEY)) == (200, 401)


def test_the_secret_and_public_keys_of_tokens_are_taken(by_file):
    daemon, key = by_file(), Key("ES256", kid="e")
    other = SECRET[::-1]
    path = key.write(daemon.directory)
    (daemon.directory / "jwks.json").write_text(json.dumps(jwks(Key("EdDSA", kid="o"))))
    assert [status(daemon, token) for token in (mint(), mint(other), key.mint(), Key("EdDSA", kid="o").mint())] == [200, 401, 401, 401]
    daemon.reload(f'[auth]\napi_keys = ["test:{KEY}"]\njwt_secret = "{other}"\njwt_keys = ["e={path}"]\njwks_file = "{daemon.directory}/jwks.json"\n')
    assert [status(daemon, token) for token in (mint(), mint(other), key.mint(), Key("EdDSA", kid="o").mint())] == [401, 200, 200, 200]


def test_what_is_checked_of_a_token_is_taken(by_file):
    daemon = by_file()
    token = mint(aud="x")
    assert status(daemon, token) == 200
    daemon.reload(AUTH + 'audience = ["tidegate"]\n')
    assert (status(daemon, token), status(daemon, mint(aud="tidegate"))) == (401, 200)


def test_users_come_change_and_go(by_file):
    daemon = by_file()
    assert daemon.login("alice", PASSWORD).status_code == 401
    daemon.reload(AUTH + user(PASSWORD))
    assert daemon.login("alice", PASSWORD).status_code == 200
    daemon.reload(AUTH + user(OTHER))
    assert (daemon.login("alice", PASSWORD).status_code, daemon.login("alice", OTHER).status_code) == (401, 200)
    token = daemon.login("alice", OTHER).json()["access_token"]
    assert status(daemon, token) == 200
    daemon.reload(AUTH)
    assert (daemon.login("alice", OTHER).status_code, status(daemon, token)) == (401, 401)


def test_roles_are_taken(by_file):
    daemon, key = by_file(), mint(roles=["wells"])
    problem(daemon.get("/v1/rooms/well:1", key=key), 403)
    daemon.reload(AUTH + '[auth.roles.wells]\nrooms = ["well:*"]\n')
    problem(daemon.get("/v1/rooms/well:1", key=key), 404)


def test_a_user_s_changed_roles_count_for_tokens_that_he_has(by_file):
    daemon = by_file(AUTH + user(PASSWORD, 'roles = ["admin"]'))
    token = daemon.login("alice", PASSWORD).json()["access_token"]
    assert daemon.get("/v1/connections", key=token).status_code == 200
    daemon.reload(AUTH + user(PASSWORD, 'roles = ["viewer"]'))
    eventually(lambda: daemon.get("/v1/connections", key=token).status_code == 403, "the smaller role counts", timeout=5)


def test_limits_are_taken(by_file, ws):
    daemon, deep = by_file(), '{"kind":"k","data":' + "[" * 10 + "]" * 10 + "}"
    daemon.reload(AUTH + "[limits]\nper_ip_connections = 2\nper_ip_logins_per_minute = 1\njson_depth = 5\n")
    clients = [ws(daemon, "x") for _ in range(2)]
    problem(refused(daemon, "x"), 429, kind="too-many-connections")
    assert [daemon.login("nobody", "x").status_code for _ in range(2)] == [401, 429]
    assert daemon.post_events("a:1", deep).status_code in (400, 413, 422)
    daemon.reload(AUTH)
    assert ws(daemon, "x").alive() and all(client.alive() for client in clients)
    assert daemon.post_events("a:1", deep).status_code == 202


def test_a_limit_of_connections_counts_those_that_are_there_and_closes_none(by_file, ws):
    daemon = by_file()
    clients = [ws(daemon, "x") for _ in range(3)]
    daemon.reload(AUTH + "[limits]\nper_ip_connections = 2\nper_user_connections = 2\n")
    assert all(client.alive() for client in clients)
    problem(refused(daemon, "x"), 429, kind="too-many-connections")
    for client in clients[:2]:
        client.close()
    eventually(lambda: daemon.get("/v1/stream?rooms=x&wait=0s").status_code == 200, "there is a place again", timeout=5)


def test_origins_are_taken(by_file):
    daemon = by_file()
    headers = {"Origin": "https://dash.example"}
    assert "access-control-allow-origin" not in daemon.get("/v1/rooms", headers=headers).headers
    daemon.reload(AUTH + '[cors]\norigins = ["https://dash.example"]\n')
    assert daemon.get("/v1/rooms", headers=headers).headers["access-control-allow-origin"] == "https://dash.example"


def test_public_metrics_are_taken(by_file):
    daemon = by_file()
    assert daemon.get("/metrics", key=None).status_code == 401
    daemon.reload(AUTH + "[metrics]\npublic = true\n")
    assert daemon.get("/metrics", key=None).status_code == 200


def test_the_level_of_the_log_is_taken(by_file, ws):
    daemon, admin = by_file(), mint(roles=["admin"])

    def closed():
        """Has a connection closed, which the log tells at the level info; its number."""
        number = ws(daemon, "x").welcome["connection_id"]
        assert daemon.request("DELETE", f"/v1/connections/{number}", key=admin).status_code == 204
        return number

    daemon.configure(AUTH + '[logging]\nlevel = "warn"\n')
    os.kill(daemon.process.pid, signal.SIGHUP)
    eventually(lambda: "tidegate_settings_reloads_total{" in daemon.get("/metrics").text, "the settings were read again", timeout=5)
    quiet = closed()
    daemon.reload(AUTH)
    told = closed()
    assert daemon.stderr.wait_for(rf'connection\W+{told}\b', 5)
    assert not daemon.stderr.wait_for(rf'connection\W+{quiet}\b', 0.1), "told at the level warn"


def test_the_log_says_what_changed_and_what_needs_a_restart(by_file):
    daemon = by_file()
    line = daemon.reload(AUTH + '[limits]\nper_ip_connections = 7\n[server]\nshutdown_timeout = "9s"\n[log]\ngeneration_bytes = "8MiB"\n')
    changed, needs = line.split("needs_restart", 1)
    assert "limits.per_ip_connections" in changed and "changed" in changed
    assert "log.generation_bytes" in needs and "per_ip_connections" not in needs
    assert SECRET not in line


def test_what_needs_a_restart_stays_as_it_was_until_then(by_file):
    daemon = by_file(LOG__DIR=None)
    moved = daemon.directory / "elsewhere"
    assert "log.dir" in daemon.reload(AUTH + f'[log]\ndir = "{moved}"\n').split("needs_restart", 1)[1]
    daemon.publish_numbers("a:1", range(3))
    assert not moved.exists()
    daemon.restart()
    assert moved.exists() and daemon.room("a:1") is None


def test_without_a_change_a_reload_is_said_too(by_file):
    daemon = by_file()
    line = daemon.reload()
    assert "auth" not in line.split("settings reloaded")[1]
    assert status(daemon, KEY) == 200


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_leaves_everything_as_it_was(by_file, ws, fault):
    daemon = by_file()
    client = ws(daemon, "a:1")
    with_more = FAULTS[fault].replace(f'"test:{KEY}"', '"new:a-new-key-1234567890"')
    said = daemon.reload(with_more, says=NAMED[fault].replace(".", r"\."))
    assert "settings reloaded" not in said
    assert (status(daemon, KEY), status(daemon, "a-new-key-1234567890"), status(daemon, mint())) == (200, 401, 200)
    daemon.publish_numbers("a:1", [1])
    assert client.event()["data"]["n"] == 1
    daemon.reload(AUTH.replace(f'"test:{KEY}"', f'"test:{KEY}", "new:a-new-key-1234567890"'))
    assert (status(daemon, KEY), status(daemon, "a-new-key-1234567890")) == (200, 200)


def test_a_file_that_is_gone_is_a_fault_too(by_file):
    daemon = by_file()
    (daemon.directory / "tidegate.toml").unlink()
    daemon.reload(says=r"tidegate\.toml")
    assert (status(daemon, KEY), status(daemon, mint())) == (200, 200)


def test_a_fault_shows_no_secret(by_file):
    daemon = by_file()
    daemon.reload(AUTH.replace("jwt_secret", "jwt_secert") + 'x = "my-secret-4711\n', says=r"tidegate\.toml")
    daemon.reload(AUTH.replace("jwt_secret", "jwt_secert").replace("[auth]", '[auth]\nadmin_password = ["my-secret-4711"]'), says="jwt_secert")
    assert SECRET not in daemon.log_text() and "my-secret-4711" not in daemon.log_text() and KEY not in daemon.log_text()


def test_the_environment_still_goes_before_the_file(by_file):
    daemon = by_file(METRICS__PUBLIC="false")
    daemon.reload(AUTH + "[metrics]\npublic = true\n")
    assert daemon.get("/metrics", key=None).status_code == 401


def test_a_daemon_without_a_file_lives_through_it(daemon):
    daemon.reload()
    assert status(daemon, daemon.key) == 200


def test_streams_are_not_disturbed(by_file, ws, sse):
    daemon = by_file()
    client, stream = ws(daemon, "a:1"), sse(daemon, "a:1")
    stream.welcome()
    for n in range(5):
        daemon.reload(AUTH + f"[limits]\nper_ip_connections = {n + 10}\n")
        daemon.publish_numbers("a:1", [n])
    assert [client.event()["data"]["n"] for _ in range(5)] == list(range(5))
    assert [message.data["data"]["n"] for message in stream.take(5)] == list(range(5))


def test_many_signals_at_once_do_no_harm_and_the_last_file_counts(by_file):
    daemon = by_file()
    for n in range(30):
        daemon.configure(AUTH.replace(f'"test:{KEY}"', f'"test:{KEY}", "n{n}:a-key-number-{n:04}-1234567890"'))
        os.kill(daemon.process.pid, signal.SIGHUP)
    eventually(lambda: status(daemon, "a-key-number-0029-1234567890") == 200, "the last file counts", timeout=10)
    assert status(daemon, "a-key-number-0028-1234567890") == 401


def test_reloads_are_counted(by_file):
    daemon = by_file()
    daemon.reload(AUTH)
    daemon.reload(FAULTS["value"], says=r"limits\.event_bytes")

    def counted():
        found = [line for line in daemon.get("/metrics").text.splitlines() if line.startswith("tidegate_settings_reloads_total{")]
        return len(found) == 2 and all(line.endswith(" 1") for line in found)

    eventually(counted, "one that went well and one that did not", timeout=5)
