"""Pipelines from outside: a file that is wrong is told with its place before anything runs, events come out where and as the file says,
and what cannot be worked on is neither lost nor in the way.

Reloads are in test_pipelines_reload.py, rooms' states in test_state.py, crashes in test_exactly_once.py.
"""

import re
import time

import pytest

from harness import pipelines
from harness.api import problem, seqs
from harness.pipelines import ADMIN, came, listed, working, write
from harness.process import eventually
from harness.tokens import mint

GOOD = '[pipeline]\nfrom = "in"\n[[output]]\nroom = "out"\n'
PLACE = re.compile(r"^(?:tidegate: )?(\S.*?):(\d+):(\d+): (.+)$")


def piped(frm, *outputs, more=""):
    """A pipeline's file: from a room or pattern to rooms."""
    return f'[pipeline]\nfrom = "{frm}"\n{more}\n' + "".join(f'[[output]]\nroom = "{room}"\n' for room in outputs)


@pytest.fixture
def start(start_daemon):
    """Starts a daemon with these pipelines."""
    def begin(settings=None, **texts):
        daemon = start_daemon(started=False, **pipelines.SETTINGS, **(settings or {}))
        write(daemon, **texts)
        return working(daemon.start())

    return begin


@pytest.fixture
def check(start_daemon):
    """Runs `tidegate check` on pipelines, which must be refused; the faults as (file, line, column, message)."""
    def run(raw=None, settings=None, **texts):
        daemon = start_daemon(started=False)
        write(daemon, **texts)
        for name, content in (raw or {}).items():
            (daemon.directory / "config" / "pipelines" / name).write_bytes(content)
        result = daemon.run("check", **(settings or {}))
        assert result.code == 2 and result.stdout == "", result
        found = [PLACE.match(line) for line in result.stderr.splitlines()]
        assert found and all(found), f"every line is FILE:LINE:COLUMN: message\n{result}"
        return [(match[1], int(match[2]), int(match[3]), match[4]) for match in found]

    return run


def one(daemon, name="p"):
    return listed(daemon)[name]


