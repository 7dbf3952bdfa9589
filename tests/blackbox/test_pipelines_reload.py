"""SIGHUP and pipelines: files are read again, and what changes goes on from the very event at which it was, so that none is lost and
none comes out twice; what did not change keeps what it knows; a fault changes nothing.
"""

import json
import os
import re
import signal
import threading
from contextlib import suppress

import pytest

from harness import pipelines
from harness.load import Publisher
from harness.pipelines import came, listed, state, working, write
from harness.process import eventually

HEAD = '[pipeline]\nfrom = "in"\n'
DELTA = '[[step]]\nop = "delta"\nby = "by"\n'
OUT = '[[output]]\nroom = "out"\n'


def to(room):
    """An output to another room."""
    return OUT.replace('"out"', f'"{room}"')



@pytest.fixture
def start(start_daemon):
    """Starts a daemon with these pipelines."""
    def begin(settings=None, **texts):
        daemon = start_daemon(started=False, **pipelines.SETTINGS, **(settings or {}))
        write(daemon, **texts)
        return working(daemon.start())

    return begin


@pytest.fixture
def publisher():
    """Starts publishers that end with the test."""
    begun = []

    def begin(*arguments, **options):
        begun.append(Publisher(*arguments, **options))
        return begun[-1]

    yield begin
    for one in begun:
        with suppress(Exception):  # whatever is wrong with it was said in the test
            one.stop()


def reload(daemon, **texts):
    """Writes pipelines' files and has them read; returns when all of them work."""
    write(daemon, **texts)
    daemon.reload()
    return working(daemon)


def refused(daemon, says, **texts):
    """The same where it must be refused with these words."""
    write(daemon, **texts)
    return daemon.reload(says=f"settings not reloaded.*{says}")


def numbers(daemon, room="out"):
    return [event["data"]["n"] for event in daemon.all_events(room)] if daemon.room(room) else []


def all_came(daemon, published, room="out"):
    """Waits until the last one published is in the room, and requires all of them there once, in their order."""
    last = max(published)
    eventually(lambda: last in numbers(daemon, room)[-100:], f"{last} comes out in {room}", timeout=20)
    found = numbers(daemon, room)
    assert found == sorted(published), f"twice: {sorted(n for n in set(found) if found.count(n) > 1)}, lost: {sorted(set(published) - set(found))}"


def kinds(daemon, room="out"):
    """The kinds in the order in which they follow each other."""
    found = [event["kind"] for event in daemon.all_events(room)]
    return [kind for at, kind in enumerate(found) if at == 0 or found[at - 1] != kind]


def test_no_event_is_lost_or_doubled_while_an_output_changes_ten_times_under_load(start, publisher):
    texts = [HEAD + OUT + f'kind = "{kind}"\n' for kind in "ab"]
    daemon = start(p=texts[0])
    load = [publisher(daemon, "in", name=str(n)) for n in range(3)]
    for number in range(10):
        load[0].wait_acked(30)
        reload(daemon, p=texts[(number + 1) % 2])
    load[0].wait_acked(10)
    sent = {(one.name, n) for one in load for n in one.stop()}
    found = came(daemon, "out", len(sent))
    assert len({(event["data"]["by"], event["data"]["n"]) for event in found}) == len(found), "none comes twice"
    assert [event["data"] for event in found] == [event["data"] for event in daemon.all_events("in")]
    assert kinds(daemon) == list("ab" * 5 + "a"), "each definition did its part"


def test_reloads_that_come_faster_than_they_are_done_lose_nothing_either(start, publisher):
    daemon = start(p=HEAD + OUT + 'kind = "k0"\n')
    load = publisher(daemon, "in")
    load.wait_acked(20)
    for number in range(1, 31):
        write(daemon, p=HEAD + OUT + f'kind = "k{number}"\n')
        os.kill(daemon.process.pid, signal.SIGHUP)
    load.wait_acked(20)
    reload(daemon)
    load.wait_acked(20)
    all_came(daemon, load.stop())
    order = [int(kind[1:]) for kind in kinds(daemon)]
    assert order == sorted(set(order)) and order[-1] == 30, order


