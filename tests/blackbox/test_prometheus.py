"""What the folder grafana/ promises: a real Prometheus takes its configuration and rules, every alert fires when it should and at no
other time, and every panel of every dashboard shows data of a daemon under load.

The load makes every counter appear that can be made to appear without breaking anything; `Load` says what makes which. Two stay away:
tidegate_log_faults_total and tidegate_audit_dropped_total need a disk that takes nothing more (test_full_disk.py).
"""

import json
import re
import secrets
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
import requests
import yaml
from websockets.exceptions import ConnectionClosed

from harness import pipelines
from harness.daemon import Daemon
from harness.load import Publisher
from harness.process import eventually
from harness.prometheus import FOLDER, Prometheus, configuration, promtool
from harness.ws import Ws

DOCS = FOLDER.parent / "docs"
RULES = FOLDER / "rules"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
NEEDS_A_FAULT = {"tidegate_log_faults_total", "tidegate_audit_dropped_total"}

PASSWORD = "a-password-for-this-test"
SETTINGS = {
    # A reader that does not read is slow after a few events, and cut after a while.
    "LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "3s",
    "HEARTBEAT__INTERVAL": "1s", "HEARTBEAT__TIMEOUT": "2s",
    "ROOMS__DRILL__ON_FULL": "displace", "ROOMS__PUMP__CONFLATE": "true",
    "ROOMS__SHORT__RETENTION_COUNT": 10, "ROOMS__SHORT__TAIL_EVENTS": 10, "ROOMS__OLD__TAIL_EVENTS": 5,
    "LOG__BYTES_MAX": "4MiB", "LOG__GENERATION_BYTES": "1MiB",
    "LIMITS__CONNECTIONS": 60, "LIMITS__ROOMS": 20,
    "AUTH__ADMIN_PASSWORD": PASSWORD,
}
# All tidegate_pipeline_…; tidegate_pipeline_events_rejected_total by what comes into old:twice, which has no n.
PIPELINE = """
[pipeline]
from = ["well:*", "old:*"]
[[step]]
op = "threshold"
field = "n"
by = "room"
above = 10
pass = true
[[output]]
room = "made:1"
"""


def rules(file):
    """The rules of a file, as they are written."""
    return [rule for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]


ALERTS = rules("alerts.yml")


def panels(dashboard):
    """All panels that show something, those of collapsed rows too."""
    for panel in json.loads(dashboard.read_text())["panels"]:
        yield from (inner for inner in [panel, *panel.get("panels", [])] if inner["type"] != "row")


def expressions(dashboard):
    """Panel title and query, one for each query of a dashboard, with Grafana's variables filled in as for `All`."""
    variables = {variable["name"]: variable.get("allValue", "") for variable in json.loads(dashboard.read_text())["templating"]["list"]}
    variables.update({"__rate_interval": "5s", "__interval": "1s", "__range": "1m"})
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], re.sub(r"\$\{?(\w+)\}?", lambda found: variables[found.group(1)], target["expr"])


