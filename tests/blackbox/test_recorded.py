"""Four minutes of a real machine (tests/data) through pipelines: what comes out is what pandas, numpy and Python's exact arithmetic make
of the same numbers, to the last digit that matters; live, and again when it is replayed.

The daemon of this file has all its pipelines at once. Each event is published as a producer would, with its own time and an id; when all of
them are through, one event in the room `recorded:end`, six minutes younger, closes the last windows. `tidegate replay` gets the recording as it lies
in tests/data, and once more from the daemon's own rooms.
"""

import json
import math
import re
import time
from functools import lru_cache

import pytest

from harness import figures
from harness.daemon import Daemon
from harness.pipelines import SETTINGS, Table, applied, came, listed, state, working, write
from harness.process import eventually
from harness.recorded import as_lines, as_published, lines, milliseconds, nested, recorded, shuffled, swings, text_of, thinned

FUNCTIONS = ["count", "rate", "sum", "mean", "min", "max", "first", "last", "delta", "distinct", "stddev", "p50", "p95", "p99", "trend"]
FIELDS = {"cpu": ["usage"], "memory": ["used", "available"], "network": ["received_bytes_per_second", "sent_bytes_per_second"],
          "swings": ["change"], "thinned": ["usage"]}
ALIGNED = ["cpu", "memory", "network", "swings"]


def wants(*fields):
    """The setting `fields` for all figures of these."""
    return "fields = { " + ", ".join(f"{field} = {json.dumps(FUNCTIONS)}" for field in fields) + " }"


def window(settings, room="cpu"):
    """A step with all figures of a room; time goes on with events only."""
    return f'[[step]]\nop = "window"\nidle = "0s"\n{settings}\n{wants(*FIELDS[room])}\n'


WINDOWS = {
    "tumbling": ('kind = "tumbling"\nsize = "10s"', lambda values: figures.tumbling(values, "10s"), ALIGNED),
    "sliding": ('kind = "sliding"\nsize = "30s"\nevery = "5s"', lambda values: figures.sliding(values, "30s", "5s"), ALIGNED),
    "session": ('kind = "session"\ngap = "2s"', lambda values: figures.sessions(values, "2s"), ["thinned"]),
    "short_session": ('kind = "session"\ngap = "2s"\nmax = "7s"', lambda values: figures.sessions(values, "2s", "7s"), ["thinned"]),
}
ALARMS = {
    "above": ("cpu", "usage", {"above": 90, "clear_above": 60, "hold": 1000, "hold_clear": 600}),
    "both": ("cpu", "usage", {"above": 80, "below": 20, "hold": 400}),
    "at_once": ("network", "received_bytes_per_second", {"above": 1_000_000, "clear_above": 100_000}),
    "below": ("memory", "available", {"below": 23_500_000_000, "clear_below": 23_600_000_000, "hold_clear": 3000}),
}
ANOMALIES = {
    "changes": ("memory", "used", {}),
    "each": ("network", "received_bytes_per_second", {"samples": 40, "half_life": 7, "threshold": 6, "min_deviation": 5000, "emit": "each"}),
    "normal": ("cpu", "usage", {"samples": 64, "learn": "normal", "relearn": 7, "min_deviation": 5, "emit": "each"}),
    "below": ("cpu", "usage", {"samples": 32, "warm_up": 8, "direction": "below", "min_deviation": 2.5}),
    # The first value that is judged is one.
    "warm": ("memory", "used", {"samples": 32, "warm_up": 12, "emit": "each"}),
    "season": ("memory", "used", {"samples": 50, "season": 60_000, "slots": 7, "threshold": 3, "emit": "each"}),
}
# Of the events out of order, some come when the newest one is just so far behind the end of their window, and some a millisecond earlier.
DISORDER_MS, LATENESS_MS = 2169, 3849


def setting(name, value):
    """A line of a step; times are in milliseconds here."""
    if name in ("hold", "hold_clear", "season"):
        return f'{name} = "{value}ms"\n'
    return f"{name} = {json.dumps(value)}\n"


