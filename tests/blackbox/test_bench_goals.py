"""`tidegate bench goals`: rows beside a bare broadcaster, and figures that are what was measured.

With a few readers only: what is tried here is the bench, not the daemon's speed.
"""

import json

import pytest

from harness.daemon import run

NAMES = ["websocket", "latency", "publishers", "sse", "rooms", "memory", "connecting", "last", "replay-memory", "replay-log", "storm", "ingest",
         "batches", "stalled", "operators", "disk"]


def bench(tmp_path, *arguments, **settings):
    return run(["bench", "goals", "--short", "--scale", "0.01", "--runs", "1", "--dir", str(tmp_path), *arguments], settings, tmp_path, timeout=60)


def left(tmp_path):
    """What stands in the directory that servers were to use."""
    return [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("tidegate-bench-")]


def test_rows_are_measured_beside_the_floor_and_nothing_is_left(tmp_path):
    done = bench(tmp_path, "--only", "websocket,ingest", "--json", "--out", str(tmp_path / "figures.json"), AUTH__API_KEYS="not:taken")
    assert done.code == 0, done
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["websocket", "ingest"]
    for row in report["rows"]:
        assert row["wrong"] == 0 and "error" not in row, row
        [goal] = row["goals"]
        assert goal["tidegate"] > 0 and goal["floor"] > 0, goal
        # Of one run: to the mean of the floors before and after it, and beside it to their median, which is the same for two.
        assert goal["least"] == goal["reached"] == goal["most"] == pytest.approx(goal["tidegate"] / goal["floor"]), goal
        assert goal["must_met"] == (goal["reached"] >= goal["must"]), goal
    machine = report["machine"]
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 1 << 20 and machine["kernel"] and machine["date"] and machine["tidegate"]
    assert machine["short"] is True and machine["settings"]["limits.per_ip_sockets"] == "0"
    assert left(tmp_path) == []


@pytest.mark.parametrize("rows", ["rooms,sse", "replay-memory,replay-log", "connecting,last", "operators,batches"])
def test_every_reader_has_everything(tmp_path, rows):
    done = bench(tmp_path, "--only", rows, "--json")
    assert done.code == 0, done
    found = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in found] == [name for name in NAMES if name in rows.split(",")]
    for row in found:
        assert row["wrong"] == 0 and all(goal["reached"] > 0 for goal in row["goals"]), row


def test_a_missed_must_fails_only_where_that_is_asked_for(tmp_path):
    """Connections of a few readers come nowhere near what must be in a build without optimisation; where they do, both ends are 0."""
    done = bench(tmp_path, "--only", "connecting")
    assert done.code == 0 and "connections, /s" in done.stdout, done
    strict = bench(tmp_path, "--only", "connecting", "--strict")
    missed = "missed" in strict.stdout
    assert strict.code == (1 if missed else 0) and ("connecting" in strict.stderr) == missed, strict


def test_a_row_that_is_none_is_refused_and_those_that_are_are_named(tmp_path):
    done = bench(tmp_path, "--only", "websocket,nonsense")
    assert done.code == 2 and "nonsense" in done.stderr, done
    assert all(name in done.stderr for name in NAMES), done


def test_rows_are_listed_with_what_must_be(tmp_path):
    done = bench(tmp_path, "--list")
    assert done.code == 0, done
    listed = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert listed == NAMES
    assert "must ≥ 0.85, aim ≥ 0.95" in done.stdout