class Load:
    """Clients of every kind, some of them at fault, until `stop`. Each says which figures only it makes appear."""

    def __init__(self, daemon):
        self.daemon, self.open, self.over = daemon, [], threading.Event()
        self.publishers = [Publisher(daemon, f"well:{ack}", name=ack, ack=ack, pause=0.01) for ack in ("memory", "logged", "synced")]
        for publisher in self.publishers:  # tidegate_publish_seconds for each ack, realtime_publish_duration_seconds
            publisher.wait_acked(1)
        self.logins()
        self.reloads()
        self.crowd()
        self.faulty_client()
        self.events_that_go()
        for _ in range(3):
            self.thread(self.read_websocket, self.client("well:*"))
            self.thread(self.read_sse)
        for task in (self.long_polls, self.sleepers, self.refusals, self.replays):
            self.thread(task)

    def thread(self, task, *arguments):
        def run():
            with requests.Session() as session, suppress(requests.RequestException, ConnectionClosed, OSError):
                session.trust_env = False
                session.headers["Authorization"] = f"Bearer {self.daemon.key}"
                task(session, *arguments)
        threading.Thread(target=run, daemon=True).start()

    def client(self, *arguments, **options):
        self.open.append(Ws(self.daemon, *arguments, **options))
        return self.open[-1]

    def logins(self):
        """tidegate_logins_total, good and bad."""
        assert self.daemon.login("admin", PASSWORD).status_code == 200
        assert self.daemon.login("admin", "a-wrong-password").status_code == 401

    def reloads(self):
        """tidegate_settings_reloads_total, good and bad."""
        self.daemon.reload("")
        self.daemon.reload("[limits]\nno_such_setting = 1\n", says="no_such_setting")

    def crowd(self):
        """tidegate_connections_refused_total: more sockets than there may be. Then all are gone again, so that others find a place."""
        sockets = [socket.create_connection(self.daemon.address.rsplit(":", 1), timeout=10) for _ in range(SETTINGS["LIMITS__CONNECTIONS"] + 65)]  # beside the streams there is room for 64 calls
        for one in sockets:
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = Counter(one.recv(12).decode() for one in sockets)
        assert answers["HTTP/1.1 503"], answers
        for one in sockets:
            one.close()
        eventually(lambda: int(re.search(r"^tidegate_sockets (\d+)", self.daemon.get("/metrics").text, re.M).group(1)) < 10, "they are gone")

    def faulty_client(self):
        """websocket_errors_total, tidegate_connections_cut_total."""
        client = self.client("well:memory")
        client.send("{")
        client.until("error")
        client.send("x" * 200_000)
        client.closed()

    def events_that_go(self):
        """tidegate_log_events_expired_total: a room keeps ten. tidegate_gaps_total: a reader asks for the others.
        tidegate_log_events_expelled_total: more than log.bytes_max, of what does not compress."""
        first = self.daemon.publish_numbers("short:1", [-1])["first_seq"]
        for _ in range(20):
            self.daemon.publish_numbers("short:1", range(20))
        eventually(lambda: self.daemon.history("short:1", after=first, limit=1)["notices"], "the room has let events go")
        self.client("short:1", after=first).until("gap")
        for _ in range(12):
            self.daemon.publish("big:1", [{"kind": "n", "data": secrets.token_urlsafe(50_000)} for _ in range(12)])

    def read_websocket(self, _session, client):
        """The transport `websocket`."""
        while not self.over.is_set():
            with suppress(AssertionError):
                client.next(1)

    def read_sse(self, session):
        """The transport `sse`."""
        with session.get(f"{self.daemon.url}/v1/stream?rooms=well:*", headers={"Accept": "text/event-stream"}, stream=True, timeout=30) as answer:
            for _ in answer.iter_lines():
                if self.over.is_set():
                    return

    def long_polls(self, session):
        """The transport `poll`; tidegate_events_replayed_total, because each asks for history."""
        while not self.over.wait(0.05):
            with suppress(requests.RequestException):
                session.get(f"{self.daemon.url}/v1/stream?rooms=well:*&tail=5&wait=1s", timeout=30)

    def sleepers(self, session):
        """Readers that read nothing. tidegate_slow_connections, tidegate_mailboxes_bytes, tidegate_catch_ups_total: one reads on from the log.
        tidegate_events_shed_total, tidegate_events_conflated_total: two in namespaces that do not catch up. tidegate_events_abandoned_total,
        and tidegate_connections_cut_total with the reasons `stalled` and `silent`: they are cut."""
        rooms = ("slow:1", "drill:1", "pump:1")
        while not self.over.is_set():
            begun = time.monotonic()
            asleep = [self.sleeper(room) for room in rooms]
            silent = Ws(self.daemon, "slow:1", slow=True)
            while time.monotonic() < begun + 6 and not self.over.wait(0.02):
                for room in rooms:
                    for priority in ("normal", "critical"):
                        body = [{"kind": "n", "key": f"k{n % 3}", "priority": priority, "data": "x" * 2000} for n in range(20)]
                        session.post(f"{self.daemon.url}/v1/rooms/{room}/events?ack=memory", json=body, timeout=30)
            for one in asleep:
                one.close()
            silent.close()

    def sleeper(self, room):
        """A socket that takes the head of an event stream and nothing more."""
        host, port = self.daemon.address.rsplit(":", 1)
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(10)
        one.connect((host, int(port)))
        one.sendall((f"GET /v1/stream?rooms={room} HTTP/1.1\r\nHost: {self.daemon.address}\r\nAccept: text/event-stream\r\n"
                     f"Authorization: Bearer {self.daemon.key}\r\n\r\n").encode())
        head = b""
        while b"welcome" not in head:
            part = one.recv(1000)
            assert part, f"the stream of {room} ended: {head}"
            head += part
        return one

    def refusals(self, session):
        """tidegate_requests_refused_total: a wrong key. tidegate_events_duplicate_total: every id twice.
        tidegate_publishes_refused_total: more rooms than there may be."""
        url, n = self.daemon.url, 0
        while not self.over.wait(0.05):
            n += 1
            session.get(f"{url}/v1/rooms", headers={"Authorization": "Bearer a-wrong-key"}, timeout=30)
            session.post(f"{url}/v1/rooms/old:twice/events", json={"kind": "n", "data": n, "id": f"id-{n // 2}"}, timeout=30)
            session.post(f"{url}/v1/rooms/new:{n}/events", json={"kind": "n", "data": 1}, timeout=30)

    def replays(self, session):
        """tidegate_replay_seconds: what is not in memory any more."""
        while not self.over.wait(0.05):
            with suppress(requests.RequestException):  # one that meets a full house is no reason to stop
                session.get(f"{self.daemon.url}/v1/rooms/old:twice/events?tail=100", timeout=30)

    def stop(self):
        self.over.set()
        for publisher in self.publishers:
            publisher.stop()
        for client in self.open:
            client.close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A daemon under load, and the Prometheus that scrapes it; one of each for all tests that only look."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), SETTINGS, lasting=True).configure("")
    pipelines.write(daemon, made=PIPELINE)
    daemon.start()
    prometheus = load = None
    try:
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), daemon.address, daemon.key, lasting=True)
        load = Load(daemon)
        yield daemon, prometheus
    finally:
        if load:
            load.stop()
        if prometheus:
            prometheus.stop()
        daemon.stop()
    assert "panicked at" not in daemon.log_text(), "the daemon panicked; see its log"


