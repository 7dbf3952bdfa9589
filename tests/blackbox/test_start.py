"""Starts that must fail, and how: one clear message that names what is wrong and what to do, the right exit code, nothing touched.

Exit code 2 is for wrong settings, 1 for everything else.
"""

import hashlib
import os
import socket

import pytest


def fingerprint(directory):
    """Every file below a directory with its content, to see that nothing was touched."""
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file()}


def assert_clear(result, code, *words):
    """Ended with this code, said these words on stderr, and did not panic."""
    assert result.code == code, result
    assert "panicked" not in result.stderr and "RUST_BACKTRACE" not in result.stderr, result
    for word in words:
        assert str(word) in result.stderr, f"{word!r} is not named\n{result}"


def test_a_second_daemon_on_the_same_log_directory_is_refused_and_the_first_goes_on(daemon, room):
    daemon.publish_numbers(room, range(3))
    assert_clear(daemon.run("serve"), 1, daemon.log_dir)
    daemon.publish_numbers(room, range(3, 6))
    daemon.restart()
    assert [event["data"]["n"] for event in daemon.all_events(room)] == list(range(6))


def test_the_log_directory_is_free_again_after_a_crash(daemon, room):
    daemon.publish_numbers(room, range(3))
    daemon.kill9()
    daemon.start()
    assert len(daemon.all_events(room)) == 3


def test_a_port_in_use_is_named(start_daemon):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_clear(start_daemon(started=False).run("serve", SERVER__LISTEN=address), 1, address)


def test_a_directory_that_cannot_be_made_is_named(start_daemon):
    daemon = start_daemon(started=False)
    (daemon.directory / "file").write_text("a regular file")
    below = daemon.directory / "file" / "log"
    assert_clear(daemon.run("serve", LOG__DIR=below), 1, below)


def test_a_foreign_directory_is_refused_by_name_with_what_to_do_and_left_as_it_is(start_daemon):
    daemon = start_daemon(started=False)
    daemon.log_dir.mkdir()
    (daemon.log_dir / "letters.txt").write_text("my letters")
    (daemon.log_dir / "photos").mkdir()
    before = fingerprint(daemon.log_dir)
    result = daemon.run("serve")
    assert_clear(result, 1, daemon.log_dir)
    assert any(word in result.stderr for word in ("log.dir", "LOG__DIR", "empty")), f"it does not say what to do\n{result}"
    assert fingerprint(daemon.log_dir) == before


def damaged(daemon, damage):
    """A log of some thousand events, orderly closed, then damaged; the next start must refuse it and take nothing away."""
    for start in range(0, 3000, 500):
        daemon.publish_numbers("well:1", range(start, start + 500), pad=500)
    daemon.publish("well:1", {"kind": "k", "data": 1}, ack="synced")
    daemon.terminate()
    files = [path for path in daemon.log_dir.rglob("*") if path.is_file() and path.stat().st_size > 0]
    assert files, "the log has no files"
    damage(files)
    before = fingerprint(daemon.log_dir)
    result = daemon.run("serve", timeout=20)
    assert_clear(result, 1, daemon.log_dir)
    gone = [name for name in before if not (daemon.log_dir / name).exists()]
    assert not gone, f"a refused start took files away: {gone}"


def overwrite_all(files):
    for path in files:
        path.write_bytes(os.urandom(path.stat().st_size))


def truncate_the_largest(files):
    os.truncate(max(files, key=lambda path: path.stat().st_size), 0)


def remove_the_largest(files):
    max(files, key=lambda path: path.stat().st_size).unlink()


def test_a_log_full_of_garbage_is_an_error_and_no_fresh_start(daemon):
    damaged(daemon, overwrite_all)


def test_a_log_whose_largest_file_is_empty_is_an_error_and_no_fresh_start(daemon):
    damaged(daemon, truncate_the_largest)


def test_a_log_whose_largest_file_is_gone_is_an_error_and_no_fresh_start(daemon):
    damaged(daemon, remove_the_largest)


def test_all_wrong_settings_are_named_at_once(start_daemon):
    result = start_daemon(started=False).run("serve", SERVER__LISTEN="nonsense", SERVER__LISTNE="127.0.0.1:1")
    assert_clear(result, 2, "nonsense")
    assert "server.listen" in result.stderr.lower() or "SERVER__LISTEN" in result.stderr, result
    assert "listne" in result.stderr.lower(), f"the unknown key is not named\n{result}"


@pytest.mark.parametrize("name, value", [
    ("HEARTBEAT__INTERVAL", "soon"), ("LIMITS__EVENT_BYTES", "much"), ("LIMITS__MAILBOX_MESSAGES", "-1"),
    ("ROOMS__DEFAULT__ON_FULL", "explode"), ("ROOMS__WELL__RETENTION_COUNT", "x"), ("SOURCES__HOST__ENABLED", "perhaps"),
    ("AUTH__API_KEYS", "no-colon"), ("NO__SUCH", "1"), ("ROOMS__WELL__NO_SUCH", "1"), ("SERVER__LISTEN", "127.0.0.1"),
])
@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_setting_is_named_and_ends_with_2(start_daemon, command, name, value):
    daemon = start_daemon(started=False)
    result = daemon.run(command, **{name: value})
    dotted = name.replace("__", ".").lower()
    assert_clear(result, 2)
    assert dotted in result.stderr.lower() or name in result.stderr, f"{dotted} is not named\n{result}"
    assert not daemon.log_dir.exists(), "nothing is touched before the settings are right"


def test_a_wrong_key_in_a_setting_does_not_show_the_secret(start_daemon):
    result = start_daemon(started=False).run("check", AUTH__API_KEYS="name:good-secret-key-1,another-secret-without-colon")
    assert_clear(result, 2)
    assert "good-secret-key-1" not in result.stderr + result.stdout


def test_check_says_that_good_settings_are_good_and_starts_nothing(start_daemon):
    daemon = start_daemon(started=False)
    result = daemon.run("check")
    assert result.code == 0, result
    assert not daemon.log_dir.exists()


def test_a_settings_file_is_read_and_the_environment_wins(start_daemon, room):
    daemon = start_daemon(started=False, HEARTBEAT__INTERVAL="700ms")
    file = daemon.directory / "tidegate.toml"
    file.write_text('[heartbeat]\ninterval = "5s"\n[limits]\nevent_bytes = "1KiB"\n')
    assert daemon.run("check", "--config", file).code == 0
    file.write_text('[heartbeat]\ninterval = "5s"\n[limits]\nevnt_bytes = "1KiB"\n')
    result = daemon.run("check", "--config", file)
    assert_clear(result, 2, file, "evnt_bytes")


@pytest.mark.parametrize("content", [None, "this is = not [ toml", "[heartbeat]\ninterval = 5.5.5\n"], ids=["missing", "broken", "broken-value"])
def test_a_settings_file_that_cannot_be_read_is_named(start_daemon, content):
    daemon = start_daemon(started=False)
    file = daemon.directory / "mine.toml"
    if content is not None:
        file.write_text(content)
    for command in ("serve", "check"):
        assert_clear(daemon.run(command, "--config", file), 2, file)
