"""Sinks: what keeps events outside of the log. Every event is there once, whatever is killed, away or slow, and what the database refuses
is put aside without holding up the rest. The database is a real one, and so is what is done to it.
"""

import json
import random
import threading
import time
from contextlib import suppress

import pytest
import requests

from harness.api import numbers, problem, seqs
from harness.pipelines import ADMIN, SETTINGS
from harness.postgres import NAME, PASSWORD, USER, Postgres
from harness.process import eventually

ROOMS = ["messages", *(f"well:{number}" for number in range(4))]
QUICK = {**SETTINGS, "SINKS__WELLS__BATCH_WAIT": "100ms", "SINKS__BUFFER__BATCH_WAIT": "100ms", "SINK__RETRY_MAX": "200ms", "SINK__CONNECT_TIMEOUT": "1s"}
WAIT = 40


@pytest.fixture
def postgres():
    """A running database."""
    server = Postgres()
    yield server.start()
    server.end()


@pytest.fixture
def start(start_daemon, request):
    """Starts daemons that write to a database (`start(postgres, …)`), or to none; afterwards no output of theirs has its password."""
    def begin(postgres=None, **settings):
        url = {"SINK__DATABASE_URL": postgres.url} if postgres else {}
        return start_daemon(**{**QUICK, **url, **settings})

    yield begin
    for daemon in request.node.daemons:
        assert PASSWORD not in daemon.log_text() + daemon.output_text()


def sink(daemon, name):
    """How a sink is."""
    answer = daemon.get("/v1/sinks", key=ADMIN)
    assert answer.status_code == 200, f"sinks: {answer.status_code} {answer.text}"
    return next(found for found in answer.json()["sinks"] if found["name"] == name)


def stored(daemon, name="buffer", **params):
    """The newest that a sink has."""
    answer = daemon.get(f"/v1/sinks/{name}/events", key=ADMIN, params=params)
    assert answer.status_code == 200, f"stored: {answer.status_code} {answer.text}"
    return answer.json()["events"]


def drained(daemon, *names, timeout=WAIT):
    """Waits until sinks have stored everything."""
    def look():
        found = [sink(daemon, name) for name in names or ("wells", "buffer")]
        return all(one["waiting"] == 0 and one["failing"] is None for one in found)

    eventually(look, "the sinks have stored everything", timeout)


def events_of(daemon):
    """What the log has: room, seq and number of each event."""
    return {(room, event["seq"], event["data"]["n"]) for room in ROOMS if daemon.room(room) for event in daemon.all_events(room)}


def held(daemon, room):
    """How many events of a room the log has."""
    found = daemon.room(room)
    return found["held"] if found else 0


def rows_of(postgres):
    """What the database has, as often as it has it."""
    return [(room, seq, n) for room, seq, n in postgres.query("SELECT room, seq, (data->>'n')::bigint FROM tidegate_events")]


def exactly(daemon, postgres):
    """Waits until all is stored, and requires that the database has just what the log has, and that the totals say so."""
    drained(daemon)
    expected, rows = events_of(daemon), rows_of(postgres)
    assert len(rows) == len(expected) and set(rows) == expected
    # A sink that never wrote anything is not there yet.
    counted = {"buffer": 0, "wells": 0} | dict(postgres.query("SELECT name, messages FROM tidegate_sinks"))
    buffer = sum(room == "messages" for room, _, _ in expected)
    assert counted == {"buffer": buffer, "wells": len(expected) - buffer}
    assert {name: sink(daemon, name)["messages"] for name in counted} == counted
    assert sink(daemon, "wells")["lost"] == sink(daemon, "buffer")["lost"] == 0
    return len(rows)