@pytest.fixture
def prometheus(request, loaded):
    """The Prometheus of the daemon under load."""
    request.node.daemons = [loaded[0]]
    return loaded[1]


def test_the_configuration_is_one_prometheus_takes(tmp_path):
    promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")
    promtool("check", "config", configuration(tmp_path, "127.0.0.1:1", "a-key"))


@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_the_rules_are_ones_prometheus_takes(file):
    promtool("check", "rules", RULES / file)


def test_every_alert_fires_when_it_should_and_at_no_other_time():
    promtool("test", "rules", RULES / "tests.yml")


def test_no_alert_is_without_a_test_that_sees_it_fire_and_one_that_does_not():
    fires, silent = set(), set()
    for case in yaml.safe_load((RULES / "tests.yml").read_text())["tests"]:
        alert = case["name"].split()[0]
        for moment in case["promql_expr_test"]:
            seen = {name for sample in moment["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
            (fires if alert in seen else silent).add(alert)
    assert fires & silent == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_happens_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    said = rule["annotations"]
    assert "$labels.instance" in said["summary"] and len(said["description"]) > 80
    assert said["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_runbook_is_there():
    headings = re.findall(r"^#+ +(.*?) *$", (DOCS / "operations.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert {rule["annotations"]["runbook"].partition("#")[2] for rule in ALERTS} - anchors == set()


def metrics_in(expression):
    """The metrics that an expression asks for, histograms' series by the histogram's name."""
    named = re.findall(r'__name__=~"([^"]*)"', expression)
    bare = re.sub(r'"(\\.|[^"\\])*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\w|:|\s*\()", re.sub(r"\b\d[\w.]*", " ", bare))
    words += [name for names in named for name in names.split("|")]
    return {re.sub(r"_(bucket|sum|count)$", "", word) for word in words} - {"or", "and", "unless", "bool", "offset"}


def metrics_asked_for():
    """Where each metric is used that is not one of Prometheus's own or a recorded one."""
    own = {"up", "ALERTS"} | {rule["record"] for rule in rules("recording.yml")}
    places = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in ALERTS + rules("recording.yml")]
    for dashboard in DASHBOARDS:
        board = json.loads(dashboard.read_text())
        places += [(f"{dashboard.name}: {title}", expression) for title, expression in expressions(dashboard)]
        places += [(f"{dashboard.name}: annotation", entry["expr"]) for entry in board["annotations"]["list"] if "expr" in entry]
        places += [(f"{dashboard.name}: variable {entry['name']}", re.fullmatch(r"label_values\((.*), \w+\)", entry["definition"]).group(1))
                   for entry in board["templating"]["list"] if entry["type"] == "query"]
    return {name: place for place, expression in places for name in metrics_in(expression) - own}


def test_every_metric_that_is_asked_for_is_in_the_documentation():
    documented = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "metrics.md").read_text(), re.M))
    unknown = {name: place for name, place in metrics_asked_for().items() if name not in documented}
    assert not unknown, "\n".join(f"{name}: {place}" for name, place in sorted(unknown.items()))


def test_every_metric_that_is_asked_for_appears_under_load(prometheus):
    """So that no `or vector(0)` hides a name that nobody counts under."""
    def missing():
        known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in prometheus.ask("label/__name__/values")}
        return set(metrics_asked_for()) - known - NEEDS_A_FAULT

    with suppress(AssertionError):
        eventually(lambda: not missing(), "all metrics appear", timeout=20, every=0.2)
    assert not missing(), "\n".join(sorted(missing()))


def test_no_rule_waits_for_a_label_that_never_comes(prometheus):
    """What is asked for by a label's value is there under load too."""
    asked = {selector for rule in ALERTS + rules("recording.yml") for selector in re.findall(r'\b(?!up\b)[a-z][\w:]*\{[^}]*\}', rule["expr"])}
    assert len(asked) >= 5
    left = without_data(prometheus, [(selector, f"count({selector})") for selector in sorted(asked)])
    assert not left, "\n".join(selector for selector, _ in left)


def test_a_slow_reader_shows(prometheus):
    for name in ("tidegate_slow_connections", "tidegate_mailboxes_bytes", "instance:tidegate_deliveries:outstanding"):
        eventually(lambda: prometheus.value(f"max_over_time({name}[1m])"), f"{name} is more than nothing", timeout=20, every=0.2)


def without_data(prometheus, queries, timeout=20):
    """Those of the queries that do not come to a number within the time."""
    left = list(queries)

    def all_answered():
        left[:] = [entry for entry in left if not prometheus.numbers(entry[1])]
        return not left

    with suppress(AssertionError):
        eventually(all_answered, "all queries have data", timeout, every=0.2)
    return left


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_shows_data_of_a_daemon_under_load(prometheus, dashboard):
    left = without_data(prometheus, expressions(dashboard))
    assert not left, "\n".join(f"{title}: {expression}" for title, expression in left)


def test_every_recording_rule_records_what_a_daemon_under_load_does(prometheus):
    recorded = [(rule["record"], rule["record"]) for rule in rules("recording.yml")]
    left = without_data(prometheus, recorded)
    assert not left, "\n".join(name for name, _ in left)
    assert [rule["lastError"] for rule in prometheus.rules("record") if rule["health"] != "ok"] == []


def test_no_alert_stirs_while_a_daemon_does_its_work(start_daemon, tmp_path, ws):
    daemon = start_daemon()
    prometheus = Prometheus(tmp_path, daemon.address, daemon.key)
    before, pattern = ws(daemon, "well:logged"), ws(daemon, "well:*")
    publishers = [Publisher(daemon, f"well:{ack}", name=ack, ack=ack, pause=0.02) for ack in ("memory", "logged", "synced")]
    before.take(40)
    pattern.take(100)
    ws(daemon, "well:*", tail=10).take(20)
    eventually(lambda: prometheus.numbers("instance_transport:tidegate_delivery_seconds:p99_5m"), "the rules have figures", every=0.2)
    eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules("alert")), "all alerts are evaluated", every=0.2)
    assert prometheus.query("ALERTS") == []
    for publisher in publishers:
        publisher.stop()


