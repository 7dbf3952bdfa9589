"""The audit file: who was let in, who was refused, what an admin did; a line of JSON each, for its owner only, never a secret."""

import json
import stat
import time

import pytest

from harness.api import instant
from harness.process import eventually
from harness.tokens import SECRET, mint, user

PASSWORD = "correct horse battery staple"
FIELDS = {"time", "event", "subject", "credential", "client_ip", "method", "path", "status", "reason"}


@pytest.fixture
def audited(start_daemon):
    """A daemon with the user alice (an admin) that takes tokens by SECRET."""
    return start_daemon(AUTH__JWT_SECRET=SECRET, **user("alice", PASSWORD, roles="admin"))


def file(daemon):
    return daemon.audit_file


def lines(daemon):
    """All whole lines of the file, each an object."""
    if not file(daemon).exists():
        return []
    found = [json.loads(line) for line in file(daemon).read_text().split("\n")[:-1]]
    assert all(isinstance(line, dict) for line in found)
    return found


def told(daemon, **wanted):
    """Waits for a line with these values; the line."""
    def look():
        return next((line for line in lines(daemon) if all(line.get(name) == value for name, value in wanted.items())), None)

    return eventually(look, f"a line with {wanted} in the audit file", timeout=5)


def test_the_file_is_for_its_owner_only(audited):
    audited.get("/v1/rooms", key="nonsense")
    told(audited, event="refused")
    assert stat.S_IMODE(file(audited).stat().st_mode) == 0o600


def test_a_refusal_says_who_what_and_why(audited):
    before = time.time()
    audited.get("/v1/rooms/well:1/events?after=5", key=mint(sub="bob", roles=[]))
    line = told(audited, event="refused", status=403)
    assert set(line) >= FIELDS, f"missing: {FIELDS - set(line)}"
    assert (line["subject"], line["client_ip"], line["method"]) == ("bob", "127.0.0.1", "GET")
    assert line["path"].split("?")[0] == "/v1/rooms/well:1/events" and line["reason"] and line["credential"]
    assert before - 1 < instant(line["time"]) < time.time() + 1


def test_a_wrong_credential_is_told_without_it(audited):
    for how in ({"key": "my-secret-guess"}, {"key": None, "params": {"token": "my-secret-guess"}}, {"key": None, "params": {"access_token": "my-secret-guess"}},
                {"key": None, "headers": {"Cookie": "tidegate_session=my-secret-guess"}}):
        audited.get("/v1/rooms", **how)
    eventually(lambda: sum(line["event"] == "refused" and line["status"] == 401 for line in lines(audited)) >= 4, "four refusals", timeout=5)
    assert "my-secret-guess" not in file(audited).read_text()
    assert not told(audited, event="refused", status=401).get("subject")