def piped(name, rooms, step, output="", ends=False):
    """A pipeline that takes rooms of the daemon, which are `recorded:…`, and of the recording, which are `host:…`."""
    of = [f"{first}:{room}" for room in rooms for first in ("recorded", "host")] + ["recorded:end"] * ends
    return f'[pipeline]\nfrom = {json.dumps(of)}\n{step}\n[[output]]\nroom = "out:{name}"\n{output}'


def pipelines():
    """All of this file's, by name."""
    found = {
        "idle": piped("idle", ["cpu"], '[[step]]\nop = "window"\nkind = "tumbling"\nsize = "2s"\nfields = { usage = "sum" }'),
        "by_kind": piped("by_kind", ["cpu", "memory", "network"], '[[step]]\nop = "window"\nkind = "tumbling"\nsize = "15s"\nby = "kind"\n'
                         'disorder = "5m"\nidle = "0s"\nmissing = "skip"\nfields = { usage = ["count", "sum"], used = ["count", "sum"] }', ends=True),
        "updates": piped("updates", ["cpu"], window('kind = "tumbling"\nsize = "20s"\noffset = "3s"\nemit = "update"'), ends=True),
        "running": piped("running", ["cpu"], f'[[step]]\nop = "aggregate"\n{wants("usage")}'),
        "minutes": piped("minutes", ["memory"], f'[[step]]\nop = "aggregate"\nreset = "1m"\n{wants("used")}'),
        "patches": piped("patches", ["nested"], '[[step]]\nop = "delta"\n'),
        "fulls": piped("fulls", ["nested"], '[[step]]\nop = "delta"\nfull_every = 50\n'),
        "table": piped("table", ["cpu", "memory", "network"], "", 'key = "{kind}"\nstate = true\n'),
        "merged": piped("merged", ["nested"], "", 'state = true\nstate_mode = "merge"\n'),
        "shuffled": piped("shuffled", ["shuffled"], window('kind = "tumbling"\nsize = "10s"\ndisorder = "3s"'), ends=True),
        "scattered": piped("scattered", ["scattered"], window(f'kind = "tumbling"\nsize = "10s"\ndisorder = "{DISORDER_MS}ms"'), ends=True),
        "patient": piped("patient", ["scattered"], window(f'kind = "tumbling"\nsize = "10s"\ndisorder = "{DISORDER_MS}ms"\n'
                                                          f'lateness = "{LATENESS_MS}ms"'), ends=True),
    }
    for name, (settings, _, rooms) in WINDOWS.items():
        for room in rooms:
            found[f"{name}_{room}"] = piped(f"{name}_{room}", [room], window(settings, room), ends=True)
    for op, cases in (("threshold", ALARMS), ("anomaly", ANOMALIES)):
        for name, (room, field, settings) in cases.items():
            step = f'[[step]]\nop = "{op}"\nfield = "{field}"\n' + "".join(setting(*pair) for pair in settings.items())
            found[f"{op}_{name}"] = piped(f"{op}_{name}", [room], step)
    return found


STREAMS = {
    "cpu": recorded("cpu"), "memory": recorded("memory"), "network": recorded("network"),
    "thinned": thinned(), "swings": swings(), "nested": nested(),
    "shuffled": shuffled("shuffled", 3000), "scattered": shuffled("scattered", 12_000),
}
WHEN = ("2026-11-20T13:28:42.133Z", "2026-11-20T13:32:47.867Z")
LAST_MS = recorded("cpu")[-1]["ms"]
END = [{"room": "end", "kind": "end", "ms": LAST_MS + 360_000,
        "data": {field: 0 for fields in FIELDS.values() for field in fields}}]
# A replay has everything in order, so that what is about disorder is not the same.
REPLAYED = sorted(name for name in pipelines() if name not in ("shuffled", "scattered", "patient"))


def plain(event):
    """What of an output does not depend on who published it."""
    return {name: event.get(name) for name in ("kind", "key", "priority", "timestamp", "data")}


