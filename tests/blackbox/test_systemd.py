"""The units of config/systemd: systemd understands them, they leave little to do damage with, and the daemon does what they count on
- it says when it is ready and that it lives, reads its settings again on HUP, and takes over a socket that systemd listens on.

systemd itself is not run here: NOTIFY_SOCKET and LISTEN_FDS are what it gives its services, and here the test gives them.
"""

import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.api import numbers
from harness.daemon import binary
from harness.process import eventually

UNITS = Path(__file__).resolve().parents[2] / "config" / "systemd"
SERVICE = (UNITS / "tidegate.service").read_text()
EXPOSURE_MAX = 15  # of 100; what talks to networks cannot have much less

# Becomes the daemon, with a listening socket as its third file, which it is handed over a Unix socket.
TAKE_OVER = """
import os, socket, sys
path, *command = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as source:
    source.connect(path)
    _, [got], _, _ = socket.recv_fds(source, 1, 1)
os.dup2(got, 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="tidegate.socket")
os.execv(command[0], command)
"""


class ListensFirst:
    """Listens in the daemon's place, as systemd does for a .socket unit, and hands the socket to each daemon that is started."""

    def __init__(self, directory, listener):
        self.listener = listener
        self._path = str(directory / "hand-over")
        self._source = socket.socket(socket.AF_UNIX)
        self._source.bind(self._path)
        self._source.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        self.wrapper = [sys.executable, "-c", TAKE_OVER, self._path]

    def _serve(self):
        while True:
            try:
                taker, _ = self._source.accept()
            except OSError:
                return
            with taker:
                socket.send_fds(taker, [b"x"], [self.listener.fileno()])

    def close(self):
        """Listens no longer."""
        self._source.close()
        self.listener.close()


@pytest.fixture
def listens_first(tmp_path):
    """Something that listens on a free port of the loopback before there is a daemon."""
    first = ListensFirst(tmp_path, socket.create_server(("127.0.0.1", 0), backlog=128))
    yield first
    first.close()


def directive(name):
    """All values of a directive, comments left out."""
    return re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE)


@pytest.fixture
def units(tmp_path):
    """Copies of the units that start the binary under test."""
    for file in UNITS.glob("tidegate.s*"):
        text = file.read_text()
        assert file.suffix != ".service" or text.count("ExecStart=/usr/local/bin/tidegate serve") == 1
        (tmp_path / file.name).write_text(text.replace("ExecStart=/usr/local/bin/tidegate", f"ExecStart={binary()}"))
    return tmp_path


class Notified:
    """The socket to which a service tells its state; `told` is all that came."""

    def __init__(self, path):
        self.path, self.told = path, []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                words = self._socket.recv(4096).decode()
            except OSError:
                return
            self.told += words.split("\n")

    def wait(self, word, timeout=10, times=1):
        """Waits until a word was told so many times."""
        eventually(lambda: self.told.count(word) >= times, f"{word} is told {times} times ({self.told})", timeout)

    def close(self):
        """No more is heard."""
        self._socket.close()


@pytest.fixture
def notified(tmp_path):
    """Hears what a service tells."""
    heard = Notified(tmp_path / "notify")
    yield heard
    heard.close()


def supervised(daemon, notified, watchdog=None):
    """Starts the daemon as systemd starts a service of Type=notify."""
    more = [f"NOTIFY_SOCKET={notified.path}"]
    if watchdog:
        # $$ is the shell, which becomes the daemon.
        more.append(f"WATCHDOG_USEC={watchdog}")
    daemon.wrapper = ["sh", "-c", f"export {' '.join(map(shlex.quote, more))}; {'export WATCHDOG_PID=$$; ' if watchdog else ''}exec \"$@\"", "sh"]
    return daemon.start()


# The files.

