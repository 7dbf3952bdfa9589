"""The real Prometheus, started on a free port with the repository's own configuration, and promtool.

Only what has to differ is changed in the configuration: what to scrape, with which token, and how often.
"""

import math
import subprocess
from pathlib import Path

import requests
import yaml

from .process import Lines, kill, spawn

START_SECONDS = 20
WAIT = 20
FOLDER = Path(__file__).resolve().parents[3] / "grafana"
EVERY = "250ms"


def promtool(*arguments):
    """Runs promtool to its end; fails with what it said unless it is content."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, cwd=FOLDER)
    assert done.returncode == 0, f"promtool {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"
    return done.stdout


def configuration(directory, target, key):
    """grafana/prometheus.yml for a daemon of a test; the path of the changed copy."""
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    settings["rule_files"] = [str(FOLDER / file) for file in settings["rule_files"]]
    [scrape] = settings["scrape_configs"]
    token = directory / "scrape-token"
    token.write_text(key)
    scrape["authorization"]["credentials_file"] = str(token)
    [static] = scrape["static_configs"]
    static["targets"] = [target]
    changed = directory / "prometheus.yml"
    changed.write_text(yaml.safe_dump(settings))
    return changed


class Prometheus:
    """One Prometheus that scrapes one daemon."""

    def __init__(self, directory, target, key, lasting=False):
        self.config = configuration(directory, target, key)
        self.process = spawn(["prometheus", f"--config.file={self.config}", f"--storage.tsdb.path={directory / 'tsdb'}",
                              "--web.listen-address=127.0.0.1:0"], lasting, cwd=directory, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.output = Lines(self.process.stderr)
        self.session = requests.Session()
        self.session.trust_env = False
        found = self.output.wait_for(r'msg="Listening on" address=(\S+)', START_SECONDS)
        ready = found and self.output.wait_for(r"Server is ready", START_SECONDS)
        if not ready:
            self.stop()
            raise AssertionError(f"Prometheus did not start:\n{self.output.text()}")
        self.url = f"http://{found.group(1)}"

    def ask(self, path, **params):
        """A call of the HTTP API; what it answers under `data`."""
        answer = self.session.post(f"{self.url}/api/v1/{path}", data=params, timeout=WAIT) if path == "query" else \
            self.session.get(f"{self.url}/api/v1/{path}", params=params, timeout=WAIT)
        found = answer.json()
        assert found["status"] == "success", f"{params or path}: {found.get('error')}"
        return found["data"]

    def query(self, expression):
        """An instant query: for each series its labels and its value."""
        found = self.ask("query", query=expression)
        assert found["resultType"] == "vector", f"{expression} is no vector: {found['resultType']}"
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def numbers(self, expression):
        """As `query`, without the series that have no number now: a quantile of nothing is one."""
        return [(labels, value) for labels, value in self.query(expression) if not math.isnan(value)]

    def value(self, expression):
        """The one number that a query answers; None when there is no series."""
        found = self.query(expression)
        assert len(found) < 2, f"{expression} has {len(found)} series"
        return found[0][1] if found else None

    def rules(self, kind):
        """All rules of a kind, `alert` or `record`, as Prometheus sees them now."""
        return [rule for group in self.ask("rules", type=kind)["groups"] for rule in group["rules"]]

    def stop(self):
        """Ends it; nothing is left behind."""
        kill(self.process)
        self.session.close()