class Run:
    """The daemon that had it all, and what its pipelines make of it."""

    def __init__(self, daemon):
        self.daemon, self.known = daemon, {}

    def publish(self):
        """Publishes everything; returns when it went through all pipelines."""
        for room, events in STREAMS.items():
            self.daemon.publish(f"recorded:{room}", as_published(events))
        eventually(self.through, "all went through", 60, every=0.1)
        self.daemon.publish("recorded:end", as_published(END))
        eventually(self.through, "all have ended", 30, every=0.1)

    def through(self):
        """Whether every pipeline has had everything."""
        rooms = {room: len(events) for room, events in STREAMS.items()}
        if self.daemon.room("recorded:end"):
            rooms["end"] = 1
        files, found = pipelines(), listed(self.daemon)
        return all(found[name]["events_in"] == sum(count for room, count in rooms.items() if f'"recorded:{room}"' in text)
                   for name, text in files.items())

    def live(self, name, count=None):
        """What came out, when it is so many."""
        if count is not None:
            came(self.daemon, f"out:{name}", count)
        return [plain(event) for event in self.daemon.all_events(f"out:{name}")]

    def replayed(self, name, source="file"):
        """What `tidegate replay` makes of the recording, or of the daemon's rooms."""
        if (name, source) not in self.known:
            file = self.daemon.directory / "config" / "pipelines" / f"{name}.toml"
            options, settings = [], {"URL": self.daemon.url, "TOKEN": self.daemon.key}
            if source == "file":
                options, settings = ["--events", self.file()], {}
            result = self.daemon.run("replay", file, *options, "--dead-letters", timeout=60, **settings)
            assert result.code == 0, result
            outputs = [json.loads(line) for line in result.stdout.splitlines()]
            assert {output["room"] for output in outputs} == {f"out:{name}"}, "no dead letters, and nothing for other rooms"
            self.known[name, source] = [plain(output) for output in outputs]
        return self.known[name, source]

    @lru_cache
    def file(self):
        """The recording as it lies there, and what is made of it."""
        more = [line for room in ("thinned", "swings", "nested", "shuffled") for line in as_lines(STREAMS[room])]
        file = self.daemon.directory / "recorded.ndjson"
        file.write_text("\n".join([*lines(), *more, *as_lines(END)]) + "\n")
        return file

    def out(self, way, name, count=None):
        """What came out, live or replayed."""
        found = self.live(name, count) if way == "live" else self.replayed(name)
        assert count is None or len(found) == count
        return found


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """Everything was published, and has gone through."""
    assert time.time() * 1000 > END[0]["ms"], "this machine's clock is before the time of the recording"
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), SETTINGS, lasting=True)
    request.node.daemons = [daemon]
    try:
        write(daemon, **pipelines())
        working(daemon.start())
        begun = Run(daemon)
        begun.publish()
        yield begun
    finally:
        daemon.stop()
    assert "panicked at" not in daemon.log_text(), "the daemon panicked; see its log"


@lru_cache
def values(room, field):
    """A field of a stream over time, as pandas has it."""
    return figures.series(STREAMS[room], field)


@lru_cache
def expected(name, room, field):
    """(start, end, figures) of each window."""
    return [(start, end, figures.figures(figures.times(inside), inside.tolist())) for start, end, inside in WINDOWS[name][1](values(room, field))]


def close(value, other, relative, least=0.0):
    return math.isclose(value, other, rel_tol=relative, abs_tol=least)


def within_one_percent(value, exact):
    return abs(value - exact) <= abs(exact) * 0.01 * (1 + 1e-9)


both_ways = pytest.mark.parametrize("way", ["live", "replayed"])
all_windows = pytest.mark.parametrize("name, room, field", [
    pytest.param(name, room, field, id=f"{name}-{room}-{field}") for name, (_, _, rooms) in WINDOWS.items() for room in rooms
    for field in FIELDS[room]])


def told(run, way, name, room, field):
    """Each window's figures of the field as they came, beside what they must be."""
    due = expected(name, room, field)
    outputs = run.out(way, f"{name}_{room}", len(due))
    found = []
    for output, (start, end, figure) in zip(outputs, due):
        own = {function: output["data"][f"{field}_{function}"] for function in FUNCTIONS}
        found.append((own, figure, f"window {text_of(start)} to {text_of(end)}"))
    return found


