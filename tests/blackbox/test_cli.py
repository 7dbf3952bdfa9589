"""What a person at a terminal is promised: `tidegate publish`, `tidegate tail`, help and completions, and errors one can act on."""

import json
import subprocess

import pytest

from harness.api import numbers
from harness.daemon import binary, environment, run
from harness.process import Lines, kill, spawn


def cli(daemon, *arguments, stdin=None, **settings):
    """A client command against the running daemon, told where by the environment."""
    return run(arguments, {"URL": daemon.url, "TOKEN": daemon.key, **settings}, daemon.directory, stdin)


def ok(result):
    assert result.code == 0, result
    return result


def lines(result):
    return [json.loads(line) for line in ok(result).stdout.splitlines()]


def failed(result, *words, codes=(1,)):
    """Ended with 1, says these words on stderr, one or a few lines and no panic."""
    assert result.code in codes, result
    assert result.stderr.strip() and "panicked" not in result.stderr, result
    for word in words:
        assert word.lower() in result.stderr.lower(), f"{word!r} is not named\n{result}"


def test_publish_sends_one_event(daemon, room):
    ok(cli(daemon, "publish", room, "--kind", "k", "--data", '{"a":1}'))
    [event] = daemon.history(room)["events"]
    assert (event["kind"], event["data"]) == ("k", {"a": 1})


def test_publish_says_what_number_the_event_got(daemon, room):
    result = ok(cli(daemon, "publish", room, "--kind", "k", "--data", "1"))
    assert str(daemon.history(room)["events"][0]["seq"]) in result.stdout


def test_publish_sends_ndjson_from_stdin(daemon, room):
    text = "".join(json.dumps({"kind": "n", "data": {"n": n}, "priority": "high"}) + "\n" for n in range(50))
    ok(cli(daemon, "publish", room, "--stdin", stdin=text))
    events = daemon.all_events(room)
    assert numbers(events) == list(range(50)) and events[0]["priority"] == "high"


def test_publish_takes_url_and_token_as_flags_which_win_over_the_environment(daemon, room):
    ok(cli(daemon, "publish", room, "--kind", "k", "--data", "1", "--server", daemon.url, "--token", daemon.key,
           URL="http://127.0.0.1:1", TOKEN="wrong"))
    assert len(daemon.history(room)["events"]) == 1


def test_tail_brings_the_newest_as_json_one_a_line(daemon, room):
    daemon.publish_numbers(room, range(10))
    assert lines(cli(daemon, "tail", room, "--tail", "4", "--count", "4", "--json")) == daemon.history(room, tail=4)["events"]


def test_tail_goes_on_after_a_cursor(daemon, room):
    first = daemon.publish_numbers(room, range(10))["first_seq"]
    assert numbers(lines(cli(daemon, "tail", room, "--after", first + 6, "--count", "3", "--json"))) == [7, 8, 9]


def test_tail_begins_at_an_age(daemon, room):
    daemon.publish_numbers(room, range(5))
    for age in ("5m", "-5m"):
        assert numbers(lines(cli(daemon, "tail", room, f"--since={age}", "--count", "5", "--json"))) == list(range(5))


def test_tail_follows_several_rooms_and_patterns(daemon, room):
    for name in ("-a", "-b", ":c"):
        daemon.publish_numbers(room + name, range(2))
    found = lines(cli(daemon, "tail", f"{room}-a", f"{room}:*", "--tail", "2", "--count", "4", "--json"))
    assert sorted(event["room"] for event in found) == [f"{room}-a"] * 2 + [f"{room}:c"] * 2


def test_tail_for_people_shows_room_kind_and_data(daemon, room):
    daemon.publish(room, {"kind": "pressure", "data": {"bar": 4711}})
    shown = ok(cli(daemon, "tail", room, "--tail", "1", "--count", "1")).stdout
    assert room in shown and "pressure" in shown and "4711" in shown


