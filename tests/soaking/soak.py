"""A day of churn against a daemon whose clock runs faster: what it holds is looked at all the while, and must not grow.

Visitors come at full speed, each in another way (harness/churn.py); some readers stay for about an hour of the daemon's time. Everything that
the daemon lets go by time goes many times in the run: events by retention, generations of the log, idle rooms, ids, keys of pipelines, revoked
tokens. The first quarter is for warming up. Then the median of each figure in the second quarter is held against that of the last.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from harness import churn
from harness.daemon import Daemon
from harness.pipelines import write
from harness.tokens import SECRET, user
from harness.vitals import slope, table, vitals

HERE = Path(__file__).parent
SETTINGS = {
    "AUTH__JWT_SECRET": SECRET, **user("visitor", churn.PASSWORD, roles="operator"), "AUTH__TOKEN_TTL": "1h",
    "PIPELINES__BUILTIN": "true", "SOURCES__HOST__ENABLED": "true", "SOURCES__HOST__INTERVAL": "1m",
    # What must be let go again and again in a day.
    "ROOMS__DEFAULT__RETENTION_AGE": "1h", "ROOMS__DEFAULT__IDLE_AFTER": "5m", "ROOMS__DEFAULT__IDEMPOTENCY_WINDOW": "10m",
    "ROOMS__STAY__RETENTION_COUNT": "1000", "ROOMS__STAY__RETENTION_AGE": "0s", "LOG__GENERATION_AGE": "10m", "LOG__GENERATION_BYTES": "8MiB",
    # A minute of the daemon's is a fifth of a second: what waits for clients must not be shorter than they can be.
    "LIMITS__HEADER_TIMEOUT": "10m", "LIMITS__BODY_TIMEOUT": "1h", "LIMITS__WRITE_TIMEOUT": "5m", "LIMITS__SEND_BUFFER": "64KiB",
    "LOG__APPEND_TIMEOUT": "1m", "LOG__SYNC_TIMEOUT": "10m", "HEARTBEAT__TIMEOUT": "1d", "HEARTBEAT__INTERVAL": "5m", "HEARTBEAT__COMMENT": "5m",
    "WELLS__PING_INTERVAL": "30m", "WELLS__PING_TIMEOUT": "30m", "WELLS__CONNECT_TIMEOUT": "1h", "WELLS__RECOVERY_WINDOW": "10m",
    # So many wake-ups a second of the daemon's time would be all that a core does.
    "PIPELINES__TICK": "5s", "PIPELINES__SNAPSHOT_INTERVAL": "10m", "LOG__FLUSH_INTERVAL": "1s",
    # As many as there are at once.
    "LIMITS__ROOMS_PER_CONNECTION": 100000,
    # Its windows go by the true time (see clock.c).
    "LIMITS__PER_IP_LOGINS_PER_MINUTE": 0,
}
RESIDENTS = 200
# Visits of which there are few, because each takes much: one in so many rounds.
SELDOM = {churn.login: 10, churn.stalled: 40}
# A visit may be told to come back (503), one in so many: what the daemon waits for by a constant, as 5 s for a room's answer, is 10 ms here.
# A resident may be cut off, one in so many, for the same reason.
SPARED = 500
# By how much the last quarter's median may be above the second one's: so many parts of it, and so many more.
BOUNDS = {"rss_kib": (0.05, 4096), "fds": (0.1, 20), "threads": (0, 1), "series": (0, 5), "rooms": (0.15, 50), "connections": (0.15, 20),
          "sockets": (0.15, 20), "actors": (0.15, 50), "tails_kib": (0.15, 16384), "keys": (0.15, 100), "log_kib": (0.25, 16384)}


def clock():
    """The library that makes the clock run faster, built here and now."""
    built = Path(tempfile.mkdtemp()) / "clock.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", built, HERE / "clock.c", "-ldl"], check=True)
    return built


class Visitors:
    """Threads of visitors that come one after the other. A visit that fails is kept."""

    def __init__(self, place, clients):
        self.place, self.visits, self.failures, self.told_to_come_back = place, Counter(), [], 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        turn = number
        while not self._over.is_set():
            for visit in churn.VISITS:
                if self._over.is_set() or turn % SELDOM.get(visit, 1):
                    continue
                try:
                    visit(self.place)
                    self.visits[visit.__name__] += 1
                except Exception as failure:
                    if "HTTP/1.1 503 " in repr(failure):
                        self.told_to_come_back += 1
                    else:
                        self.failures.append((visit.__name__, repr(failure)))
            turn += 1

    def leave(self):
        """No more of them come."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def soak(daemon, minutes, speed, clients):
    """Runs it; the samples, the visits of each kind, those that failed, and how many residents came and were cut off."""
    began, day = time.monotonic(), time.time()
    place = churn.Place(daemon, now=lambda: day + (time.monotonic() - began) * speed)
    residents = churn.Residents(place, RESIDENTS, stay=3600 / speed)
    visitors = Visitors(place, clients)
    samples, every = [], minutes * 60 / 120
    while time.monotonic() - began < minutes * 60 and len(visitors.failures) < 20:
        time.sleep(max(0, began + every * (len(samples) + 1) - time.monotonic()))
        # Its token would have ended by the daemon's clock.
        place.token = place.minted()
        hours = (time.monotonic() - began) * speed / 3600
        samples.append({"hours": round(hours, 2), **vitals(daemon), "visits": sum(visitors.visits.values())})
        print("\r" + " ".join(f"{name}={value}" for name, value in samples[-1].items()), end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    visitors.leave()
    residents.leave()
    return samples, visitors, residents


def verdict(samples):
    """What has grown beyond its bound, in words; and a table of the medians."""
    quarter = len(samples) // 4
    grown, rows = [], []
    for name, (parts, more) in BOUNDS.items():
        second, last = (median(sample[name] for sample in part) for part in (samples[quarter:2 * quarter], samples[-quarter:]))
        most = second * (1 + parts) + more
        hours = samples[-1]["hours"] / len(samples)
        rising = slope([sample[name] for sample in samples[quarter:]]) / hours
        rows.append({"figure": name, "second quarter": second, "last quarter": last, "may be": round(most), "slope an hour": round(rising, 2)})
        if last > most:
            grown.append(f"{name} went from {second} to {last}, more than {most:.0f}")
    return grown, table(rows, list(rows[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="how long it takes")
    parser.add_argument("--speed", type=int, default=288, help="by how much the daemon's clock runs faster: 5 minutes at 288 are a day")
    parser.add_argument("--clients", type=int, default=6, help="visitors at once")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as directory:
        daemon = Daemon(directory, SETTINGS, lasting=True)
        daemon.wrapper = ["env", f"LD_PRELOAD={clock()}", f"SOAK_SPEED={asked.speed}"]
        write(daemon, keyed=churn.pipeline())
        try:
            daemon.start()
            samples, visitors, residents = soak(daemon, asked.minutes, asked.speed, asked.clients)
            ended = daemon.process.poll()
            log = daemon.log_text()
        finally:
            daemon.stop()
    print(table(samples[::max(1, len(samples) // 24)], list(samples[0])))
    grown, medians = verdict(samples)
    visits = sum(visitors.visits.values())
    print(f"\n{medians}\n\n{samples[-1]['hours']} hours in {asked.minutes} minutes; {visits} visits: {json.dumps(visitors.visits)}; "
          f"{visitors.told_to_come_back} told to come back; {residents.came} residents, {residents.cut} of them cut off by the daemon")
    faults = [*grown, *(f"a visit failed: {name}: {failure}" for name, failure in visitors.failures[:5])]
    if visitors.told_to_come_back * SPARED > visits:
        faults.append(f"{visitors.told_to_come_back} of {visits} visits were told to come back")
    if residents.cut * SPARED > residents.came:
        faults.append(f"{residents.cut} of {residents.came} residents were cut off")
    if ended is not None:
        faults.append(f"the daemon has ended with {ended}")
    if "panicked" in log:
        faults.append("the daemon panicked")
    for fault in faults:
        print(f"FAILED: {fault}")
    if faults and os.environ.get("SOAK_LOG"):
        Path(os.environ["SOAK_LOG"]).write_text(log)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