def test_a_daemon_that_dies_is_seen_at_once(start_daemon, tmp_path):
    daemon = start_daemon()
    prometheus = Prometheus(tmp_path, daemon.address, daemon.key)
    eventually(lambda: prometheus.value('up{job="tidegate"}') == 1, "it is scraped", every=0.1)
    daemon.kill9()
    eventually(lambda: prometheus.value('ALERTS{alertname="TidegateDown", instance!=""}'), "the alert is on its way", every=0.1)


def test_a_wrong_token_is_as_bad_as_no_daemon(daemon, tmp_path):
    prometheus = Prometheus(tmp_path, daemon.address, "a-wrong-key")
    eventually(lambda: prometheus.value('ALERTS{alertname="TidegateDown", instance!=""}'), "the alert is on its way", every=0.1)
    [target] = prometheus.ask("targets")["activeTargets"]
    assert "401" in target["lastError"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_takes_its_data_source_from_a_variable_and_says_of_each_panel_what_is_normal(dashboard):
    board = json.loads(dashboard.read_text())
    assert board["uid"].startswith("tidegate-") and board["schemaVersion"] >= 39 and board["templating"]["list"][0]["type"] == "datasource"
    for panel in panels(dashboard):
        assert panel["description"], panel["title"]
        if panel["type"] == "text":
            continue
        assert "ormal" in panel["description"] or panel["type"] == "stat", f"{panel['title']} does not say what is normal"
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]:
            assert source == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_lies_on_another(dashboard):
    taken = {}
    for panel in json.loads(dashboard.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            assert taken.setdefault(cell, panel["id"]) == panel["id"], f"{panel['title']} lies on another panel"


def test_no_two_dashboards_have_the_same_name():
    boards = [json.loads(dashboard.read_text()) for dashboard in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) >= 4
