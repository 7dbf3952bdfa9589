"""Fixtures of the black-box tests: daemons, readers, a browser; each ends with its test, whatever happens in it.

`daemon` is one with the harness's settings; `start_daemon(LIMITS__BODY_BYTES="1KiB")` is for a test that needs its own.
`victim` is one that all tests of a module share, with the module's `SETTINGS`, and that must stand what each does to it.
`sse`, `ws`, `serve` and `browser` open clients. A daemon that panicked fails its test, and a failed test shows all daemon output.
"""

import faulthandler
import signal
import uuid

import pytest

from harness import process
from harness.browser import Browser
from harness.daemon import Daemon, binary
from harness.hostile import Watch
from harness.served import READERS
from harness.sse import Sse
from harness.tokens import JwksServer
from harness.ws import Ws

TEST_SECONDS = 90


def pytest_sessionstart(session):
    if not session.config.option.collectonly:
        try:
            binary()
        except AssertionError as missing:
            pytest.exit(str(missing), returncode=2)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A deadline for every test, and no process that outlives it."""
    def over(_signal, _frame):
        faulthandler.dump_traceback(all_threads=True)
        raise AssertionError(f"the test took longer than {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    process.kill_all()


@pytest.fixture
def start_daemon(request, tmp_path_factory):
    """Starts a daemon in a directory of its own; settings by name without `TIDEGATE_`. `started=False` only prepares it."""
    daemons = request.node.daemons = []

    def start(started=True, **settings):
        daemon = Daemon(tmp_path_factory.mktemp("daemon"), settings)
        daemons.append(daemon)
        return daemon.start() if started else daemon

    yield start
    for daemon in daemons:
        daemon.stop()
    for daemon in daemons:
        assert "panicked at" not in daemon.log_text(), "the daemon panicked; see its log"


@pytest.fixture
def daemon(start_daemon):
    """A running daemon with the harness's settings."""
    return start_daemon()


@pytest.fixture(scope="module")
def shared_daemon(request, tmp_path_factory):
    """One daemon for all tests of a module, so that there may be hundreds of them."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), getattr(request.module, "SETTINGS", {}), lasting=True)
    request.node.daemons = [daemon]
    yield daemon.start()
    daemon.stop()


@pytest.fixture
def victim(request, shared_daemon):
    """The shared daemon for a test that attacks it: afterwards it must be as before, whatever was done."""
    shared_daemon.revive()  # one test's crash is not the next one's
    growth = request.node.get_closest_marker("growth")
    watch = Watch(shared_daemon, *(growth.args if growth else []))
    yield shared_daemon
    watch.unharmed()


@pytest.fixture
def room():
    """A room name no other test has."""
    return f"test:{uuid.uuid4().hex[:12]}"


@pytest.fixture
def sse():
    """Opens SSE readers (real curl)."""
    streams = []

    def open_stream(*arguments, **options):
        streams.append(Sse(*arguments, **options))
        return streams[-1]

    yield open_stream
    for stream in streams:
        stream.stop()


@pytest.fixture
def ws():
    """Opens WebSocket clients."""
    connections = []

    def open_connection(*arguments, **options):
        connection = Ws(*arguments, **options)
        connections.append(connection)
        return connection

    yield open_connection
    for connection in connections:
        connection.close()


@pytest.fixture
def serve():
    """Opens readers that say how they want to be served: `serve("sse", daemon, room, mode="mean", period="1s")`."""
    readers = []

    def open_reader(way, *arguments, **asked):
        readers.append(READERS[way](*arguments, **asked))
        return readers[-1]

    yield open_reader
    for reader in readers:
        reader.stop()


@pytest.fixture
def jwks_server():
    """Starts local servers of JWKS documents."""
    servers = []

    def start(*keys, **options):
        servers.append(JwksServer(*keys, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def browser(tmp_path):
    """A headless Chromium with one empty page."""
    opened = Browser(tmp_path)
    yield opened
    opened.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for number, daemon in enumerate(getattr(item, "daemons", getattr(item.getparent(pytest.Module), "daemons", []))):
            for run, (stdout, stderr) in enumerate(daemon.runs):
                name = f"daemon {number} run {run}"
                report.sections.append((f"{name}, stdout", stdout.text()[-4000:]))
                report.sections.append((f"{name}, log", stderr.text()[-12000:]))
