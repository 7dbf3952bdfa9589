"""Dockerfile and compose.yaml, as far as they can be tried without Docker: what they name exists, the health check says the truth,
no password is in them, and Prometheus with compose's configuration and a key made as its comment says gets its figures.
"""

import json
import re
import subprocess
from pathlib import Path

import yaml

from harness.nginx import free_ports
from harness.process import eventually
from harness.prometheus import Prometheus, promtool

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
MAKES_SECRETS = next(line for line in COMPOSE_TEXT.splitlines() if line.startswith("#     (umask"))


def instruction(name):
    """The last instruction of this name in the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def health(address):
    """Runs the Dockerfile's health check against an address; its exit code."""
    command = json.loads(instruction("HEALTHCHECK").split("CMD ", 1)[1])
    host, port = address.rsplit(":", 1)
    assert command[:2] == ["bash", "-c"] and command[2].count("/127.0.0.1/8000") == 1
    command[2] = command[2].replace("/127.0.0.1/8000", f"/{host}/{port}")
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode


# The image.

def test_the_health_check_says_whether_the_daemon_answers(daemon):
    assert health(daemon.address) == 0
    daemon.terminate()
    assert health(daemon.address) != 0


def test_the_health_check_does_not_take_anything_that_listens_for_healthy():
    [port] = free_ports(1)
    with subprocess.Popen(["bash", "-c", f"exec python3 -c \"import socket; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); "
                           "c = s.accept()[0]; c.recv(9); c.sendall(b'HTTP/1.1 503 No\\r\\n\\r\\n'); c.recv(9999)\""], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            assert health(f"127.0.0.1:{port}") != 0
        finally:
            other.kill()


def test_the_image_does_not_run_as_root_and_keeps_its_data_in_a_volume():
    assert instruction("USER") == "10001:10001"
    assert instruction("WORKDIR") == instruction("VOLUME") == "/var/lib/tidegate"
    assert json.loads(instruction("ENTRYPOINT")) == ["/usr/local/bin/tidegate"] and json.loads(instruction("CMD")) == ["serve"]


def test_the_image_s_settings_are_settings(daemon):
    names = dict(pair.split("=", 1) for pair in instruction("ENV").split())
    assert daemon.run("check", **{name.removeprefix("TIDEGATE_"): value for name, value in names.items()}).code == 0


def test_every_base_image_has_a_version():
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) + [service["image"] for service in SERVICES.values() if "build" not in service]:
        assert re.search(r":v?[a-z0-9.-]+$", image) and not image.endswith(":latest"), image