def test_systemd_understands_the_units(units):
    files = [str(units / name) for name in ("tidegate.service", "tidegate.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=30, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if "tidegate" in line]
    assert done.returncode == 0 and not told, done.stdout + done.stderr


def test_the_service_leaves_little_to_do_damage_with(units):
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", str(units / "tidegate.service")],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_every_setting_that_the_unit_names_is_one(daemon, tmp_path):
    named = dict(pair.split("=", 1) for line in re.findall(r"^(?:# )?Environment=(.*)$", SERVICE, re.MULTILINE) for pair in line.split())
    for file in ("tls.pem", "tls.key", "secret"):
        (tmp_path / file).write_text("x" * 64)
    result = daemon.run("check", **{name.removeprefix("TIDEGATE_"): value.replace("%d", str(tmp_path)) for name, value in named.items()})
    assert "there is no setting" not in result.stderr and len(named) >= 4, result


def test_stopping_is_given_more_time_than_the_daemon_takes(daemon):
    told = re.search(r'shutdown_timeout = "(\d+)s"', daemon.run("check", "--defaults").stdout)
    [limit] = directive("TimeoutStopSec")
    assert int(limit.removesuffix("s")) > int(told.group(1))


def test_wrong_settings_end_with_the_code_that_prevents_another_start(daemon):
    assert directive("RestartPreventExitStatus") == [str(daemon.run("serve", NO__SUCH="1").code)]


# The daemon.

def test_the_daemon_says_that_it_is_ready_when_it_serves_and_not_before(start_daemon, notified):
    daemon = supervised(start_daemon(started=False), notified)
    notified.wait("READY=1")
    assert daemon.get("/readyz", key=None).ok


def test_a_daemon_that_does_not_start_never_says_that_it_is_ready(start_daemon, notified):
    first, second = start_daemon(), start_daemon(started=False)
    second.settings["LOG__DIR"] = first.log_dir
    with pytest.raises(AssertionError, match="listening on"):
        supervised(second, notified)
    assert "READY=1" not in notified.told


def test_the_daemon_says_that_it_stops(start_daemon, notified):
    daemon = supervised(start_daemon(started=False), notified)
    daemon.terminate()
    notified.wait("STOPPING=1")


def test_the_daemon_says_that_it_lives_in_the_watchdog_s_time(start_daemon, notified):
    assert directive("WatchdogSec"), "the unit does not ask for it"
    supervised(start_daemon(started=False), notified, watchdog=400_000)
    notified.wait("WATCHDOG=1", timeout=5, times=8)


def test_without_a_watchdog_the_daemon_does_not_speak_of_one(start_daemon, notified):
    daemon = supervised(start_daemon(started=False), notified)
    notified.wait("READY=1")
    daemon.terminate()
    notified.wait("STOPPING=1")
    assert "WATCHDOG=1" not in notified.told


def test_a_reload_is_what_the_unit_sends_and_disturbs_no_stream(start_daemon, notified, room, ws):
    [command] = directive("ExecReload")
    assert command == "/bin/kill -HUP $MAINPID"
    daemon = supervised(start_daemon(started=False), notified)
    client = ws(daemon, room)
    daemon.reload()
    daemon.publish_numbers(room, [0])
    assert client.event()["data"]["n"] == 0


def test_the_daemon_takes_over_a_socket_that_was_opened_for_it(start_daemon, listens_first, room, ws):
    # What server.listen says would be another port, and one that needs root.
    daemon = start_daemon(started=False, SERVER__LISTEN="127.0.0.1:1")
    daemon.wrapper = listens_first.wrapper
    daemon.start()
    assert daemon.address == f"127.0.0.1:{listens_first.listener.getsockname()[1]}"
    client = ws(daemon, room)
    daemon.publish_numbers(room, [0])
    assert client.event()["data"]["n"] == 0


def test_clients_that_come_while_the_daemon_is_restarted_wait_instead_of_being_refused(start_daemon, listens_first, room):
    daemon = start_daemon(started=False)
    daemon.wrapper = listens_first.wrapper
    daemon.start()
    daemon.publish_numbers(room, [0])
    daemon.terminate()
    answers = []
    with daemon.session.__class__() as session:
        session.trust_env = False
        waiting = threading.Thread(target=lambda: answers.append(daemon.post_events(room, '{"kind":"n","data":{"n":1}}', session=session)), daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), f"answered by nobody: {answers}"
        daemon.start()
        waiting.join(10)
    assert answers and answers[0].status_code == 202
    assert numbers(daemon.all_events(room)) == [0, 1]
