"""The books that the daemon keeps of a connection, as an admin sees them: they must add up whenever one looks."""

from .process import eventually
from .tokens import mint

ADMIN = mint(sub="root", roles=["admin"], ttl=3000)  # for a daemon with AUTH__JWT_SECRET=SECRET
PARTS = ("delivered", "filtered", "conflated", "shed", "missed", "waiting")


def connection(daemon, number):
    """A connection by its number."""
    answer = daemon.get(f"/v1/connections/{number}", key=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ledger(daemon, number):
    """Its ledger, which must add up."""
    found = connection(daemon, number)["ledger"]
    assert set(found) == {"due", *PARTS}, found
    assert found["due"] == sum(found[part] for part in PARTS), f"does not add up: {found}"
    return found


def settled(daemon, number, due, timeout=15):
    """Waits until `due` events were due and nothing of them waits; the ledger, which must add up every time one looks."""
    def look():
        found = ledger(daemon, number)
        assert found["due"] <= due, f"more than {due}: {found}"
        return found if found["due"] == due and not found["waiting"] else None

    return eventually(look, f"a ledger of {due} events of which none waits", timeout, every=0.1)
