"""What the folder grafana/ promises: a real Prometheus takes its configuration and rules, every alert fires when it should and at no
other time, and every panel of every dashboard shows data of a daemon under load.

The load makes every counter appear that can be made to appear without breaking anything; `Load` says what makes which. Only
tidegate_log_faults_total stays away: it needs a broken disk (test_full_disk.py).
"""

import json
import re
import secrets
import signal
import socket
import threading
from contextlib import suppress

import pytest
import requests
import yaml
from websockets.exceptions import ConnectionClosed

from harness.daemon import Daemon
from harness.load import Publisher
from harness.process import eventually
from harness.prometheus import FOLDER, Prometheus, configuration, promtool
from harness.ws import Ws

DOCS = FOLDER.parent / "docs"
RULES = FOLDER / "rules"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
NEEDS_A_FAULT = {"tidegate_log_faults_total"}

PASSWORD = "a-password-for-this-test"
SETTINGS = {
    # A reader that does not read is slow after a few events, and stays.
    "LIMITS__SEND_BUFFER": "64KiB", "LIMITS__MAILBOX_MESSAGES": 10, "LIMITS__WRITE_TIMEOUT": "60s",
    "ROOMS__DRILL__ON_FULL": "displace", "ROOMS__PUMP__CONFLATE": "true", "ROOMS__SHORT__RETENTION_COUNT": 10, "ROOMS__SHORT__TAIL_EVENTS": 10,
    "LOG__BYTES_MAX": "4MiB", "LOG__GENERATION_BYTES": "1MiB",
    "LIMITS__CONNECTIONS": 60, "LIMITS__ROOMS": 20,
    "AUTH__ADMIN_PASSWORD": PASSWORD,
}


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
    """Clients of every kind, some of them at fault, until `stop`. Behind each stands what only it makes appear."""

    def __init__(self, daemon):
        self.daemon, self.open, self.over = daemon, [], threading.Event()
        self.publishers = [Publisher(daemon, f"well:{ack}", name=ack, ack=ack, pause=0.01) for ack in ("memory", "logged", "synced")]  # tidegate_publish_seconds
        self.wrong_once()
        self.slow_readers()
        self.events_that_go()
        self.readers()
        for task in (self.again_and_again, self.long_polls):
            threading.Thread(target=task, daemon=True).start()

    def client(self, *arguments, **options):
        self.open.append(Ws(self.daemon, *arguments, **options))
        return self.open[-1]

    def readers(self):
        """tidegate_connections and all that is delivered, by transport; websocket_messages_total."""
        for _ in range(3):
            threading.Thread(target=self.read_websocket, args=(self.client("well:*"),), daemon=True).start()
            threading.Thread(target=self.read_sse, daemon=True).start()

    def read_websocket(self, client):
        with suppress(ConnectionClosed, AssertionError, OSError):
            while not self.over.is_set():
                client.send({"type": "ping"})
                client.next()

    def read_sse(self):
        headers = {"Authorization": f"Bearer {self.daemon.key}", "Accept": "text/event-stream"}
        with suppress(requests.RequestException), requests.Session() as session:
            session.trust_env = False
            with session.get(f"{self.daemon.url}/v1/stream?rooms=well:*", headers=headers, stream=True, timeout=30) as answer:
                for _ in answer.iter_lines():
                    if self.over.is_set():
                        return

    def long_polls(self):
        """The transport `poll`, and replays all the time (tidegate_replay_seconds)."""
        with suppress(requests.RequestException), requests.Session() as session:
            session.trust_env = False
            while not self.over.is_set():
                session.get(f"{self.daemon.url}/v1/stream?rooms=well:*&tail=10&wait=1s", headers={"Authorization": f"Bearer {self.daemon.key}"}, timeout=30)

    def slow_readers(self):
        """tidegate_slow_connections, tidegate_events_waiting, tidegate_mailboxes_bytes, tidegate_catch_ups_total: one that does not read.
        tidegate_events_shed_total, tidegate_events_conflated_total: the same in namespaces that do not catch up.
        tidegate_events_abandoned_total: one that leaves with events waiting."""
        for room in ("slow:1", "drill:1", "pump:1"):
            self.client(room, slow=True)
        leaves = self.client("slow:1", slow=True)
        for room in ("slow:1", "drill:1", "pump:1"):
            for start in range(0, 2000, 250):
                self.daemon.publish(room, [{"kind": "n", "key": f"k{n % 3}", "data": {"n": n, "pad": "x" * 2000}} for n in range(start, start + 250)])
        leaves.close()

    def events_that_go(self):
        """tidegate_log_events_expired_total: a room keeps ten. tidegate_gaps_total and tidegate_events_missed_total: a reader asks for the others.
        tidegate_log_events_expelled_total: more than log.bytes_max, of what does not compress."""
        first = self.daemon.publish_numbers("short:1", [-1])["first_seq"]
        for _ in range(20):
            self.daemon.publish_numbers("short:1", range(20))
        eventually(lambda: self.daemon.history("short:1", after=first, limit=1)["notices"], "the room has let events go")
        self.client("short:1", after=first).until("gap")
        for _ in range(12):
            self.daemon.publish("big:1", [{"kind": "n", "data": secrets.token_urlsafe(50_000)} for _ in range(12)])

    def wrong_once(self):
        """What is refused, said twice or said wrongly, one of each and before the streams take their places."""
        daemon = self.daemon
        assert daemon.login("admin", PASSWORD).status_code == 200  # tidegate_logins_total
        daemon.login("admin", "a-wrong-password")
        daemon.process.send_signal(signal.SIGHUP)  # tidegate_settings_reloads_total
        client = self.client("well:memory")
        client.send("{")  # websocket_errors_total
        client.until("error")
        client.send("x" * 200_000)  # tidegate_connections_cut_total
        client.closed()
        sockets = [socket.create_connection(daemon.address.rsplit(":", 1), timeout=10) for _ in range(SETTINGS["LIMITS__CONNECTIONS"] + 1)]
        for one in sockets:  # tidegate_connections_refused_total
            one.close()

    def again_and_again(self):
        """What should not be counted only once, so that its rate is more than nothing."""
        daemon, n = self.daemon, 0
        session = requests.Session()
        session.trust_env = False
        with suppress(requests.RequestException):
            while not self.over.wait(0.05):
                n += 1
                daemon.request("GET", "/v1/rooms", key="a-wrong-key")  # tidegate_requests_refused_total
                daemon.publish("well:twice", {"kind": "n", "data": n, "id": f"id-{n // 2}"}, session=session)  # tidegate_events_duplicate_total
                daemon.post_events(f"new:{n}", '{"kind":"n","data":1}', session=session)  # tidegate_publishes_refused_total: limits.rooms

    def stop(self):
        self.over.set()
        for publisher in self.publishers:
            publisher.stop()
        for client in self.open:
            client.close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A daemon under load, and the Prometheus that scrapes it; one of each for all tests that only look."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), SETTINGS, lasting=True).start()
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
    publishers = [Publisher(daemon, f"well:{ack}", name=ack, ack=ack, pause=0.02) for ack in ("memory", "logged", "synced")]
    client = ws(daemon, "well:*")
    for _ in range(100):
        client.event()
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