class Load:
    """Publishes to all rooms from threads of its own, each event with an id and again until it is acknowledged, until it is told to stop."""

    def __init__(self, daemon, batch=20):
        self.daemon, self.batch = daemon, batch
        self.acked = {room: 0 for room in ROOMS}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(room,), daemon=True) for room in ROOMS]
        for thread in self._threads:
            thread.start()

    def _work(self, room):
        with requests.Session() as session:
            while not self._stop.is_set():
                first = self.acked[room]
                events = [{"kind": "sample", "id": f"{room}-{n}", "data": {"n": n}} for n in range(first, first + self.batch)]
                with suppress(requests.RequestException, AssertionError):
                    self.daemon.publish(room, events, session=session)
                    self.acked[room] = first + self.batch
                time.sleep(0.005)

    def came(self, events):
        """Waits until so many more are acknowledged."""
        before = sum(self.acked.values())
        eventually(lambda: sum(self.acked.values()) >= before + events, f"{events} more events are acknowledged", WAIT)

    def stop(self):
        """Ends it; what is acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        return self.acked


def complete(daemon, acked):
    """Requires that the log has every acknowledged number once."""
    for room, count in acked.items():
        found = numbers(daemon.all_events(room))
        assert len(found) == len(set(found)) and set(range(count)) <= set(found), room


# With a database


def test_every_event_is_a_row_with_all_that_it_is(start, postgres):
    daemon = start(postgres)
    when = "2026-03-01T12:00:00.123Z"
    daemon.publish("well:A", {"kind": "sample", "key": "A", "priority": "high", "timestamp": when, "data": {"v": 1.5, "t": "ü\"\\", "n": None}})
    daemon.publish("messages", [{"kind": "message", "data": 7}, {"kind": "message", "data": None}, {"kind": "message", "data": "text"}])
    daemon.publish("elsewhere", {"kind": "x", "data": 1})
    drained(daemon)
    rows = postgres.query("SELECT room, seq, kind, key, priority, event_time, arrived, sink, data FROM tidegate_events ORDER BY room DESC, seq")
    room, seq, kind, key, priority, event_time, arrived, by, data = rows[0]
    [event] = daemon.all_events("well:A")
    assert (room, seq, kind, key, priority, by) == ("well:A", event["seq"], "sample", "A", 1, "wells")
    assert event_time.isoformat() == "2026-03-01T12:00:00.123000+00:00" and data == event["data"]
    assert abs(arrived.timestamp() - time.time()) < 60
    assert [(row[0], row[7], row[8]) for row in rows[1:]] == [("messages", "buffer", 7), ("messages", "buffer", None), ("messages", "buffer", "text")]


def test_a_batch_is_full_or_its_time_is_over(start, postgres):
    daemon = start(postgres, SINKS__BUFFER__BATCH_WAIT="1500ms")
    daemon.publish_numbers("messages", range(120))
    eventually(lambda: sink(daemon, "buffer")["messages"] == 100, "two full batches are written at once", 1.2)
    assert sink(daemon, "buffer") | {"per_second": 10} == {
        "name": "buffer", "rooms": ["messages"], "messages": 100, "batches": 2, "waiting": 20, "per_second": 10, "rows_refused": 0, "lost": 0, "failing": None}
    drained(daemon, "buffer")
    assert (sink(daemon, "buffer")["messages"], sink(daemon, "buffer")["batches"]) == (120, 3)


def test_a_database_that_is_killed_again_and_again_under_load_has_everything_once(start, postgres):
    daemon = start(postgres)
    load = Load(daemon)
    for _ in range(4):
        load.came(800)
        postgres.kill9()
        load.came(400)
        postgres.start()
    load.came(400)
    acked = load.stop()
    complete(daemon, acked)
    assert exactly(daemon, postgres) >= 5000


def test_a_daemon_that_is_killed_again_and_again_under_load_has_stored_everything_once(start, postgres):
    daemon = start(postgres)
    load = Load(daemon)
    for _ in range(5):
        load.came(600)
        daemon.kill9()
        daemon.start()
    load.came(300)
    complete(daemon, load.stop())
    assert exactly(daemon, postgres) >= 3000


def test_both_killed_at_chance_under_load_have_everything_once(start, postgres):
    daemon, dice = start(postgres), random.Random(7)
    load = Load(daemon)
    for _ in range(6):
        load.came(dice.randrange(50, 500))
        first, second = dice.sample([daemon, postgres], 2)
        first.kill9()
        if dice.random() < 0.5:
            second.kill9()
            second.start()
        time.sleep(dice.random() * 0.3)
        first.start()
    load.came(200)
    complete(daemon, load.stop())
    exactly(daemon, postgres)


def test_a_database_that_is_restarted_in_good_order_loses_nothing(start, postgres):
    daemon = start(postgres)
    load = Load(daemon)
    for _ in range(2):
        load.came(500)
        postgres.stop()
        postgres.start()
    load.came(300)
    complete(daemon, load.stop())
    exactly(daemon, postgres)
    assert "sink: writes again" in daemon.log_text()


def test_a_daemon_that_stops_writes_what_it_has(start, postgres):
    daemon = start(postgres, SINKS__WELLS__BATCH_WAIT="60s", SINKS__BUFFER__BATCH_WAIT="60s")
    daemon.publish_numbers("messages", range(17))
    daemon.publish_numbers("well:1", range(23))
    daemon.terminate()
    assert postgres.query("SELECT count(*) FROM tidegate_events") == [(40,)]
    assert postgres.query("SELECT name, messages, batches FROM tidegate_sinks ORDER BY name") == [("buffer", 17, 1), ("wells", 23, 1)]


def test_a_database_that_is_away_at_the_start_holds_up_nothing(start, postgres, sse):
    postgres.stop()
    daemon = start(postgres)
    assert daemon.get("/readyz").status_code == 200
    stream = sse(daemon, "messages")
    stream.welcome()
    daemon.publish_numbers("messages", range(70))
    assert numbers(message.data for message in stream.take(70, timeout=5)) == list(range(70))
    eventually(lambda: sink(daemon, "buffer")["failing"], "the sink says that it fails")
    health = daemon.get("/api/health", key=None).json()
    assert (health["status"], health["store"]) == ("degraded", {"kind": "postgres", "working": False})
    assert sink(daemon, "buffer")["waiting"] == 70
    problem(daemon.get("/v1/sinks/buffer/events", key=ADMIN), 503, kind="store-unavailable")
    assert daemon.get("/readyz").status_code == 200
    postgres.start()
    exactly(daemon, postgres)
    assert daemon.get("/api/health", key=None).json()["store"] == {"kind": "postgres", "working": True}


def test_a_database_that_does_not_answer_slows_no_reader_and_no_publisher(start, postgres, sse):
    daemon = start(postgres, SINK__STATEMENT_TIMEOUT="1s")
    daemon.publish_numbers("messages", range(60))
    drained(daemon)
    stream = sse(daemon, "messages")
    stream.welcome()
    postgres.pause()
    for first in range(60, 3060, 100):
        began = time.monotonic()
        daemon.publish_numbers("messages", range(first, first + 100))
        assert time.monotonic() - began < 2
    assert numbers(message.data for message in stream.take(3000, timeout=10)) == list(range(60, 3060))
    eventually(lambda: sink(daemon, "buffer")["failing"], "the sink says that it fails")
    assert sink(daemon, "buffer")["waiting"] == 3000
    postgres.resume()
    exactly(daemon, postgres)


def test_a_table_that_somebody_locks_for_longer_than_a_statement_may_take_gets_everything_once(start, postgres):
    daemon = start(postgres, SINK__STATEMENT_TIMEOUT="300ms")
    load = Load(daemon)
    for _ in range(3):
        load.came(300)
        with postgres.connect() as holder:
            holder.execute("LOCK TABLE tidegate_events IN SHARE MODE")
            eventually(lambda: sink(daemon, "wells")["failing"] and sink(daemon, "buffer")["failing"], "the sinks say that they fail")
            load.came(300)
    load.came(200)
    complete(daemon, load.stop())
    exactly(daemon, postgres)


def test_a_database_that_takes_long_for_each_write_gets_everything_once_and_holds_up_nobody(start, postgres):
    daemon = start(postgres)
    drained(daemon)
    postgres.query("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.25); RETURN NULL; END'")
    postgres.query("CREATE TRIGGER slow BEFORE INSERT ON tidegate_events FOR EACH STATEMENT EXECUTE FUNCTION dawdle()")
    load = Load(daemon)
    began = time.monotonic()
    load.came(2000)
    assert time.monotonic() - began < 15, "publishers do not wait for it"
    complete(daemon, load.stop())
    assert sink(daemon, "buffer")["waiting"] > 0, "it is behind"
    exactly(daemon, postgres)
    assert sink(daemon, "buffer")["failing"] is None and "cannot write now" not in daemon.log_text()


def test_a_daemon_stops_in_time_while_its_database_does_not_answer(start, postgres):
    daemon = start(postgres, SINK__STOP_TIMEOUT="500ms")
    daemon.publish_numbers("messages", range(60))
    drained(daemon)
    postgres.pause()
    daemon.publish_numbers("messages", range(60, 200))
    began = time.monotonic()
    daemon.terminate()
    assert time.monotonic() - began < 6
    postgres.resume()
    daemon.start()
    exactly(daemon, postgres)


def test_what_the_database_refuses_goes_to_the_dead_letters_and_the_rest_goes_in(start, postgres):
    daemon = start(postgres)
    drained(daemon)
    postgres.query("ALTER TABLE tidegate_events ADD CONSTRAINT small CHECK (data->>'n' IS NULL OR (data->>'n')::numeric < 1000)")
    data = [json.dumps({"n": n}) for n in range(200)]
    wrong = {3: '{"t": "a\\u0000b"}', 77: '{"x": 1e500000}', 78: '{"n": 5000}', 199: '"\\ud800"'}
    for at, text in wrong.items():
        data[at] = text
    body = "[" + ",".join(f'{{"kind": "m", "key": "k{at}", "data": {text}}}' for at, text in enumerate(data)) + "]"
    answer = daemon.post_events("messages", body)
    assert answer.status_code == 202, answer.text
    first = answer.json()["first_seq"]
    drained(daemon)
    assert {seq - first for (seq,) in postgres.query("SELECT seq FROM tidegate_events")} == set(range(200)) - set(wrong)
    letters = daemon.get("/v1/rooms/dead-letter%3Asink%3Abuffer/events", params={"after": "0"}).text
    found = json.loads(letters)["events"]
    assert sorted(event["data"]["event"]["seq"] - first for event in found) == sorted(wrong)
    for event in found:
        letter = event["data"]
        at = letter["event"]["seq"] - first
        assert (event["kind"], event["key"], letter["sink"], letter["reason"]) == ("m", f"k{at}", "buffer", "refused")
        assert letter["code"][:2] in ("22", "23") and letter["message"] and letter["event"]["room"] == "messages"
    # The data is there as it came, though others cannot read it.
    assert all(text in letters for text in wrong.values())
    status = sink(daemon, "buffer")
    assert (status["messages"], status["rows_refused"], status["waiting"]) == (196, 4, 0)
    daemon.restart()
    daemon.publish_numbers("messages", range(10))
    drained(daemon)
    status = sink(daemon, "buffer")
    assert (status["messages"], status["rows_refused"]) == (206, 4)
    assert len(daemon.all_events("dead-letter:sink:buffer")) == 4


def test_refused_events_are_dead_letters_once_whatever_is_killed(start, postgres):
    daemon, dice = start(postgres), random.Random(3)
    drained(daemon)
    postgres.query("ALTER TABLE tidegate_events ADD CONSTRAINT odd CHECK ((data->>'n')::bigint % 10 <> 7)")
    load = Load(daemon)
    for _ in range(6):
        load.came(dice.randrange(100, 300))
        victim = dice.choice([daemon, postgres])
        victim.kill9()
        victim.start()
    load.came(100)
    load.stop()
    drained(daemon)
    expected = events_of(daemon)
    rows = rows_of(postgres)
    assert len(rows) == len(set(rows)) and set(rows) == {event for event in expected if event[2] % 10 != 7}
    letters = [event["data"]["event"] for name in ("wells", "buffer") for event in daemon.all_events(f"dead-letter:sink:{name}")]
    found = [(letter["room"], letter["seq"], letter["data"]["n"]) for letter in letters]
    assert len(found) == len(set(found)) and set(found) == {event for event in expected if event[2] % 10 == 7}
    assert sum(sink(daemon, name)["rows_refused"] for name in ("wells", "buffer")) == len(found)


def test_a_sink_of_all_rooms_does_not_take_what_it_refused(start, postgres):
    daemon = start(postgres, SINKS__ALL__ROOMS="*", SINKS__ALL__BATCH_WAIT="50ms", SINKS__WELLS__ENABLED="false", SINKS__BUFFER__ENABLED="false")
    daemon.post_events("x", '[{"kind": "k", "data": "\\u0000"}, {"kind": "k", "data": 1}]')
    drained(daemon, "all")
    daemon.publish("x", {"kind": "k", "data": 2})
    drained(daemon, "all")
    assert [data for (data,) in postgres.query("SELECT data FROM tidegate_events ORDER BY seq")] == [1, 2]
    assert len(daemon.all_events("dead-letter:sink:all")) == 1


def test_two_daemons_that_start_at_once_make_the_tables_together_and_lose_nothing(start, postgres):
    daemons = [start(None, started=False, SINK__DATABASE_URL=postgres.url) for _ in range(2)]
    for daemon in daemons:
        daemon.start()
    loads = [Load(daemon) for daemon in daemons]
    for load in loads:
        load.came(600)
    for load in loads:
        load.stop()
    for daemon in daemons:
        drained(daemon)
    expected = set().union(*(events_of(daemon) for daemon in daemons))
    rows = rows_of(postgres)
    assert len(rows) == len(expected) and set(rows) == expected
    assert sum(messages for (messages,) in postgres.query("SELECT messages FROM tidegate_sinks")) == len(rows)
    assert postgres.query("SELECT version FROM tidegate_schema") == [(1,)]


def test_two_daemons_with_a_schema_each_keep_their_rooms_apart(start, postgres):
    names, daemons = ("east", "west"), []
    for n, name in enumerate(names):
        postgres.query(f"CREATE SCHEMA {name}")
        daemons.append(start(SINK__DATABASE_URL=f"{postgres.url}?options=-csearch_path%3D{name}"))
        daemons[n].publish("messages", {"kind": "message", "data": {"n": n}})
    for n, name in enumerate(names):
        drained(daemons[n])
        assert [event["data"]["n"] for event in stored(daemons[n])] == [n]
        assert sink(daemons[n], "buffer")["messages"] == 1
        assert postgres.query(f"SELECT (data->>'n')::int FROM {name}.tidegate_events") == [(n,)]


def test_the_tables_of_a_later_version_are_left_alone(start, postgres):
    daemon = start(postgres)
    drained(daemon)
    daemon.terminate()
    postgres.query("INSERT INTO tidegate_schema (version) VALUES (99)")
    daemon.start()
    daemon.publish_numbers("messages", range(3))
    eventually(lambda: "version 99" in (sink(daemon, "buffer")["failing"] or ""), "the sink says why it does not write")
    assert postgres.query("SELECT count(*) FROM tidegate_events") == [(0,)]


def test_tables_that_were_dropped_are_made_again(start, postgres):
    daemon = start(postgres)
    daemon.publish_numbers("messages", range(60))
    drained(daemon)
    postgres.query("DROP TABLE tidegate_events, tidegate_sinks, tidegate_positions, tidegate_schema")
    daemon.publish_numbers("messages", range(60, 130))
    drained(daemon)
    assert sorted(n for (n,) in postgres.query("SELECT (data->>'n')::int FROM tidegate_events")) == list(range(60, 130))


def test_what_a_sink_has_stored_is_read_newest_first(start, postgres):
    daemon = start(postgres)
    for n in range(12):
        daemon.publish(f"well:{n % 3}", {"kind": "sample", "key": f"k{n}", "data": {"n": n}})
        time.sleep(0.003)
    daemon.publish_numbers("messages", range(5))
    drained(daemon)
    assert numbers(stored(daemon)) == [4, 3, 2, 1, 0]
    assert numbers(stored(daemon, "wells", limit=5)) == [11, 10, 9, 8, 7]
    found = stored(daemon, "wells", rooms="well:1")
    assert [(event["room"], event["key"], event["data"]["n"]) for event in found] == [("well:1", f"k{n}", n) for n in (10, 7, 4, 1)]
    assert seqs(found) == seqs(daemon.all_events("well:1"))[::-1]
    problem(daemon.get("/v1/sinks/nobody/events", key=ADMIN), 404)
    problem(daemon.get("/v1/sinks/wells/events?limit=0", key=ADMIN), 400)


def test_events_older_than_the_retention_are_deleted(start, postgres):
    daemon = start(postgres)
    daemon.publish("messages", [{"kind": "m", "timestamp": "2020-01-01T00:00:00Z", "data": {"n": n}} for n in range(7000)])
    daemon.publish_numbers("messages", range(7000, 7010))
    drained(daemon)
    daemon.terminate()
    daemon.settings["SINK__RETENTION"] = "30d"
    daemon.start()
    eventually(lambda: postgres.query("SELECT count(*) FROM tidegate_events") == [(10,)], "old events are deleted", 15)
    assert sink(daemon, "buffer")["messages"] == 7010, "what was stored is counted all the same"


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_what_is_not_stored_the_log_keeps_longer_than_its_retention_says(start, postgres, restarted):
    short = {"ROOMS__DEFAULT__RETENTION_COUNT": "100", "ROOMS__DEFAULT__RETENTION_AGE": "1s", "ROOMS__DEFAULT__TAIL_EVENTS": "10"}
    daemon = start(postgres, SINK__MAILBOX_MESSAGES="20", **short)
    daemon.publish_numbers("messages", range(50))
    drained(daemon)
    postgres.stop()
    for first in range(50, 2050, 100):
        daemon.publish_numbers("messages", range(first, first + 100))
        daemon.publish_numbers("well:new", range(first, first + 100))
        daemon.publish_numbers("elsewhere", range(first, first + 100))
    eventually(lambda: not held(daemon, "elsewhere"), "what nobody waits for goes")
    if restarted:
        daemon.kill9()
        daemon.start()
    assert held(daemon, "well:new") == 2000
    # After a kill it knows what was last written down, until the database answers.
    assert sink(daemon, "buffer")["waiting"] in ((2000, 2050) if restarted else (2000,))
    postgres.start()
    drained(daemon)
    assert sorted((room, n) for room, _, n in rows_of(postgres)) == [*(("messages", n) for n in range(2050)), *(("well:new", n) for n in range(50, 2050))]
    assert sink(daemon, "buffer")["lost"] == sink(daemon, "wells")["lost"] == 0
    eventually(lambda: not held(daemon, "messages") and not held(daemon, "well:new"), "what is stored goes as the retention says")


def test_what_the_log_let_go_before_it_was_stored_is_counted_and_told(start, postgres):
    daemon = start(postgres, SINK__KEEP_UNSTORED="false", ROOMS__MESSAGES__RETENTION_COUNT="100", ROOMS__MESSAGES__TAIL_EVENTS="10", SINK__MAILBOX_MESSAGES="20")
    daemon.publish_numbers("messages", range(50))
    drained(daemon)
    postgres.stop()
    for first in range(50, 2050, 100):
        daemon.publish_numbers("messages", range(first, first + 100))
    postgres.start()
    drained(daemon)
    rows, lost = rows_of(postgres), sink(daemon, "buffer")["lost"]
    assert lost >= 1500 and len(rows) + lost == 2050
    assert "are lost to it" in daemon.log_text()
    assert f'tidegate_sink_lost_total{{sink="buffer"}} {lost}' in daemon.get("/metrics").text


def test_metrics_count_what_the_sinks_do(start, postgres):
    daemon = start(postgres)
    daemon.publish_numbers("messages", range(70))
    drained(daemon)
    text = daemon.get("/metrics").text
    for line in ("tidegate_sink_events_total{sink=\"buffer\"} 70", "tidegate_sink_batches_total{sink=\"buffer\"} 2", "tidegate_sink_waiting{sink=\"buffer\"} 0",
                 "tidegate_sink_rows_refused_total{sink=\"buffer\"} 0", "tidegate_sink_failures_total{sink=\"buffer\"} 0"):
        assert line in text, line
    assert "tidegate_sink_write_duration_seconds_count{sink=\"buffer\"} 2" in text


# Without one


def test_without_a_database_the_same_is_read_from_the_log(start):
    daemon = start()
    for n in range(12):
        daemon.publish(f"well:{n % 3}", {"kind": "sample", "key": f"k{n}", "data": {"n": n}})
        time.sleep(0.003)
    daemon.publish_numbers("messages", range(70))
    drained(daemon)
    assert numbers(stored(daemon, limit=3)) == [69, 68, 67]
    assert numbers(stored(daemon, "wells", limit=5)) == [11, 10, 9, 8, 7]
    assert [event["key"] for event in stored(daemon, "wells", rooms="well:1")] == ["k10", "k7", "k4", "k1"]
    status = sink(daemon, "buffer")
    assert (status["messages"], status["batches"], status["failing"]) == (70, 2, None)
    assert daemon.get("/api/health", key=None).json()["store"] == {"kind": "embedded", "working": True}
    daemon.restart()
    assert numbers(stored(daemon, limit=1000)) == list(range(69, -1, -1))
    assert (sink(daemon, "buffer")["messages"], sink(daemon, "buffer")["batches"]) == (70, 2)


def test_without_a_database_totals_are_exact_whenever_the_daemon_is_killed(start):
    daemon = start()
    load = Load(daemon)
    for _ in range(6):
        load.came(400)
        daemon.kill9()
        daemon.start()
    load.came(200)
    complete(daemon, load.stop())
    drained(daemon)
    expected = events_of(daemon)
    buffer = sum(room == "messages" for room, _, _ in expected)
    assert {name: sink(daemon, name)["messages"] for name in ("buffer", "wells")} == {"buffer": buffer, "wells": len(expected) - buffer}


def test_a_database_that_comes_later_gets_what_the_log_has(start, postgres):
    daemon = start()
    daemon.publish_numbers("messages", range(130))
    drained(daemon)
    daemon.terminate()
    daemon.settings["SINK__DATABASE_URL"] = postgres.url
    daemon.start()
    daemon.publish_numbers("messages", range(130, 150))
    assert exactly(daemon, postgres) == 150


# Figures and settings


def test_the_figures_are_published_only_while_somebody_follows_them(start, sse):
    daemon = start(SINK__STATS_INTERVAL="100ms")
    daemon.publish_numbers("messages", range(120))
    drained(daemon)
    assert daemon.room("sink:buffer") is None
    stream = sse(daemon, "sink:buffer")
    first, second = stream.take(2, timeout=5)
    assert first.data["kind"] == "stats"
    figures = first.data["data"]
    assert set(figures) == {"total_messages", "current_rps", "messages_per_second", "queue_depth", "queue_length", "total_batches", "avg_batch_size", "timestamp"}
    assert (figures["total_messages"], figures["total_batches"], figures["avg_batch_size"], figures["queue_depth"]) == (120, 3, 40.0, 0)
    assert figures["current_rps"] == figures["messages_per_second"] == 12.0
    assert second.data["data"]["timestamp"] > figures["timestamp"] and figures["timestamp"].endswith("Z") and len(figures["timestamp"]) == 24
    stream.stop()
    eventually(lambda: daemon.room("sink:buffer")["subscribers"] == 0, "nobody follows")
    before = daemon.room("sink:buffer")["head"]
    time.sleep(0.5)
    assert daemon.room("sink:buffer")["head"] <= before + 1


def test_a_sink_of_ones_own_is_a_section_of_the_settings(start_daemon):
    daemon = start_daemon(started=False, **QUICK)
    daemon.configure('[sinks.audit]\nrooms = ["audit:*", "login"]\nbatch_events = 3\nbatch_wait = "50ms"\n[sinks.wells]\nenabled = false\n').start()
    daemon.publish_numbers("audit:x", range(4))
    daemon.publish_numbers("login", range(2))
    drained(daemon, "audit")
    answer = daemon.get("/v1/sinks", key=ADMIN).json()
    assert [found["name"] for found in answer["sinks"]] == ["audit", "buffer"]
    assert (answer["store"], answer["sinks"][0]["rooms"], answer["sinks"][0]["messages"]) == ("embedded", ["audit:*", "login"], 6)
    problem(daemon.get("/v1/sinks/audit/events", key=ADMIN), 400)
    problem(daemon.get("/v1/sinks"), 403)


@pytest.mark.parametrize("url", [f"mysql://u:{PASSWORD}@db/x", f"postgres://u:{PASSWORD}@db:port/x", f"postgres://db/x?passwort={PASSWORD}"])
def test_an_address_that_is_wrong_is_told_without_its_password(start_daemon, url):
    daemon = start_daemon(started=False)
    for command in ("check", "serve"):
        result = daemon.run(command, SINK__DATABASE_URL=url)
        assert result.code != 0 and "sink.database_url" in result.stderr, result
        assert PASSWORD not in result.stderr + result.stdout


def test_the_database_s_password_stands_nowhere(start, postgres):
    postgres.query("CREATE ROLE guarded SUPERUSER LOGIN PASSWORD 'another'")
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    postgres.query("SELECT pg_reload_conf()")
    daemon = start(SINK__DATABASE_URL=postgres.url.replace(f"{USER}:", "guarded:"), LOGGING__LEVEL="trace")
    daemon.publish_numbers("messages", range(60))
    eventually(lambda: "password authentication failed" in (sink(daemon, "buffer")["failing"] or ""), "the sink says that it is not let in")
    postgres.query(f"ALTER ROLE guarded PASSWORD '{PASSWORD}'")
    exactly(daemon, postgres)
    answers = [daemon.get(path, key=ADMIN).text for path in ("/v1/sinks", "/v1/sinks/buffer/events", "/api/health", "/metrics", "/v1/connections")]
    assert not any(PASSWORD in text for text in [*answers, daemon.log_text(), daemon.output_text()])


def test_settings_of_sinks_are_checked(start_daemon):
    daemon = start_daemon(started=False)
    for settings, says in [({"SINKS__X__BATCH_EVENTS": "5"}, "sinks.x.rooms"), ({"SINKS__WELLS__ROOMS": "a*b"}, "sinks.wells.rooms"),
                           ({"SINKS__WELLS__BATCH_WAIT": "1"}, "sinks.wells.batch_wait"), ({"SINKS__WELLS__ROMS": "x"}, "sinks.wells.rooms")]:
        result = daemon.run("check", **settings)
        assert result.code == 2 and says in result.stderr, result
    good = daemon.run("check", SINK__DATABASE_URL=f"postgres://u:{PASSWORD}@db/{NAME}")
    assert good.code == 0 and "sinks: buffer, wells, into PostgreSQL" in good.stdout and PASSWORD not in good.stdout + good.stderr