def test_the_recording_is_what_its_readme_says():
    assert len(lines()) == sum(len(recorded(kind)) for kind in ("cpu", "memory", "network"))
    for kind in ("cpu", "memory", "network"):
        events = recorded(kind)
        steps = [after["ms"] - before["ms"] for before, after in zip(events, events[1:])]
        assert len(events) == 1224 and (events[0]["ms"], events[-1]["ms"]) == tuple(map(milliseconds, WHEN))
        assert min(steps) > 0 and sorted(steps)[len(steps) // 2] == 200
        assert all(set(event["data"]) == set(FIELDS[kind]) and event["kind"] == kind for event in events)
    assert all(0 <= event["data"]["usage"] <= 100 for event in recorded("cpu"))


def test_there_are_events_just_at_every_limit():
    gaps = [after["ms"] - before["ms"] for before, after in zip(thinned(), thinned()[1:])]
    assert {1999, 2000, 2001} <= set(gaps), "of a session's gap"
    newest, behind = 0, set()
    for event in STREAMS["scattered"]:
        newest = max(newest, event["ms"])
        behind.add(newest - (event["ms"] // 10_000 + 1) * 10_000)
    for limit in (DISORDER_MS, DISORDER_MS + LATENESS_MS):
        assert {limit - 1, limit} <= behind, "of what is late"


@both_ways
@all_windows
def test_windows_lie_where_they_should_and_have_the_events_that_lie_in_them(run, way, name, room, field):
    due = expected(name, room, field)
    found = [(milliseconds(output["data"]["start"]), milliseconds(output["data"]["end"]), output["data"]["count"])
             for output in run.out(way, f"{name}_{room}", len(due))]
    assert found == [(start, end, figure["count"]) for start, end, figure in due]
    for output, (start, end, figure) in zip(run.out(way, f"{name}_{room}"), due):
        assert (output["kind"], output["key"], output["priority"], milliseconds(output["timestamp"])) == ("window", None, "normal", end)
        assert set(output["data"]) == {"start", "end", "count", "rate"} | {f"{field}_{function}" for field in FIELDS[room] for function in FUNCTIONS}
        assert output["data"]["rate"] == figure["count"] * 1000 / (end - start)


@both_ways
@all_windows
def test_least_greatest_first_and_last_are_the_very_values(run, way, name, room, field):
    for own, figure, where in told(run, way, name, room, field):
        for function in ("count", "min", "max", "first", "last", "delta", "distinct"):
            assert own[function] == figure[function], f"{function} of {where}"


@both_ways
@all_windows
def test_sums_and_means_are_those_of_exact_addition(run, way, name, room, field):
    for own, figure, where in told(run, way, name, room, field):
        for function in ("sum", "mean"):
            assert close(own[function], figure[function], 1e-12), f"{function} of {where}: {own[function]!r}, not {figure[function]!r}"


@both_ways
@all_windows
def test_deviations_and_trends_are_those_of_exact_fractions(run, way, name, room, field):
    for own, figure, where in told(run, way, name, room, field):
        assert close(own["stddev"], figure["stddev"], 1e-11), f"stddev of {where}: {own['stddev']!r}, not {figure['stddev']!r}"
        assert (own["trend"] is None) == (figure["trend"] is None), where
        if figure["trend"] is not None:
            # A trend next to nothing is as exact as the values that it comes from.
            least = 1e-13 * max(abs(figure["min"]), abs(figure["max"]))
            assert close(own["trend"], figure["trend"], 1e-10, least), f"trend of {where}: {own['trend']!r}, not {figure['trend']!r}"


@both_ways
@all_windows
def test_quantiles_are_within_one_percent_of_the_value_at_their_rank(run, way, name, room, field):
    for own, figure, where in told(run, way, name, room, field):
        for function in figures.QUANTILES:
            assert within_one_percent(own[function], figure[function]), \
                f"{function} of {where}: {own[function]!r}, not {figure[function]!r}"


@both_ways
def test_windows_of_several_rooms_are_each_group_by_itself(run, way):
    due = {}
    for kind, field in (("cpu", "usage"), ("memory", "used"), ("network", None)):
        for start, end, inside in figures.tumbling(values(kind, field or "sent_bytes_per_second"), "15s"):
            due[kind, start, end] = {"kind": kind, "count": len(inside), "usage_count": 0, "usage_sum": 0, "used_count": 0, "used_sum": 0}
            if field:
                due[kind, start, end].update({f"{field}_count": len(inside), f"{field}_sum": math.fsum(inside)})
    outputs = run.out(way, "by_kind", len(due))
    assert {(output["key"], milliseconds(output["data"]["start"]), milliseconds(output["data"]["end"])) for output in outputs} == set(due)
    for output in outputs:
        data = dict(output["data"])
        figure = due[output["key"], milliseconds(data.pop("start")), milliseconds(data.pop("end"))]
        assert data.pop("rate") == figure["count"] / 15
        assert all(close(data.pop(name), figure[name], 1e-12) for name in ("usage_sum", "used_sum"))
        assert data == {name: value for name, value in figure.items() if not name.endswith("_sum")}
    assert [output["timestamp"] for output in outputs] == sorted(output["timestamp"] for output in outputs)


def assert_running(data, field, figure):
    """Figures as they are with each event; `first`, `delta` and `trend` are looked at with windows."""
    for function in ("count", "min", "max", "last", "distinct"):
        assert data[f"{field}_{function}"] == figure[function], (function, data)
    for function in ("sum", "mean"):
        assert close(data[f"{field}_{function}"], figure[function], 1e-12), (function, data)
    assert close(data[f"{field}_stddev"], figure["stddev"], 1e-11, 1e-12), (figure["stddev"], data)
    for function in figures.QUANTILES:
        assert within_one_percent(data[f"{field}_{function}"], figure[function]), (function, figure[function], data)


@both_ways
def test_an_open_window_is_told_with_each_event_as_it_stands_and_once_more_when_it_is_over(run, way):
    due = []
    for start, end, inside in figures.tumbling(figures.series([*recorded("cpu"), *END], "usage"), "20s", "3s"):
        steps = figures.running(figures.times(inside), inside.tolist())
        due += [(start, end, True, figure) for figure in steps] + [(start, end, None, steps[-1])]
    due.pop()  # the window of the event that ended all others is not over
    for output, (start, end, is_open, figure) in zip(run.out(way, "updates", len(due)), due):
        data = output["data"]
        assert (milliseconds(data["start"]), milliseconds(data["end"]), data.get("open")) == (start, end, is_open)
        assert "updated" not in data and milliseconds(output["timestamp"]) == end and data["rate"] == figure["count"] / 20
        assert_running(data, "usage", figure)


@both_ways
@pytest.mark.parametrize("name", ["running", "minutes"])
def test_running_figures_are_with_each_event_those_of_all_up_to_it(run, way, name):
    room, field = {"running": ("cpu", "usage"), "minutes": ("memory", "used")}[name]
    all_of_it = values(room, field)
    parts = [all_of_it] if name == "running" else [part for _, _, part in figures.tumbling(all_of_it, "1min")]
    due = [(ms, ms_of_part[0], figure) for part in parts for ms_of_part in [figures.times(part)]
           for ms, figure in zip(ms_of_part, figures.running(ms_of_part, part.tolist()))]
    for output, (ms, first_ms, figure) in zip(run.out(way, name, len(due)), due):
        assert milliseconds(output["timestamp"]) == ms and output["kind"] == "aggregate"
        data = output["data"]
        assert (data["start"], data["end"], data["count"], data["rate"]) == (text_of(first_ms), text_of(ms), figure["count"], figure["rate"])
        assert data[f"{field}_rate"] == figure["rate"]
        assert_running(data, field, figure)


@both_ways
@pytest.mark.parametrize("name", ALARMS)
def test_alarms_start_and_end_at_the_very_moment(run, way, name):
    room, field, settings = ALARMS[name]
    watched = values(room, field)
    # After the last event the last value holds.
    due = figures.alarms(figures.times(watched), watched.tolist(), LAST_MS + 5000, **settings)
    assert len(due) >= 4, "there is something to be told"
    outputs = run.out(way, f"threshold_{name}", len(due))
    found = [(milliseconds(output["timestamp"]), output["data"]["reason"], output["data"]["state"], output["data"]["value"],
              milliseconds(output["data"]["since"])) for output in outputs]
    assert found == due
    for output, (ms, reason, what, _, since) in zip(outputs, due):
        assert (output["kind"], output["priority"], output["data"]["threshold"]) == ("alarm", "critical", settings[reason])
        assert output["data"].get("duration_ms") == (ms - since if what == "cleared" else None)


@both_ways
@pytest.mark.parametrize("name", ANOMALIES)
def test_anomalies_are_those_of_the_weighted_median_and_mad(run, way, name):
    room, field, settings = ANOMALIES[name]
    watched = values(room, field)
    due = figures.anomalies(figures.times(watched), watched.tolist(), **settings)
    assert len(due) >= 4, "there is something to be told"
    outputs = run.out(way, f"anomaly_{name}", len(due))
    for output, (ms, what, value, median, deviation, score, since) in zip(outputs, due):
        data = output["data"]
        assert (milliseconds(output["timestamp"]), data["state"], data["value"], milliseconds(data["since"])) == (ms, what, value, since)
        assert data["expected"] == median, "a median is one of the values"
        assert close(data["deviation"], deviation, 1e-12) and close(data["score"], score, 1e-12), (deviation, score, output)
        assert data.get("duration_ms") == (ms - since if what == "cleared" else None)


@both_ways
def test_patches_are_the_smallest_that_make_each_event_of_the_one_before(run, way):
    events = [event["data"] for event in nested()]
    due = [{"full": events[0]}] + [{"patch": figures.difference(old, new)} for old, new in zip(events, events[1:]) if old != new]
    outputs = [output["data"] for output in run.out(way, "patches", len(due))]
    assert outputs == due
    changed, known = [events[0]] + [new for old, new in zip(events, events[1:]) if old != new], None
    for output, event in zip(outputs, changed):
        known = output["full"] if known is None else applied(known, output["patch"])
        assert known == event


@both_ways
def test_one_of_so_many_patches_is_whole(run, way):
    events = [event["data"] for event in nested()]
    changed = [events[0]] + [new for old, new in zip(events, events[1:]) if old != new]
    outputs = [output["data"] for output in run.out(way, "fulls", len(changed))]
    assert [place for place, output in enumerate(outputs) if "full" in output] == list(range(0, len(changed), 50))
    known = None
    for output, event in zip(outputs, changed):
        known = output["full"] if "full" in output else applied(known, output["patch"])
        assert known == event


@both_ways
def test_a_rooms_state_changes_as_often_as_what_is_said_and_ends_as_the_last_of_each(run, way):
    kinds = ("cpu", "memory", "network")
    said = {kind: [event["data"] for event in recorded(kind)] for kind in kinds}
    due = {kind: [{kind: figures.difference(old, new)} for old, new in zip([{}, *said[kind]], said[kind]) if old != new] for kind in kinds}
    outputs = run.out(way, "table", sum(len(changes) for changes in due.values()))
    for kind in kinds:
        assert [output["data"] for output in outputs if list(output["data"]) == [kind]] == due[kind]
    known = {}
    for output in outputs:
        known = applied(known, output["data"])
    assert known == {kind: said[kind][-1] for kind in kinds}
    if way == "live":
        assert state(run.daemon, "out:table")["data"] == known


@both_ways
def test_what_is_merged_into_a_rooms_state_stays_until_something_else_is_said(run, way):
    due, known = [], {}
    for event in nested():
        after = applied(known, event["data"])
        if after != known:
            due.append({"": figures.difference(known, after)})
        known = after
    outputs = [output["data"] for output in run.out(way, "merged", len(due))]
    assert outputs == due
    if way == "live":
        assert state(run.daemon, "out:merged")["data"] == {"": known}
        table, page = Table({}, 0), {"cursor": 0, "more": True}
        while page["more"]:
            page = run.daemon.history("out:merged", after=page["cursor"], limit=1000)
            for change in page["events"]:
                table.take(change)
        assert table.known == {"": known}, "who reads all changes has the same table"


def test_events_out_of_order_by_less_than_the_disorder_make_the_same_windows(run):
    in_order = run.live("tumbling_cpu", len(expected("tumbling", "cpu", "usage")))
    found = run.live("shuffled", len(in_order))
    assert [event["ms"] for event in STREAMS["shuffled"]] != [event["ms"] for event in recorded("cpu")]
    for output, other in zip(found, in_order):
        # Added in another order, they may differ in the last digit.
        for figure in ("usage_sum", "usage_mean", "usage_stddev", "usage_trend"):
            assert close(output["data"].pop(figure), other["data"].pop(figure), 1e-10, 1e-10), figure
    assert found == in_order
    assert listed(run.daemon)["shuffled"]["rejected"] == 0


def lateness(name):
    """Windows and late ones as they are due."""
    return figures.late(STREAMS["scattered"], 10_000, DISORDER_MS, LATENESS_MS if name == "patient" else 0)


def assert_told(outputs, due):
    for output, (start, updated, inside) in zip(outputs, due):
        data, figure = output["data"], figures.figures([ms for ms, _ in inside], [value for _, value in inside])
        assert (milliseconds(data["start"]), milliseconds(data["end"]), data.get("updated", False)) == (start, start + 10_000, updated)
        for function in ("count", "min", "max", "first", "last", "delta", "distinct"):
            assert data[f"usage_{function}"] == figure[function], (function, output)
        for function in ("sum", "mean"):
            assert close(data[f"usage_{function}"], figure[function], 1e-12), (function, output)
        assert close(data["usage_stddev"], figure["stddev"], 1e-11, 1e-12), (figure, output)


@pytest.mark.parametrize("name", ["scattered", "patient"])
def test_what_comes_too_late_is_a_dead_letter_and_windows_are_of_all_the_others(run, name):
    due, late = lateness(name)
    assert len(late) > 20, "some are late"
    assert_told(run.live(name, len(due)), due)
    letters = came(run.daemon, f"dead-letter:{name}", len(late))
    assert [milliseconds(letter["data"]["event"]["timestamp"]) for letter in letters] == late
    assert {(letter["data"]["step"], letter["data"]["op"], letter["data"]["field"], letter["data"]["reason"]) for letter in letters} == {
        (1, "window", "timestamp", "late")}
    pattern = rf'^tidegate_pipeline_events_rejected_total\{{(?=[^}}]*pipeline="{name}")(?=[^}}]*reason="late")[^}}]*\}} (\d+)$'
    eventually(lambda: [int(count) for count in re.findall(pattern, run.daemon.get("/metrics").text, re.M)] == [len(late)], "the metric says so")


def test_a_window_is_given_once_more_for_each_event_that_is_late_but_not_too_late(run):
    due, _ = lateness("patient")
    given = [start for start, _, _ in due]
    again = [start for start, updated, _ in due if updated]
    assert len(again) > 20 and len(given) == len(set(given)) + len(again)
    outputs = run.live("patient", len(due))
    assert [output["data"]["start"] for output in outputs if output["data"].get("updated")] == [text_of(start) for start in again]


@pytest.mark.parametrize("name", REPLAYED)
def test_a_replay_gives_what_came_out_live(run, name):
    replayed = run.replayed(name)
    live = run.live(name, len(replayed))
    if name in ("table", "merged"):
        assert {output["kind"] for output in replayed} == {"delta"}
        live, again = ([(output["timestamp"], output["data"]) for output in outputs] for outputs in (live, replayed))
    else:
        again = replayed
    if name in ("table", "by_kind"):  # of several rooms, which live are as they come and replayed by their times
        live, again = (sorted(outputs, key=lambda output: json.dumps(output, sort_keys=True)) for outputs in (live, again))
    assert live == again
    assert run.replayed(name, "rooms") == replayed, "from the daemon's rooms as from the file"


def test_the_last_windows_of_a_stream_that_has_ended_come_by_themselves(run):
    due = figures.tumbling(values("cpu", "usage"), "2s")
    outputs = run.live("idle", len(due))
    for output, (start, end, inside) in zip(outputs, due):
        assert (milliseconds(output["data"]["start"]), output["data"]["count"]) == (start, len(inside))
        assert close(output["data"]["usage_sum"], math.fsum(inside), 1e-12)


def test_what_is_published_again_with_its_ids_changes_nothing(run):
    for room, events in STREAMS.items():
        before = run.daemon.room(f"recorded:{room}")
        assert run.daemon.publish(f"recorded:{room}", as_published(events))["duplicates"] == len(events)
        after = run.daemon.room(f"recorded:{room}")
        assert (after["head"], after["held"]) == (before["head"], before["held"])