@pytest.mark.parametrize("transport", ["websocket", "sse", "subscribe"])
def test_refused_streams_and_subscriptions_are_told(audited, ws, transport):
    key = mint(sub="bob", rooms=["well:*"])
    if transport == "websocket":
        audited.get("/v1/stream?rooms=tank:1", key=key, headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                                                                 "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    elif transport == "sse":
        audited.get("/v1/stream?rooms=tank:1", key=key, headers={"Accept": "text/event-stream"})
    else:
        ws(audited, "well:1", key=key).ask({"type": "subscribe", "rooms": ["tank:1"]}, "error")
    line = told(audited, event="refused", subject="bob")
    assert line["reason"] and "/v1/stream" in line["path"]


def test_logins_and_logouts_are_told_good_and_bad(audited):
    token = audited.login("alice", PASSWORD).json()["access_token"]
    audited.login("alice", "wrong-password-4711")
    audited.login("nobody", "wrong-password-4711")
    audited.request("POST", "/api/v1/auth/logout", key=token)
    assert told(audited, event="login", status=200)["subject"] == "alice"
    told(audited, event="login", status=401, subject="alice")
    told(audited, event="login", status=401, subject="nobody")
    assert told(audited, event="logout")["subject"] == "alice"
    text = file(audited).read_text()
    for secret in (PASSWORD, "wrong-password-4711", *token.split(".")[1:]):
        assert secret not in text


def test_admin_calls_are_told(audited, ws):
    admin = mint(sub="root", roles=["admin"])
    client = ws(audited, "x", key=mint(sub="bob"))
    number = client.welcome["connection_id"]
    audited.get("/v1/connections", key=admin)
    audited.request("DELETE", f"/v1/connections/{number}", key=admin)
    audited.request("POST", "/api/v1/auth/revoke", key=admin, json={"token_id": "id-1"})
    line = told(audited, event="admin", method="DELETE")
    assert (line["subject"], line["status"], line["path"]) == ("root", 204, f"/v1/connections/{number}")
    told(audited, event="admin", path="/v1/connections", method="GET")
    assert told(audited, event="revoke")["subject"] == "root"


def test_ordinary_calls_are_not_told(audited, ws):
    audited.publish_numbers("well:1", range(3))
    ws(audited, "well:1").alive()
    audited.history("well:1")
    audited.get("/v1/rooms", key="nonsense")
    told(audited, event="refused")
    assert {line["event"] for line in lines(audited)} <= {"refused", "start", "started", "stop", "stopped"}


def test_it_is_written_on_after_a_restart_and_a_crash(audited):
    audited.get("/v1/rooms", key="nonsense")
    told(audited, event="refused")
    before = file(audited).read_bytes()
    audited.restart()
    audited.get("/v1/rooms/a", key=mint(sub="second", roles=[]))
    told(audited, subject="second")
    audited.kill9()
    audited.start()
    audited.get("/v1/rooms/a", key=mint(sub="third", roles=[]))
    told(audited, subject="third")
    assert file(audited).read_bytes().startswith(before)
    assert stat.S_IMODE(file(audited).stat().st_mode) == 0o600


def test_a_name_with_line_ends_and_quotes_stays_in_its_line(audited):
    audited.get("/v1/rooms/a", key=mint(sub='x"\n{"event":"admin"}\u2028\r', roles=[]))
    line = eventually(lambda: [line for line in lines(audited) if line["event"] == "refused"], "the refusal", timeout=5)[0]
    assert line["subject"].startswith('x"')
    assert not [line for line in lines(audited) if line["event"] == "admin"]


def test_a_flood_of_refusals_is_counted_and_not_written_out(start_daemon):
    daemon = start_daemon(AUDIT__REFUSALS_PER_SECOND=5)
    count, start = 400, time.monotonic()
    for n in range(count):
        daemon.get(f"/v1/rooms/flood:{n}", key="nonsense")
    seconds = time.monotonic() - start

    def whole():
        return sum(line.get("count", 1) for line in lines(daemon) if line["event"] == "refused") == count

    eventually(whole, "lines and counted refusals add up to all of them", timeout=6, every=0.2)
    refusals = [line for line in lines(daemon) if line["event"] == "refused"]
    assert len(refusals) <= (seconds + 2) * 6, f"{len(refusals)} lines for {count} refusals in {seconds:.1f} s"
    assert any(line.get("count", 1) > 1 for line in refusals)


def test_a_flood_of_refusals_hides_no_admin_call(start_daemon):
    daemon = start_daemon(AUTH__JWT_SECRET=SECRET, AUDIT__REFUSALS_PER_SECOND=5)
    for _ in range(200):
        daemon.get("/v1/rooms", key="nonsense")
    daemon.get("/v1/connections", key=mint(sub="root", roles=["admin"]))
    assert told(daemon, event="admin")["subject"] == "root"


def test_a_reload_is_told(audited):
    audited.reload()
    told(audited, event="reload")


def test_a_file_that_cannot_be_written_is_a_clear_fault_at_start(start_daemon):
    daemon = start_daemon(started=False)
    (daemon.directory / "file").write_text("a regular file")
    below = daemon.directory / "file" / "audit.log"
    result = daemon.run("serve", AUDIT__FILE=below)
    assert result.code in (1, 2) and str(below) in result.stderr and "panicked" not in result.stderr, result
