"""What a daemon holds: memory, files, threads, rooms, connections, metrics, and its log on the disk; and whether a series of such figures grows."""

import os
import re
from itertools import combinations
from pathlib import Path
from statistics import median

_SERIES = re.compile(r"^([a-z_]+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_OWN = re.compile(r'transport="(pipeline|sink)"')  # the daemon's own readers are no clients
# Shown beside memory, files and threads, by the name in /metrics; all series of a name are added up.
GAUGES = {"rooms": "tidegate_rooms", "connections": "tidegate_connections", "sockets": "tidegate_sockets", "actors": "tidegate_actors",
          "tails_kib": "tidegate_tails_bytes", "waiting": "tidegate_events_waiting", "keys": "tidegate_pipeline_keys"}


def vitals(daemon):
    """All of it, as numbers by name."""
    process = Path(f"/proc/{daemon.process.pid}")
    answer = daemon.get("/metrics")
    assert answer.status_code == 200, answer.text
    found = {"rss_kib": daemon.rss_bytes() >> 10, "fds": len(os.listdir(process / "fd")), "threads": len(os.listdir(process / "task")),
             "series": 0, **dict.fromkeys(GAUGES, 0)}
    names = {name: shown for shown, name in GAUGES.items()}
    for name, labels, value in _SERIES.findall(answer.text):
        found["series"] += 1
        if name in names and not _OWN.search(labels):
            found[names[name]] += float(value)
    found["tails_kib"] /= 1024
    found["log_kib"] = disk_bytes(daemon.log_dir) >> 10
    return {name: round(value) for name, value in found.items()}


def disk_bytes(directory):
    """What a directory takes on the disk."""
    total = 0
    for path, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.stat(os.path.join(path, file)).st_blocks * 512
            except FileNotFoundError:
                pass  # gone meanwhile
    return total


def slope(values):
    """By how much a series rises from one value to the next (Theil-Sen: the median of the slopes between any two, which a few outliers do not move)."""
    return median((later - earlier) / (n - m) for (m, earlier), (n, later) in combinations(enumerate(values), 2))


def table(samples, columns):
    """Samples as lines of text."""
    widths = [max(len(str(row.get(name, ""))) for row in [{name: name}, *samples]) for name in columns]
    lines = [[name for name in columns], *[[str(row.get(name, "")) for name in columns] for row in samples]]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