def ignored(path):
    """Whether .dockerignore keeps a path out of the image's build."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for pattern in patterns:
        anchored = pattern.startswith("/")
        assert anchored or pattern.startswith("**/"), f"{pattern} is not understood here"
        if anchored and (path == pattern[1:] or path.startswith(f"{pattern[1:]}/")) or not anchored and pattern[3:] in path.split("/"):
            return True
    return False


def test_what_cargo_needs_gets_into_the_build_and_secrets_do_not():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    needed = [path for path in tracked if re.match(r"(Cargo\.|(actors/)?(src|benches|tests/[^/]*\.rs)|actors/Cargo|config/|docs/)", path)]
    assert needed and not [path for path in needed if ignored(path)]
    for path in ("data/token", "secrets/scrape_token", ".git/config", "target/release/tidegate"):
        assert ignored(path), f"{path} would get into the image"


# Compose.

def test_no_password_is_in_the_file_and_every_secret_is_one_that_the_comment_s_command_makes():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", name):
                assert name.endswith("__FILE") and value.startswith("/run/secrets/"), f"{name} is given in the file itself"
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"} and f"> secrets/{name}" in MAKES_SECRETS
    ignore = (ROOT / ".gitignore").read_text().splitlines()
    assert "/secrets" in ignore, "a secret could get into the repository"


def test_the_command_that_makes_the_secrets_is_shell_and_stops_at_a_fault():
    command = MAKES_SECRETS.removeprefix("#").strip()
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    assert ";" not in command and command.count("&&") >= 4


def test_every_secret_that_is_used_is_defined_and_where_it_is_looked_for():
    used = {name: service.get("secrets", []) for name, service in SERVICES.items()}
    assert {secret for secrets in used.values() for secret in secrets} == set(COMPOSE["secrets"])
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_password" and used["grafana"] == ["grafana_password"]
    assert used["prometheus"] == ["scrape_token"]


def test_nothing_is_reached_from_other_machines():
    for name, service in SERVICES.items():
        assert service["ports"], name
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_what_is_mounted_exists():
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], f"{name}: {mount}"


def test_a_service_that_is_given_text_as_a_file_is_not_read_only():
    # Compose copies such files into the container, and cannot where nothing may be written.
    for name, service in SERVICES.items():
        inline = [use["source"] for use in service.get("configs", []) if "content" in COMPOSE["configs"][use["source"]]]
        assert not (inline and service.get("read_only")), name


def test_prometheus_is_configured_as_outside_of_containers_but_for_addresses():
    inside = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    outside = yaml.safe_load((ROOT / "grafana" / "prometheus.yml").read_text())
    [scrape], [other] = inside["scrape_configs"], outside["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["tidegate:8000"]}] and scrape["authorization"] == {"credentials_file": "/run/secrets/scrape_token"}
    scrape["static_configs"], scrape["authorization"] = other["static_configs"], other["authorization"]
    assert inside == outside
    for file in inside["rule_files"]:
        assert (ROOT / "grafana" / file).exists(), f"{file} is not mounted with the other rules"


def test_grafana_s_data_source_is_as_outside_of_containers_but_for_its_address():
    inside = yaml.safe_load(COMPOSE["configs"]["datasource"]["content"])
    outside = yaml.safe_load((ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert inside["datasources"][0].pop("url") == "http://prometheus:9090" and outside["datasources"][0].pop("url")
    assert inside == outside


def test_grafana_finds_the_dashboards_where_they_are_mounted():
    provider = yaml.safe_load((ROOT / "grafana" / "provisioning" / "dashboards" / "tidegate.yml").read_text())["providers"][0]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_promtool_finds_nothing_wrong_with_the_configuration(tmp_path):
    (tmp_path / "rules").symlink_to(ROOT / "grafana" / "rules")
    text = COMPOSE["configs"]["prometheus"]["content"].replace("/run/secrets/scrape_token", str(tmp_path / "token"))
    (tmp_path / "token").write_text("x")
    (tmp_path / "prometheus.yml").write_text(text)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_prometheus_gets_its_figures_with_a_key_made_as_the_comment_says(start_daemon, tmp_path):
    arguments = re.search(r"-T tidegate (key create .*?) > secrets/scrape_token", MAKES_SECRETS).group(1).split()
    daemon = start_daemon(started=False, AUTH__API_KEYS=None)
    made = daemon.run(*arguments)
    assert made.code == 0 and len(made.stdout.split()) == 1, made
    daemon.start()
    key = made.stdout.strip()
    prometheus = Prometheus(tmp_path, daemon.address, key)
    try:
        eventually(lambda: prometheus.value('up{job="tidegate"}') == 1, "Prometheus gets its figures")
    finally:
        prometheus.stop()
    daemon.key = key
    assert daemon.post_events("x", '{"kind":"k","data":1}').status_code == 403, "the key may only read"


def test_the_command_that_makes_an_administrator_s_key_works_while_the_daemon_runs(daemon):
    arguments = re.search("docker compose exec tidegate tidegate (.*)", COMPOSE_TEXT).group(1)
    made = daemon.run(*arguments.split())
    assert made.code == 0, made
    eventually(lambda: daemon.get("/v1/connections", key=made.stdout.strip()).status_code == 200, "the key is taken", timeout=6)
