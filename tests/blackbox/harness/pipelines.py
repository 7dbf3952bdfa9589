"""Pipelines of a daemon under test: their files, how they are, and the table that a reader makes of a room's state."""

from urllib.parse import quote

from .process import eventually
from .tokens import SECRET, mint

ADMIN = mint(sub="root", roles=["admin"], ttl=3000)
SETTINGS = {"AUTH__JWT_SECRET": SECRET}  # for a daemon that is asked by ADMIN
WAIT = 20


def write(daemon, **texts):
    """Puts pipelines' files where the daemon looks for them when nothing is set; None takes one away."""
    directory = daemon.directory / "config" / "pipelines"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        file = directory / f"{name}.toml"
        if text is None:
            file.unlink()
        else:
            file.write_text(text)


def listed(daemon):
    """How the pipelines are, by name."""
    answer = daemon.get("/v1/pipelines", key=ADMIN)
    assert answer.status_code == 200, f"pipelines: {answer.status_code} {answer.text}"
    return {found["name"]: found for found in answer.json()["pipelines"]}


def working(daemon):
    """Waits until all pipelines work, so that none misses what comes next; the daemon."""
    eventually(lambda: all(found["works"] for found in listed(daemon).values()), "all pipelines work", WAIT)
    return daemon


def state(daemon, room, **params):
    """A room's state, or None when it has none."""
    answer = daemon.get(f"/v1/rooms/{quote(room, safe='')}/state", params=params)
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, f"state of {room}: {answer.status_code} {answer.text}"
    return answer.json()


def came(daemon, room, count, timeout=WAIT):
    """Waits until a room has had so many events and returns them all; more of them is a failure."""
    def look():
        found = daemon.all_events(room) if daemon.room(room) else []
        return found if len(found) >= count else None

    found = eventually(look, f"{count} events in {room}", timeout)
    assert len(found) == count, f"{count} events were due in {room}, {len(found)} came: {found[count:]}"
    return found


def applied(target, patch):
    """What a merge patch makes of a value, as RFC 7396, section 2, says."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for name, change in patch.items():
        if change is None:
            made.pop(name, None)
        else:
            made[name] = applied(made.get(name), change)
    return made


class Table:
    """What a reader of one room knows of its state. Feed it every message in its order; it is strict about what may come when."""

    def __init__(self, known=None, cursor=0, again=False):
        self.again = again  # whether changes that are in the snapshot may come again, as on long-poll, whose answers know nothing of each other
        self.known, self.cursor, self.snapshots, self.deltas, self.gaps = known, int(cursor), 0, 0, 0

    def take(self, message):
        """Takes a message of any type."""
        kind = message["type"]
        if kind == "snapshot":
            assert len(message["data"]) == message["keys"], message
            self.known, self.snapshots = message["data"], self.snapshots + 1
            self.cursor = int(message["cursor"])
        elif kind == "delta" and self.again and message["seq"] <= self.cursor:
            pass
        elif kind == "delta":
            assert message["seq"] > self.cursor, f"a change that is in what the reader has up to {self.cursor}: {message}"
            assert self.gaps == 0 or self.known is not None, f"something is missing, and no snapshot came before {message}"
            assert set(message) == {"type", "room", "seq", "timestamp", "data"}, message
            self.known = applied(self.known if self.known is not None else {}, message["data"])
            self.cursor, self.deltas = message["seq"], self.deltas + 1
        elif kind in ("gap", "dropped"):
            self.known, self.gaps = None, self.gaps + 1
        else:
            assert kind in ("welcome", "heartbeat", "subscribed"), f"no message about a state: {message}"
        return self
