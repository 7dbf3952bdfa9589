"""`tidegate bench surfaces`: a crowd of dashboards at once, and figures that are what was measured."""

import json

import pytest

from harness.daemon import run

ROWS = "native-websocket,native-sse,buffer"


def bench(tmp_path, *arguments, **settings):
    return run(["bench", "surfaces", "--seconds", "3", "--json", *arguments], settings, tmp_path, timeout=60)


def rows(result):
    """The report's rows by name."""
    return {row["surface"]: row for row in json.loads(result.stdout)["rows"]}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where programs put what is only for now."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def test_it_measures_a_daemon_of_its_own_of_which_nothing_is_left(tmp_path, temporary):
    done = bench(tmp_path, "--only", ROWS, "--clients", "30", AUTH__API_KEYS="not:taken")
    assert done.code == 0, done
    found = rows(done)
    assert list(found) == ROWS.split(",")
    for name, row in found.items():
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"] < 10_000, row
        assert (row["clients"], row["refused"], row["errors"], row["ended"]) == (30, None, 0, 0), row
        assert row["memory_bytes_per_client"] >= 0 and row["measured"]
        assert row["messages"] == 30 * round(row["messages"] / 30) or name == "buffer"
    for name in ["native-websocket", "native-sse"]:
        row = found[name]
        assert row["messages"] == row["due"] and row["missing"] == 0 and 3 <= row["messages"] / 30 <= 5, row
    assert 5 <= found["buffer"]["messages"] / 30 <= 8, "figures come every 500 ms"
    assert list(temporary.iterdir()) == []


def test_it_measures_a_daemon_that_runs_and_its_memory_by_its_process(daemon, tmp_path):
    done = bench(tmp_path, "--only", ROWS, "--clients", "20", "--url", daemon.url, "--pid", str(daemon.process.pid), TOKEN=daemon.key)
    assert done.code == 0, done
    assert all(row["messages"] > 0 and row["memory_bytes_per_client"] is not None for row in rows(done).values())
    assert daemon.room("bench:surfaces")["subscribers"] == 0


def test_what_a_surface_refuses_is_said_and_the_others_are_measured(start_daemon, tmp_path):
    daemon = start_daemon(SURFACES__ENABLED="overview")
    done = bench(tmp_path, "--only", ROWS, "--clients", "5", "--url", daemon.url, TOKEN=daemon.key)
    assert done.code == 1 and "buffer" in done.stderr, done
    found = rows(done)
    assert "404" in found["buffer"]["refused"] and found["native-sse"]["missing"] == 0


def test_as_a_table_it_says_what_each_row_measured(tmp_path, temporary):
    done = run(["bench", "surfaces", "--seconds", "1", "--clients", "3", "--only", "native-sse"], {}, tmp_path, timeout=60)
    assert done.code == 0, done
    head, row = [line for line in done.stdout.splitlines() if line.startswith(("surface", "native-sse"))]
    assert head.split() == ["surface", "clients", "messages", "each/s", "bytes", "p50", "ms", "p95", "ms", "p99", "ms", "max", "ms", "KiB/client", "missing"]
    assert row.split()[:2] == ["native-sse", "3"] and "native-sse: one event a second" in done.stdout