# What is wrong in a file. § is where it must be told, and the words are what must be said.
FAULTS = {
    "unknown-in-the-head": ('[pipeline]\nfrom = "in"\n§stat = "now"\n[[output]]\nroom = "out"\n', "stat", "did you mean start?"),
    "unknown-in-a-step": (GOOD + '[[step]]\nop = "filter"\nwhere = "true"\n  §wher = "true"\n', "wher", "did you mean where?"),
    "unknown-in-an-output": (GOOD + '§knd = "k"\n', "knd", "did you mean kind?"),
    "unknown-and-like-nothing": (GOOD + '§colour = "red"\n', "colour", "there are:", "kind"),
    "unknown-table": (GOOD + "[§surplus]\n", "surplus"),
    "not-text": ('[pipeline]\nfrom = "in"\n[[step]]\nop = "filter"\nwhere =   §7\n[[output]]\nroom = "out"\n', "where", "text"),
    "not-rooms": ('[pipeline]\nfrom = §5\n[[output]]\nroom = "out"\n', "from", "text"),
    "not-a-flag": (GOOD + 'state = §"yes"\n', "state", "true or false"),
    "not-a-time": ('[pipeline]\nfrom = "in"\nreport_every = §60\n[[output]]\nroom = "out"\n', "report_every", '"10s"'),
    "not-a-count": (GOOD + "state = true\nstate_keys_max = §0\n", "state_keys_max", "whole number"),
    "not-a-priority": (GOOD + 'priority = §"urgent"\n', "priority", "critical, high, normal or low"),
    "not-one-of-the-words": ('[pipeline]\nfrom = "in"\nstart = §"then"\n[[output]]\nroom = "out"\n', "start", "now, beginning"),
    "not-a-source": ('[pipeline]\nfrom = "in"\nsources = §["hosts"]\n[[output]]\nroom = "out"\n', "hosts", "host"),
    "no-such-operator": (GOOD + '[[step]]\nop = §"tresholds"\n', "tresholds", "threshold", "filter"),
    "no-such-operator-and-so-nothing-about-its-settings": (GOOD + '[[step]]\nop = §"tresholds"\nfield = "x"\nabove = 1\n', "tresholds"),
    "not-a-source-and-so-nothing-about-rooms": ('[pipeline]\nsources = §["hosts"]\n[[output]]\nroom = "out"\n', "hosts"),
    "no-operator": (GOOD + "# a step\n§[[step]]\n", "op", "missing"),
    "expression-that-does-not-end": (GOOD + '[[step]]\nop = "filter"\nwhere = §"data.x >"\n', "where"),
    "expression-of-nothing-known": (GOOD + '[[step]]\nop = "filter"\nwhere = §"datum.x > 1"\n', "where", "datum"),
    "expression-of-an-output": (GOOD + 'where = §"(data.x"\n', "where"),
    "template-with-an-open-brace": (piped("in", "out:{x").replace('"out', '§"out'), "room", "brace"),
    "template-of-nothing": (piped("in", "out:{}").replace('"out', '§"out'), "room"),
    "template-of-a-key": (GOOD + 'key = §"{a..b}"\n', "key"),
    "room-that-cannot-be": (piped("in", "a b").replace('"a b', '§"a b'), "room", "' '"),
    "room-whose-beginning-cannot-be": (piped("in", "a b:{x}").replace('"a b', '§"a b'), "room", "' '"),
    "dead-letters-nowhere": ('[pipeline]\nfrom = "in"\ndead_letter = §"a b"\n[[output]]\nroom = "out"\n', "dead_letter"),
    "pattern-that-cannot-be": ('[pipeline]\nfrom = §["in", "a*b"]\n[[output]]\nroom = "out"\n', "from", "a*b"),
    "no-head": ('§# nothing\n[[output]]\nroom = "out"\n', "[pipeline]"),
    "no-rooms": ('# a pipeline\n§[pipeline]\n[[output]]\nroom = "out"\n', "from", "missing"),
    "no-rooms-in-the-list": ('[pipeline]\nfrom = §[]\n[[output]]\nroom = "out"\n', "from"),
    "no-output": ('§[pipeline]\nfrom = "in"\n', "[[output]]"),
    "no-room-for-an-output": (GOOD + '# more\n§[[output]]\nkind = "k"\n', "room", "missing"),
    "one-output-instead-of-a-list": ('[pipeline]\nfrom = "in"\n§[output]\nroom = "out"\n', "[[output]]"),
    "settings-that-contradict": (GOOD + '[[step]]\nop = "threshold"\nfield = "x"\nabove = §1\nbelow = 2\n', "above", "below"),
    "no-toml": ('[pipeline]\nfrom = §\n[[output]]\nroom = "out"\n',),
    "letters-are-counted-not-bytes": (GOOD + '[[step]]\nop = "route"\nto = [{ where = "kind == \'öé\'", room = "x", §knd = "y" }]\n', "knd", "kind"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_place_and_in_words_one_can_act_on(check, fault):
    text, *words = FAULTS[fault]
    before = text[:text.index("§")]
    place = (before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
    [(file, line, column, message)] = check(p=text.replace("§", ""))
    assert file.endswith("config/pipelines/p.toml")
    assert (line, column) == place, f"line {line}, column {column}: {message}"
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


def test_all_faults_of_all_files_are_told_at_once(check):
    faults = check({"u.toml": b"\xff\xfe"}, a=GOOD + 'knd = 1\npriority = 2\n[[step]]\nop = "x"\n[[step]]\n', b="", c="[pipeline]\nfrom = \n",
                   d=piped("x", "x"), e=piped("out:s", "{kind}"))
    by_file = {}
    for file, line, column, _ in faults:
        by_file.setdefault(file.rsplit("/", 1)[1][0], []).append((line, column))
    assert {name: len(found) for name, found in by_file.items()} == {"a": 4, "b": 1, "c": 1, "d": 1, "e": 1, "u": 1}, faults
    assert by_file["a"] == sorted(by_file["a"]), "in the order of the text"


@pytest.mark.parametrize("name", ["a b", "a.b", "pümpe", "x" * 61, ""])
def test_a_file_whose_name_cannot_be_a_pipelines_is_a_fault(check, name):
    [(file, _, _, message)] = check(**{name: GOOD})
    assert file.endswith(f"/{name}.toml") and "name" in message


def test_a_directory_that_is_named_and_not_there_is_a_fault(check, start_daemon):
    [(file, _, _, message)] = check(settings={"PIPELINES__DIR": "elsewhere"})
    assert "elsewhere" in file and "pipelines.dir" in message
    daemon = start_daemon(started=False)
    assert daemon.run("check").code == 0, "the one that nobody named may be missing"
    assert daemon.run("check", PIPELINES__DIR="").code == 0, "there may be none at all"


def test_check_names_the_pipelines_that_would_run(start_daemon):
    daemon = start_daemon(started=False)
    assert "pipelines: none" in daemon.run("check").stdout
    write(daemon, b=GOOD, **{"a-1": GOOD, "z" * 60: GOOD, "off": GOOD.replace("[[", "enabled = false\n[["), "a-1.test": "no pipeline"})
    (daemon.directory / "config" / "pipelines" / "README.md").write_text("no pipeline either")
    result = daemon.run("check")
    assert result.code == 0 and f"pipelines: a-1, b, {'z' * 60}\n" in result.stdout, result


def test_those_in_the_program_run_unless_a_file_takes_their_place(start_daemon):
    daemon = start_daemon(started=False, PIPELINES__BUILTIN=None)
    names = re.search(r"pipelines: (.*)", daemon.run("check").stdout)[1].split(", ")
    assert "host_alarms" in names
    write(daemon, host_alarms=GOOD.replace("[[", "enabled = false\n[["))
    assert f"pipelines: {', '.join(name for name in names if name != 'host_alarms')}\n" in daemon.run("check").stdout
    assert "pipelines: none" in daemon.run("check", PIPELINES__BUILTIN="false").stdout


DEAD = 'dead_letter = "{}"'
LOOPS = {
    "one": {"a": piped("x", "x")},
    "one-by-a-pattern": {"a": piped("x:*", "x:{kind}")},
    "one-by-a-name-made-of-anything": {"a": piped("x", "{kind}")},
    "one-by-its-dead-letters": {"a": piped("x", "y", more=DEAD.format("x"))},
    "one-by-everybodys-dead-letters": {"a": piped("dead-letter:*", "y")},
    "one-by-a-route": {"a": piped("x:*", "y", more='[[step]]\nop = "route"\nto = [{ room = "x:{kind}" }]')},
    "one-by-a-room-it-looks-into": {"a": piped("x", "names", more='[[step]]\nop = "join"\nwith = "names"\non = "key"\nas = "found"')},
    "two": {"a": piped("x", "y"), "b": piped("y", "x")},
    "two-by-patterns": {"a": piped("x:*", "y:{kind}"), "b": piped("y:1", "z", "x:{kind}:more")},
    "two-by-dead-letters": {"a": piped("x", "y"), "b": piped("y", "z", more=DEAD.format("x"))},
    "three": {"a": piped("x", "y"), "b": piped("y", "z"), "c": piped("z", "x")},
    "three-by-patterns-and-dead-letters": {"a": piped("x:*", "y:{kind}"), "b": piped("y:a:*", "q"), "c": piped("dead-letter:b", "x:c")},
}


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelines_that_feed_themselves_are_refused_and_the_loop_is_told_once(check, loop):
    [(file, _, _, message)] = check(beside=piped("beside", "elsewhere"), **LOOPS[loop])
    assert file.rsplit("/", 1)[1].removesuffix(".toml") in LOOPS[loop]
    for name in LOOPS[loop]:
        assert f"pipeline {name}" in message, message
    assert "beside" not in message


def test_what_is_no_loop_is_none(start_daemon):
    daemon = start_daemon(started=False)
    write(daemon, a=piped("x:*", "y:{kind}", "xx"), b=piped("y:*", "z"), c=piped("z", "w", more=DEAD.format("")), d=piped("dead-letter:a", "q"),
          off=piped("w", "x:1", more="enabled = false"))
    result = daemon.run("check")
    assert result.code == 0, result


KEEPS = "state = true\n"
KEEPERS = {
    "by-name": (piped("x", "t") + KEEPS, piped("y", "t") + KEEPS, "t"),
    "by-pattern": (piped("x", "t:{kind}") + KEEPS, piped("y", "t:1") + KEEPS, "t:"),
    "by-a-route": (piped("x", "t:{kind}") + KEEPS, piped("y", "u", more='[[step]]\nop = "route"\nto = [{ room = "t:{key}", state = true }]'), "t:"),
}


@pytest.mark.parametrize("keepers", KEEPERS)
def test_a_state_has_one_keeper(check, keepers):
    one_keeper, other, room = KEEPERS[keepers]
    [(file, _, _, message)] = check(a=one_keeper, b=other)
    assert file.endswith("/b.toml") and room in message and "pipeline a" in message


def test_others_may_send_to_a_room_whose_state_is_kept(start_daemon):
    daemon = start_daemon(started=False)
    write(daemon, a=piped("x", "t") + KEEPS, b=piped("y", "t"))
    assert daemon.run("check").code == 0


def test_the_daemon_does_not_start_with_a_pipeline_that_is_wrong(start_daemon):
    daemon = start_daemon(started=False)
    write(daemon, a=GOOD + "knd = 1\n", b="")
    result = daemon.run("serve")
    assert result.code == 2, result
    assert "a.toml:5:1: " in result.stderr and "b.toml:1:1: " in result.stderr and "listening" not in result.stderr
    assert not daemon.log_dir.exists(), "nothing is touched"
    write(daemon, a=GOOD, b=None)
    daemon.start()


def test_whoever_hears_that_the_daemon_listens_may_publish_at_once(start_daemon):
    for _ in range(10):
        daemon = start_daemon(started=False, **pipelines.SETTINGS)
        write(daemon, **{f"p{n}": piped("in", f"out:{n}") for n in range(5)})
        daemon.start().publish_numbers("in", [1])
        for n in range(5):
            came(daemon, f"out:{n}", 1, timeout=5)
        daemon.stop()


def test_an_event_comes_out_as_it_came_in_where_nothing_is_said(start):
    daemon = start(p=GOOD)
    data = '{"b":1,"a":[null,{"c":12345678901234567890}],"d":1.50,"é":"\\u00e9\\n"}'
    daemon.post_events("in", f'{{"kind":"k","key":"pump 7","priority":"high","timestamp":"2026-03-01T02:03:04.567Z","data":{data}}}')
    daemon.publish("in", {"kind": "plain", "data": None})
    first, second = came(daemon, "out", 2)
    source = daemon.history("in")["events"]
    for event, origin in zip((first, second), source):
        same = ("type", "kind", "priority", "timestamp", "data")
        assert [event[name] for name in same] == [origin[name] for name in same]
        assert event.get("key") == origin.get("key")
    assert first["timestamp"] == "2026-03-01T02:03:04.567Z"


def test_an_output_may_give_another_room_kind_key_and_priority_made_of_the_event(start):
    daemon = start(p='[pipeline]\nfrom = "in:*"\n[[output]]\nroom = "out:{site}/{kind}"\nkind = "{{{kind}}} of {room}"\nkey = "{a.b}-{n}"\npriority = "critical"\n')
    daemon.publish("in:x", {"kind": "temp", "key": "k", "data": {"site": "north", "a": {"b": True}, "n": 1.5}})
    [event] = came(daemon, "out:north/temp", 1)
    assert (event["kind"], event["key"], event["priority"]) == ("{temp} of in:x", "true-1.5", "critical")


def test_an_event_goes_to_every_output_whose_condition_it_fulfils(start):
    outputs = [("high", "data.x > 10"), ("low", "data.x <= 10"), ("even", "int(data.x) % 2 == 0"), ("all", "true")]
    daemon = start(p='[pipeline]\nfrom = "in"\n' + "".join(f'[[output]]\nroom = "{room}"\nwhere = "{where}"\n' for room, where in outputs))
    daemon.publish("in", [{"kind": "k", "data": {"x": x}} for x in (5, 10, 11, 12)])
    values = {room: [event["data"]["x"] for event in came(daemon, room, count)] for room, count in [("high", 2), ("low", 2), ("even", 2), ("all", 4)]}
    assert values == {"high": [11, 12], "low": [5, 10], "even": [10, 12], "all": [5, 10, 11, 12]}


def test_an_output_that_cannot_be_decided_is_a_dead_letter_and_the_others_go_on(start):
    daemon = start(p='[pipeline]\nfrom = "in"\n[[output]]\nroom = "high"\nwhere = "data.x > 10"\n[[output]]\nroom = "all"\n')
    daemon.publish("in", [{"kind": "k", "data": {}}, {"kind": "k", "data": {"x": 11}}])
    assert [event["data"] for event in came(daemon, "all", 2)] == [{}, {"x": 11}]
    assert [event["data"]["field"] for event in came(daemon, "dead-letter:p", 1)] == ["data.x"]
    assert [event["data"] for event in came(daemon, "high", 1)] == [{"x": 11}]


def test_events_of_a_room_come_out_in_their_order(start):
    daemon = start(p=piped("in:*", "out"))
    for n in range(20):
        daemon.publish_numbers(f"in:{n % 3}", range(n * 100, n * 100 + 100))
    found = came(daemon, "out", 2000)
    for room in range(3):
        expected = [n for n in range(2000) if n // 100 % 3 == room]
        assert [event["data"]["n"] for event in found if event["data"]["n"] // 100 % 3 == room] == expected


def test_a_pattern_means_rooms_made_later_too_from_their_first_event(start):
    daemon = start(p=piped("in:*", "out"))
    daemon.publish_numbers("in:a", range(2))
    daemon.publish_numbers("not-in:a", range(5))
    came(daemon, "out", 2)
    daemon.publish_numbers("in:b", range(3))
    assert [event["data"]["n"] for event in came(daemon, "out", 5)] == [0, 1, 0, 1, 2]


def test_a_pipeline_works_on_anothers_output(start):
    step = '[[step]]\nop = "map"\nset = {{ {0} = "data.n + {1}" }}\n'
    daemon = start(z=piped("in", "mid", more=step.format("a", 1)), a=piped("mid", "out", more=step.format("b", 2)))
    daemon.publish_numbers("in", range(100))
    assert [event["data"] for event in came(daemon, "out", 100)] == [{"n": n, "a": n + 1, "b": n + 2} for n in range(100)]


def test_a_pipeline_may_take_all_that_the_host_says(start):
    daemon = start({"SOURCES__HOST__ENABLED": "true", "SOURCES__HOST__INTERVAL": "100ms"},
                   p='[pipeline]\nsources = ["host"]\n[[output]]\nroom = "seen:{room}"\n')
    eventually(lambda: daemon.room("seen:host:cpu") and daemon.room("seen:host:memory"), "the host's rooms", timeout=20)
    assert daemon.history("seen:host:cpu")["events"][0]["kind"] == daemon.history("host:cpu", after=0)["events"][0]["kind"]


@pytest.mark.parametrize("begin", ["now", "beginning"])
def test_a_pipeline_begins_with_what_comes_or_with_what_is_there_but_only_once(start, start_daemon, begin):
    daemon = start_daemon(**pipelines.SETTINGS)
    daemon.publish_numbers("in", range(3))
    write(daemon, p=piped("in", "out", more=f'start = "{begin}"'))
    working(daemon.restart())
    daemon.publish_numbers("in", range(3, 5))
    expected = [3, 4] if begin == "now" else [0, 1, 2, 3, 4]
    assert [event["data"]["n"] for event in came(daemon, "out", len(expected))] == expected
    daemon.restart()
    daemon.publish_numbers("in", range(5, 6))
    assert [event["data"]["n"] for event in came(daemon, "out", len(expected) + 1)] == [*expected, 5]


def test_what_is_published_while_the_daemon_stands_by_without_its_pipelines_is_worked_on_later(start):
    daemon = start(p=piped("in", "out"))
    daemon.publish_numbers("in", range(2))
    came(daemon, "out", 2)
    daemon.terminate()
    write(daemon, p=None)
    daemon.start()
    daemon.publish_numbers("in", range(2, 4))
    write(daemon, p=piped("in", "out"))
    daemon.restart()
    assert [event["data"]["n"] for event in came(daemon, "out", 4)] == [0, 1, 2, 3]


FILTER = '[[step]]\nop = "filter"\nwhere = "data.x > 0.0"\n'


def test_what_cannot_be_worked_on_is_a_dead_letter_that_says_why_and_holds_the_event(start):
    daemon = start(p=piped("in", "out", more='[[step]]\nop = "map"\nkeep = ["x"]\n' + FILTER))
    daemon.publish("in", {"kind": "k", "key": "w7", "priority": "high", "timestamp": 1_700_000_000_123, "data": {"y": 1, "x": "much"}})
    [letter] = came(daemon, "dead-letter:p", 1)
    [event] = daemon.history("in")["events"]
    assert (letter["kind"], letter["key"], letter["timestamp"]) == ("k", "w7", event["timestamp"])
    message = letter["data"].pop("message")
    assert "data.x" in message and "number" in message and "text" in message
    # The event as it came to the step that could not work on it.
    held = {name: event[name] for name in ("room", "seq", "kind", "key", "priority", "timestamp")}
    assert letter["data"] == {"pipeline": "p", "step": 2, "op": "filter", "field": "data.x", "reason": "type",
                              "event": {**held, "data": {"x": "much"}}}


@pytest.mark.parametrize("setting, room", [("", "dead-letter:p"), (DEAD.format("bad:ones"), "bad:ones"), (DEAD.format(""), None)])
def test_dead_letters_go_where_the_file_says_or_nowhere(start, setting, room):
    daemon = start(p=piped("in", "out", more=setting + "\n" + FILTER))
    daemon.publish("in", [{"kind": "k", "data": {}}, {"kind": "k", "data": {"x": 1}}])
    came(daemon, "out", 1)
    assert one(daemon)["rejected"] == 1
    if room:
        came(daemon, room, 1)
    wanted = {"in", "out", room} - {None}
    assert {found["room"] for found in daemon.get("/v1/rooms").json()["rooms"]} == wanted


def test_the_pipeline_goes_on_past_what_it_cannot_work_on(start):
    daemon = start(p=piped("in", "out", more=FILTER))
    wrong = [{}, {"x": "text"}, {"x": None}, [1], "text", 7, None, {"x": {"y": 1}}, {"x": [1]}, {"x": True}]
    daemon.publish("in", [{"kind": "k", "data": data} for n in range(50) for data in (*wrong, {"x": n + 1})])
    assert [event["data"]["x"] for event in came(daemon, "out", 50)] == list(range(1, 51))
    letters = came(daemon, "dead-letter:p", 50 * len(wrong))
    assert [letter["data"]["event"]["data"] for letter in letters[:len(wrong)]] == wrong
    found = one(daemon)
    assert (found["events_in"], found["events_out"], found["rejected"], found["works"]) == (550, 550, 500, True)


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 300, "a*", "\n"])
def test_a_room_that_cannot_be_is_a_dead_letter(start, name):
    daemon = start(p=piped("in", "out:{x}"))
    daemon.publish("in", [{"kind": "k", "data": {"x": name}}, {"kind": "k", "data": {"x": "good"}}])
    [letter] = came(daemon, "dead-letter:p", 1)
    assert letter["data"]["event"]["data"] == {"x": name}
    assert (letter["data"]["step"], letter["data"]["op"], letter["data"]["field"], letter["data"]["reason"]) == (1, "output", "room", "invalid")
    came(daemon, "out:good", 1)


@pytest.mark.parametrize("data, reason", [({}, "missing"), ({"x": None}, "type"), ({"x": ["a"]}, "type"), ({"x": {}}, "type")])
def test_an_event_without_what_a_template_needs_is_a_dead_letter_of_that_output_only(start, data, reason):
    daemon = start(p=piped("in", "out:{x}", "all"))
    daemon.publish("in", [{"kind": "k", "data": data}, {"kind": "k", "data": {"x": 7}}])
    [letter] = came(daemon, "dead-letter:p", 1)
    assert (letter["data"]["field"], letter["data"]["reason"], letter["data"]["event"]["key"]) == ("data.x", reason, None)
    came(daemon, "all", 2)
    came(daemon, "out:7", 1)


def test_a_key_too_many_is_a_dead_letter_and_those_that_are_known_go_on(start):
    daemon = start(p=piped("in", "out", more='[[step]]\nop = "dedupe"\nwithin = "1h"\nmode = "changes"\nfield = "x"\nkeys_max = 2\n'))
    daemon.publish("in", [{"kind": "k", "key": key, "data": {"x": n}} for n, key in enumerate("abcab")])
    assert [event["key"] for event in came(daemon, "out", 4)] == list("abab")
    assert [letter["data"]["reason"] for letter in came(daemon, "dead-letter:p", 1)] == ["too_many_keys"]


@pytest.mark.parametrize("setting, value", [("kind", ""), ("kind", "k" * 101), ("kind", "a\nb"), ("key", "k" * 201), ("key", "a\nb"), ("key", "\0")])
def test_a_kind_or_key_that_cannot_be_is_a_dead_letter(start, setting, value):
    daemon = start(p=piped("in", "out") + f'{setting} = "{{x}}"\n')
    daemon.publish("in", [{"kind": "k", "data": {"x": value}}, {"kind": "k", "data": {"x": "good"}}])
    [letter] = came(daemon, "dead-letter:p", 1)
    assert letter["data"]["field"] == setting
    assert came(daemon, "out", 1)[0][setting] == "good"


def test_a_dead_letter_of_an_event_as_large_as_may_be_is_one_too(start):
    daemon = start(p=piped("in", "out", more=FILTER))
    daemon.publish("in", {"kind": "k", "data": {"pad": "x" * 99_000}})
    [letter] = came(daemon, "dead-letter:p", 1)
    assert letter["data"]["event"]["data"]["pad"] == "x" * 99_000


REPORT = r"cannot be worked on.*reason=\"{}\".*count=(\d+)"


def counts(daemon, reason="missing"):
    return [int(count) for count in re.findall(REPORT.format(reason), daemon.log_text())]


def test_dead_letters_are_told_in_the_log_at_once_with_an_example_and_then_once_in_a_while(start):
    daemon = start(p=piped("in", "out", more='report_every = "2s"\n' + FILTER))
    seq = daemon.publish("in", {"kind": "k", "data": {}})["first_seq"]
    assert daemon.stderr.wait_for(REPORT.format("missing"), 5)
    line = next(line for line in daemon.log_text().splitlines() if "cannot be worked on" in line)
    for word in ("WARN", 'pipeline="p"', "(filter)", "data.x", f"in {seq}"):
        assert word in line, f"{word} is not in {line}"
    begun = time.monotonic()
    sent = 0
    while time.monotonic() - begun < 3.5:
        daemon.publish("in", [{"kind": "k", "data": {}}] * 10 + [{"kind": "k", "data": {"x": "much"}}])
        sent += 10
        time.sleep(0.02)
    told = counts(daemon)
    assert told[0] == 1 and 2 <= len(told) <= 4, f"one line in two seconds: {told}"
    assert sum(told) <= sent + 1
    assert 1 <= len(counts(daemon, "type")) <= 3


def test_what_was_not_told_yet_is_told_when_its_time_has_come_though_nothing_more_comes(start):
    daemon = start(p=piped("in", "out", more='report_every = "1s"\n' + FILTER))
    daemon.publish("in", [{"kind": "k", "data": {}}] * 10)
    assert daemon.stderr.wait_for(r"cannot be worked on.*count=9", 10), counts(daemon)


def test_only_admins_see_the_pipelines(start):
    daemon = start(p=GOOD)
    problem(daemon.get("/v1/pipelines", key=None), 401)
    for roles in ([], ["viewer"], ["operator"], ["platform_admin"]):
        problem(daemon.get("/v1/pipelines", key=mint(roles=roles)), 403)
    assert daemon.get("/v1/pipelines", key=mint(roles=["admin"])).status_code == 200
    problem(daemon.get("/v1/pipelines?name=p", key=ADMIN), 400)
    problem(daemon.request("POST", "/v1/pipelines", key=ADMIN, json={}), 405)


def test_the_list_says_how_each_pipeline_is(start):
    daemon = start(b=piped("in", "out", more=FILTER + '[[step]]\nop = "dedupe"\nwithin = "1h"\n'), a=piped("other", "elsewhere"))
    daemon.publish("in", [{"kind": "k", "key": str(n % 7), "data": {"x": n}} for n in range(1, 21)] + [{"kind": "k", "data": {}}])
    came(daemon, "out", 7)
    assert list(listed(daemon)) == ["a", "b"]
    found = eventually(lambda: (now := one(daemon, "b"))["keys"] and now, "the keys are shown")
    assert found["file"].endswith("config/pipelines/b.toml")
    assert found["state_bytes"] > 0 and found["trouble"]["at"] and "data.x" in found["trouble"]["message"]
    assert {name: value for name, value in found.items() if name not in ("file", "state_bytes", "trouble")} == {
        "name": "b", "works": True, "events_in": 21, "events_out": 8, "rejected": 1, "gaps": 0, "keys": 7, "waiting": 0, "behind_ms": 0}
    quiet = one(daemon, "a")
    assert (quiet["works"], quiet["events_in"], quiet["trouble"]) == (True, 0, None)


def test_without_pipelines_the_list_is_empty(start):
    assert listed(start()) == {}


def test_the_metrics_say_the_same(start):
    daemon = start(p=piped("in", "out", more=FILTER))
    daemon.publish("in", [{"kind": "k", "data": {"x": n}} for n in range(1, 11)] + [{"kind": "k", "data": {}}] * 3)
    came(daemon, "dead-letter:p", 3)

    def figures():
        found = dict(re.findall(r'^tidegate_pipeline_(\w+)\{[^}]*pipeline="p"[^}]*\} (\S+)$', daemon.get("/metrics").text, re.M))
        return {name: float(value) for name, value in found.items()}

    expected = {"events_in_total": 13, "events_out_total": 13, "events_rejected_total": 3, "works": 1, "events_waiting": 0, "keys": 0}
    found = eventually(lambda: (now := figures()) and expected.items() <= now.items() and now, f"{expected}", timeout=10)
    assert found["state_bytes"] > 0 and "behind_seconds" in found
    [labels] = re.findall(r"^tidegate_pipeline_events_rejected_total\{(.*)\}", daemon.get("/metrics").text, re.M)
    assert 'reason="missing"' in labels and "filter" in labels


def test_nobody_sees_what_a_pipeline_writes_down_for_itself(start, ws):
    daemon = start(p=GOOD)
    client = ws(daemon, "*", after=0)
    daemon.publish_numbers("in", range(3))
    came(daemon, "out", 3)
    assert {client.event()["room"] for _ in range(6)} == {"in", "out"}
    assert {room["room"] for room in daemon.get("/v1/rooms").json()["rooms"]} == {"in", "out"}


def test_a_pipeline_is_no_subscriber_and_no_connection(start):
    daemon = start(p=GOOD)
    daemon.publish_numbers("in", range(3))
    came(daemon, "out", 3)
    assert daemon.room("in")["subscribers"] == 0
    assert daemon.get("/v1/connections", key=ADMIN).json()["total"] == 0


def test_a_pipeline_that_cannot_keep_up_reads_on_from_the_log_and_misses_nothing(start):
    daemon = start({"PIPELINES__MAILBOX_MESSAGES": 10, "ROOMS__IN__TAIL_EVENTS": 20, "ROOMS__IN__ON_FULL": "displace"}, p=piped("in", "out"))
    for n in range(0, 5000, 500):
        daemon.publish_numbers("in", range(n, n + 500), pad=100)
    found = came(daemon, "out", 5000)
    assert [event["data"]["n"] for event in found] == list(range(5000))
    assert seqs(found) == sorted(seqs(found)) and one(daemon)["gaps"] == 0


def test_dead_letters_are_events_like_others_and_another_pipeline_may_repair_them(start):
    daemon = start(p=piped("in", "out", more=FILTER), again=piped("dead-letter:p", "repaired", more='[[step]]\nop = "map"\nvalue = "data.event.data"\n'))
    daemon.publish("in", {"kind": "k", "data": {"y": 1}})
    assert came(daemon, "repaired", 1)[0]["data"] == {"y": 1}