def test_a_step_whose_settings_are_the_same_keeps_what_it_knows(start):
    daemon = start(p=HEAD + DELTA + OUT)
    daemon.publish_numbers("in", range(3), kind="k")
    for number, text in enumerate([
            HEAD + DELTA + OUT + 'kind = "other"\n',
            HEAD + DELTA + '[[step]]\nop = "filter"\nwhere = "true"\n' + OUT,
            "# other words\n" + HEAD + '[[step]] # a step\n  by   = "by"\n  op="delta"\n' + OUT]):
        daemon.publish("in", {"kind": "k", "data": {"n": 0, "by": "x", "a": number}})
        came(daemon, "out", number + 1)
        reload(daemon, p=text)
    daemon.publish("in", {"kind": "k", "data": {"n": 0, "by": "x", "a": 9}})
    found = [event["data"] for event in came(daemon, "out", 4)]
    assert [list(data) for data in found] == [["full"], ["patch"], ["patch"], ["patch"]]
    assert found[-1] == {"patch": {"a": 9}}


def test_a_step_whose_settings_change_begins_anew_and_the_others_do_not(start):
    batch = '[[step]]\nop = "batch"\nby = "room"\ncount = {}\nitems = "data"\n'
    daemon = start(p=HEAD + DELTA + batch.format(10) + OUT)
    publish = lambda values: daemon.publish("in", [{"kind": "k", "data": {"by": "x", "a": value}} for value in values])
    publish(range(3))
    eventually(lambda: listed(daemon)["p"]["events_in"] == 3, "all are worked on")
    reload(daemon, p=HEAD + DELTA + batch.format(2) + OUT)
    publish([3, 4])
    assert [event["data"]["events"] for event in came(daemon, "out", 1)] == [[{"patch": {"a": 3}}, {"patch": {"a": 4}}]]
    assert "begin anew" in daemon.log_text()


def test_a_rooms_state_stays_when_its_pipeline_changes(start):
    text = HEAD + '[[output]]\nroom = "table"\nstate = true\n'
    daemon = start(p=text)
    daemon.publish("in", [{"kind": "k", "key": key, "data": {"v": key}} for key in "abc"])
    came(daemon, "table", 3)
    reload(daemon, p=text + 'priority = "high"\n')
    assert state(daemon, "table")["data"] == {key: {"v": key} for key in "abc"}
    daemon.publish("in", [{"kind": "k", "key": "b", "data": {"v": "b"}}, {"kind": "k", "key": "c", "data": {"v": 1}}])
    assert came(daemon, "table", 4)[-1]["data"] == {"c": {"v": 1}}, "what changed nothing is told by nobody"
    assert state(daemon, "table")["data"] == {"a": {"v": "a"}, "b": {"v": "b"}, "c": {"v": 1}}


def test_a_new_file_starts_and_begins_with_what_comes(start):
    daemon = start()
    daemon.publish_numbers("in", range(3))
    reload(daemon, p=HEAD + OUT)
    daemon.publish_numbers("in", range(3, 6))
    assert [event["data"]["n"] for event in came(daemon, "out", 3)] == [3, 4, 5]


def test_a_new_file_may_begin_with_what_is_there_while_more_comes(start, publisher):
    daemon = start()
    load = publisher(daemon, "in")
    load.wait_acked(50)
    reload(daemon, p=HEAD + 'start = "beginning"\n' + OUT)
    load.wait_acked(50)
    all_came(daemon, load.stop())


@pytest.mark.parametrize("way", ["the-file-goes", "enabled-false"])
def test_a_pipeline_that_was_taken_away_ends_and_comes_back_where_it_ended(start, publisher, way):
    text = HEAD + DELTA.replace('"by"', '"room"') + OUT
    daemon = start(p=text, other=HEAD + to("out2"))
    load = publisher(daemon, "in")
    for _ in range(3):
        load.wait_acked(10)
        reload(daemon, p=None if way == "the-file-goes" else text.replace("[[step", "enabled = false\n[[step"))
        assert list(listed(daemon)) == ["other"]
        ended = len(daemon.all_events("out"))
        load.wait_acked(10)
        assert len(daemon.all_events("out")) == ended, "it works no more"
        reload(daemon, p=text)
    load.wait_acked(10)
    sent = sorted(load.stop())
    found = [event["data"] for event in came(daemon, "out", len(sent))]
    assert list(found[0]) == ["full"] and found[1:] == [{"patch": {"n": n}} for n in sent[1:]], "it knew what it had known"
    all_came(daemon, sent, "out2")


