import pytest, time
from harness import pipelines
from harness.pipelines import *

@pytest.mark.parametrize("more", [0, 1, 10, 60])
def test_ids(start_daemon, more):
    daemon = start_daemon(ROOMS__DEFAULT__TAIL_EVENTS=100)
    mk = lambda a, b: [{"kind": "k", "id": f"i{n}", "data": n} for n in range(a, b)]
    for a in range(0, 500, 20):
        daemon.publish("in", mk(a, a+20))
    daemon.terminate()
    daemon.start()
    if more: print(daemon.publish("in", mk(500, 500+more)))
    daemon.terminate()
    daemon.start()
    known = [n for n in range(0, 500+more) if daemon.publish("in", mk(n, n+1)).get("duplicates")]
    print(more, "known", known[:1], known[-1:], len(known))
