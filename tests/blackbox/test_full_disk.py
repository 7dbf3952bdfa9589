"""What happens on a disk that is full: nothing acknowledged is lost, publishers are told, and writing goes on by itself when there is room.

The log lies on a small file system of its own: a tmpfs in a mount namespace that only the daemon has, reached from here through /proc.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.api import numbers, problem
from harness.process import eventually

DISK = 24 << 20


def namespace():
    """A command that runs another one with mounts of its own, with or without root."""
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    assert tried.returncode == 0, f"this test needs mount namespaces ({' '.join(command)}): {tried.stderr}"
    return command


@pytest.fixture
def small_disk(start_daemon):
    """A daemon whose log is on a file system of 24 MiB, and that file system as seen from here."""
    daemon = start_daemon(started=False, LOG__SYNC_TIMEOUT="1s", LOG__APPEND_TIMEOUT="500ms", LOG__QUEUE_EVENTS=64,
                          LOG__GENERATION_BYTES="4MiB", ROOMS__DEFAULT__RETENTION_COUNT=0, ROOMS__DEFAULT__RETENTION_BYTES=0)
    disk = daemon.directory / "disk"
    disk.mkdir()
    daemon.settings["LOG__DIR"] = disk / "log"
    script = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
    daemon.wrapper = [*namespace(), "sh", "-c", script, str(disk)]
    daemon.start()
    return daemon, Path(f"/proc/{daemon.process.pid}/root{disk}")


def fill(path):
    """Takes what is left of the file system; the file to delete."""
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
    assert shutil.disk_usage(path).free < 65536
    return filler


def test_a_full_disk_refuses_publishers_keeps_what_it_had_and_goes_on_when_there_is_room(small_disk, room):
    daemon, path = small_disk
    before = daemon.publish_numbers(room, range(50), pad=2000, ack="synced")
    filler = fill(path)
    acknowledged = 50

    def refused():
        nonlocal acknowledged
        body = [{"kind": "n", "data": {"n": n, "pad": "x" * 2000}} for n in range(acknowledged, acknowledged + 10)]
        answer = daemon.post_events(room, json.dumps(body))
        if answer.status_code == 202:
            acknowledged += 10
        # In a list, because a refusal counts as false.
        return [answer] if answer.status_code != 202 else None

    [answer] = eventually(refused, "a publish is refused", timeout=30)
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert daemon.request("GET", "/livez").status_code == 200
    eventually(lambda: daemon.request("GET", "/readyz").status_code == 503, "not ready", timeout=10)
    assert "full" in daemon.stderr.text() or "space" in daemon.stderr.text(), "the log says nothing of the disk"
    # Readers are served meanwhile.
    assert daemon.history(room, after=before["first_seq"] - 1, limit=50)["events"][0]["data"]["n"] == 0

    filler.unlink()
    eventually(lambda: daemon.request("GET", "/readyz").status_code == 200, "ready again", timeout=30)
    daemon.publish_numbers(room, [-1], ack="synced")
    found = numbers(daemon.all_events(room))
    assert set(range(acknowledged)) <= set(found), "acknowledged and lost"