def test_a_pipeline_that_goes_and_comes_back_at_once_while_the_disk_is_busy_does_not_do_its_last_events_twice(start):
    daemon = start(p=HEAD + OUT)
    stop, sent = threading.Event(), []

    def publish():
        with daemon.session.__class__() as session:
            while not stop.is_set():
                daemon.publish_numbers("in", [len(sent)], session=session, ack="memory")
                sent.append(len(sent))

    body = json.dumps([{"kind": "k", "data": os.urandom(15_000).hex()} for _ in range(20)])

    def keep_the_disk_busy():
        with daemon.session.__class__() as session:
            while not stop.is_set():
                daemon.post_events("busy", body, session=session, ack="synced")

    threads = [threading.Thread(target=target, daemon=True) for target in (publish, *[keep_the_disk_busy] * 4)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        write(daemon, p=None)
        daemon.reload()
        write(daemon, p=HEAD + OUT)
        daemon.reload()
    stop.set()
    for thread in threads:
        thread.join(20)
    all_came(daemon, sent)


def test_a_restart_between_does_not_matter(start, publisher):
    daemon = start(p=HEAD + OUT)
    daemon.publish_numbers("in", range(5))
    came(daemon, "out", 5)
    reload(daemon, p=None)
    daemon.publish_numbers("in", range(5, 10))
    daemon.restart()
    daemon.publish_numbers("in", range(10, 15))
    reload(daemon, p=HEAD + OUT)
    assert [event["data"]["n"] for event in came(daemon, "out", 15)] == list(range(15))


def test_a_definition_that_changed_while_the_daemon_was_down_goes_on_where_the_old_one_was(start):
    daemon = start(p=HEAD + DELTA + OUT + 'kind = "a"\n')
    publish = lambda values: daemon.publish("in", [{"kind": "k", "data": {"by": "x", "a": value}} for value in values])
    publish(range(3))
    came(daemon, "out", 3)
    for down in (daemon.terminate, daemon.kill9):
        down()
        write(daemon, p=HEAD + DELTA + OUT + 'kind = "b"\n')
        daemon.start()
    publish([3])
    found = came(daemon, "out", 4)
    assert [event["kind"] for event in found] == ["a", "a", "a", "b"] and found[-1]["data"] == {"patch": {"a": 3}}


def test_rooms_that_are_added_begin_with_what_comes_and_the_others_go_on(start, publisher):
    daemon = start(p=HEAD + OUT)
    daemon.publish_numbers("more:1", range(1000, 1003))
    load = publisher(daemon, "in")
    load.wait_acked(20)
    reload(daemon, p='[pipeline]\nfrom = ["in", "more:*"]\n' + OUT)
    daemon.publish_numbers("more:1", range(1003, 1005))
    daemon.publish_numbers("more:2", range(2000, 2002))
    load.wait_acked(20)
    reload(daemon, p=HEAD + OUT)
    daemon.publish_numbers("more:1", range(3000, 3005))
    load.wait_acked(20)
    sent = sorted(load.stop())
    found = [event["data"]["n"] for event in came(daemon, "out", len(sent) + 4) if "by" not in event["data"]]
    assert sorted(found) == [1003, 1004, 2000, 2001]
    assert [event["data"]["n"] for event in daemon.all_events("out") if "by" in event["data"]] == sent


def test_rooms_that_are_added_begin_with_what_is_there_where_the_file_says_so(start):
    daemon = start(p=HEAD + 'start = "beginning"\n' + OUT)
    daemon.publish_numbers("more", range(3))
    daemon.publish_numbers("in", range(10, 13))
    came(daemon, "out", 3)
    reload(daemon, p='[pipeline]\nfrom = ["in", "more"]\nstart = "beginning"\n' + OUT)
    assert sorted(event["data"]["n"] for event in came(daemon, "out", 6)) == [0, 1, 2, 10, 11, 12]


def test_what_was_not_held_long_enough_for_one_that_comes_back_is_told(start):
    daemon = start({"ROOMS__DEFAULT__RETENTION_COUNT": 20, "ROOMS__DEFAULT__TAIL_EVENTS": 20, "ROOMS__OUT__RETENTION_COUNT": 1000}, p=HEAD + OUT)
    daemon.publish_numbers("in", [0])
    came(daemon, "out", 1)
    reload(daemon, p=None)
    for at in range(1, 1001, 100):
        daemon.publish_numbers("in", range(at, at + 100))
    eventually(lambda: daemon.room("in")["held"] <= 100, "retention took events away")
    reload(daemon, p=HEAD + OUT)
    eventually(lambda: numbers(daemon)[-1:] == [1000], "it goes on with what is held")
    assert listed(daemon)["p"]["gaps"] == 1 and daemon.stderr.wait_for(r"WARN.*not held any more.*pipeline=\"p\" room=in", 5)
    found = numbers(daemon)
    assert found == [0, *range(1000 - len(found) + 2, 1001)]


FAULTY = {"fault": HEAD + OUT + "knd = 1\n", "toml": "[pipeline", "loop": HEAD + to("in"), "keeper": HEAD + to("t") + "state = true\n"}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_file_changes_nothing_and_is_told_with_its_place(start, publisher, fault):
    keeper = HEAD + to("t") + "state = true\n"
    daemon = start(p=HEAD + OUT + 'kind = "a"\n', gone=HEAD + to("out2"), keeper=keeper)
    load = publisher(daemon, "in")
    load.wait_acked(5)
    said = refused(daemon, "", p=HEAD + OUT + 'kind = "b"\n', gone=None, new=HEAD + to("out3"), wrong=FAULTY[fault])
    assert re.search(r"(wrong|keeper)\.toml:\d+:\d+: ", said), said
    load.wait_acked(5)
    assert list(listed(daemon)) == ["gone", "keeper", "p"] and "settings reloaded" not in daemon.log_text()
    assert kinds(daemon) == ["a"] and daemon.room("out3") is None
    reload(daemon, wrong=None)
    assert list(listed(daemon)) == ["keeper", "new", "p"]
    load.wait_acked(5)
    all_came(daemon, load.stop())
    assert kinds(daemon) == ["a", "b"]


def test_all_faults_are_told(start):
    daemon = start(p=HEAD + OUT)
    refused(daemon, r"b\.toml:2:1: ", a=HEAD + "x = 1\ny = 2\n" + OUT, b="\nx = 1\n[pipeline]\nfrom = \"in\"\n" + OUT)
    for place in (r"a\.toml:3:1: ", r"a\.toml:4:1: "):
        assert re.search(f"settings not reloaded.*{place}", daemon.log_text()), place


def test_a_fault_in_the_settings_keeps_the_pipelines_as_they_are_and_the_other_way_round(start):
    daemon = start(p=HEAD + OUT)
    deep = '{"kind":"k","data":' + "[" * 10 + "]" * 10 + "}"
    file = daemon.directory / "tidegate.toml"
    daemon.configure("").restart()
    write(daemon, p=None)
    daemon.reload("[limits]\njson_depth = \"much\"\n", says="settings not reloaded")
    assert list(listed(daemon)) == ["p"]
    refused(daemon, "", p="[pipeline")
    file.write_text("[limits]\njson_depth = 5\n")
    refused(daemon, "")
    assert daemon.post_events("x", deep).status_code == 202
    reload(daemon, p=HEAD + OUT)
    assert daemon.post_events("x", deep).status_code in (400, 413, 422)


def test_another_directory_takes_the_place_of_the_first(start):
    daemon = start()
    daemon.terminate()
    for name, room in (("one", "out"), ("two", "out2")):
        (daemon.directory / name).mkdir()
        (daemon.directory / name / "p.toml").write_text(HEAD + to(room))
    working(daemon.configure('[pipelines]\ndir = "one"\n').start())
    daemon.publish_numbers("in", [0])
    came(daemon, "out", 1)
    daemon.reload('[pipelines]\ndir = "two"\n')
    working(daemon)
    daemon.publish_numbers("in", [1])
    assert [event["data"]["n"] for event in came(daemon, "out2", 1)] == [1]
    assert listed(daemon)["p"]["file"].endswith("two/p.toml")


def test_a_schema_beside_a_pipeline_is_read_again_too(start):
    schema = '{{"type":"object","required":["{}"]}}'
    text = HEAD + '[[step]]\nop = "validate"\nschema_file = "shape.json"\n' + OUT
    daemon = start()
    (daemon.directory / "config" / "pipelines" / "shape.json").write_text(schema.format("a"))
    reload(daemon, p=text)
    daemon.publish("in", [{"kind": "k", "data": {"a": 1}}, {"kind": "k", "data": {"b": 1}}])
    assert [event["data"] for event in came(daemon, "out", 1)] == [{"a": 1}]
    (daemon.directory / "config" / "pipelines" / "shape.json").write_text(schema.format("b"))
    reload(daemon)
    daemon.publish("in", [{"kind": "k", "data": {"a": 2}}, {"kind": "k", "data": {"b": 2}}])
    assert [event["data"] for event in came(daemon, "out", 2)] == [{"a": 1}, {"b": 2}]


def test_the_metrics_do_not_say_that_a_pipeline_works_that_has_ended(start):
    daemon = start(p=HEAD + OUT)
    works = lambda: re.findall(r'^tidegate_pipeline_works\{pipeline="p"\} (\S+)$', daemon.get("/metrics").text, re.M)
    eventually(lambda: works() == ["1"], "it works")
    reload(daemon, p=None)
    eventually(lambda: works() in ([], ["NaN"]), "nothing is said of it any more", timeout=5)