def test_tail_shows_an_event_the_moment_it_comes(daemon, room):
    daemon.publish_numbers(room, [0])
    child = spawn([binary(), "tail", room, "--tail", "1", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                  stderr=subprocess.PIPE, env=environment({"URL": daemon.url, "TOKEN": daemon.key}), cwd=daemon.directory)
    out, err = Lines(child.stdout), Lines(child.stderr)
    assert out.wait_for('"n": 0', 10), err.text()
    daemon.publish_numbers(room, [1])
    assert out.wait_for('"n": 1', 10), f"not shown while it runs:\n{out.text()}{err.text()}"
    kill(child)


def test_tail_in_a_pipe_that_closes_ends_quietly(daemon, room):
    daemon.publish_numbers(room, range(500))
    child = spawn(["bash", "-c", '"$0" "$@" | head -n 1', binary(), "tail", room, "--tail", "500", "--count", "500", "--json"],
                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                  env=environment({"URL": daemon.url, "TOKEN": daemon.key}), cwd=daemon.directory)
    out, err = child.communicate(timeout=20)
    assert len(out.splitlines()) == 1 and b"panicked" not in err, err.decode()


@pytest.mark.parametrize("command", [("publish", "x", "--kind", "k", "--data", "1"), ("tail", "x", "--count", "1")], ids=lambda command: command[0])
class TestErrors:
    """Errors that `publish` and `tail` share."""

    def test_a_daemon_that_is_not_there_is_named(self, daemon, command):
        daemon.kill9()
        failed(cli(daemon, *command), daemon.address)

    def test_a_wrong_token_is_said(self, daemon, command):
        result = cli(daemon, *command, TOKEN="wrong-token-4711")
        failed(result)
        assert any(word in result.stderr.lower() for word in ("401", "token", "credential", "unauthorized")), result
        assert "wrong-token-4711" not in result.stderr

    def test_no_token_is_said(self, daemon, command):
        failed(cli(daemon, *command, TOKEN=None), "token")

    def test_a_wrong_address_is_said(self, daemon, command):
        failed(cli(daemon, *command, URL="nonsense"), "nonsense", codes=(1, 2))

    def test_a_wrong_room_is_said(self, daemon, command):
        failed(cli(daemon, command[0], "a b", *command[2:]), "a b")


def test_publish_says_what_is_wrong_with_its_data(daemon, room):
    failed(cli(daemon, "publish", room, "--kind", "k", "--data", "{broken"), codes=(1, 2))
    assert daemon.room(room) is None


def test_publish_passes_on_why_the_daemon_refused(daemon, room):
    failed(cli(daemon, "publish", room, "--kind", "k" * 101, "--data", "1"), "kind")
    assert daemon.room(room) is None


def test_publish_from_stdin_says_which_line_is_wrong(daemon, room):
    failed(cli(daemon, "publish", room, "--stdin", stdin='{"kind":"k","data":1}\n{"kind":1,"data":1}\n'), "kind")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_printed(tmp_path, shell):
    result = ok(run(["completions", shell], {}, tmp_path))
    assert "tidegate" in result.stdout and "publish" in result.stdout
    if shell == "bash":
        check = subprocess.run(["bash", "-n"], input=result.stdout, text=True, capture_output=True, timeout=10)
        assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["publish"], ["tail"], ["completions"]], ids=lambda command: (command or ["tidegate"])[0])
def test_every_command_explains_itself(tmp_path, command):
    result = ok(run([*command, "--help"], {}, tmp_path))
    assert "Usage" in result.stdout and len(result.stdout.splitlines()) > 3
    for word in {"publish": ["--kind", "--data", "--stdin", "--server", "--token"], "serve": ["--config"],
                 "tail": ["--after", "--tail", "--since", "--count", "--json"]}.get(" ".join(command), []):
        assert word in result.stdout, f"{word} is not explained\n{result.stdout}"


def test_the_version_is_printed(tmp_path):
    assert any(character.isdigit() for character in ok(run(["--version"], {}, tmp_path)).stdout)


def test_an_unknown_command_is_named(tmp_path):
    result = run(["dance"], {}, tmp_path)
    assert result.code == 2 and "dance" in result.stderr, result
