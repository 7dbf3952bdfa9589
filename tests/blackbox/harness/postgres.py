"""A real PostgreSQL from Debian's package, started for one test, in a directory of its own and on a free port; it can be killed, stopped, started again and paused.

It does not run as root, which it refuses: a test that does hands it to the package's own user.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg

from .process import eventually, kill, spawn

USER, NAME = "tidegate", "telemetry"
# Not asked for by the server, so that every test can look whether it stands anywhere.
PASSWORD = "sw0rdfish-h4rbour-l1ght"
START_SECONDS = 30


def programs():
    """Where the newest installed version's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "no PostgreSQL; tests/setup installs it"
    return found[-1].parent


def as_somebody(*command):
    """A command as it is run by somebody who is not root; it dies with pytest."""
    if os.geteuid() != 0:
        return list(map(str, command))
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--pdeathsig", "KILL", *map(str, command)]


def free_port():
    """A port that nobody uses at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Postgres:
    """One server with an empty database."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        self.data = self.directory / "data"
        self.port = free_port()
        self.process = None
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        made = subprocess.run(as_somebody(programs() / "initdb", "-D", self.data, "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8",
                                          "--locale=C.UTF-8"), cwd=self.directory, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        # What the operating system has survives a killed process, so nothing here has to wait for the disk.
        settings = {"fsync": "off", "max_connections": 60, "unix_socket_directories": f"'{self.directory}'", "listen_addresses": "'127.0.0.1'",
                    "port": self.port, "log_statement": "'none'"}
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        subprocess.run(as_somebody("tee", "-a", self.data / "postgresql.conf"), input=text, text=True, stdout=subprocess.DEVNULL, check=True, cwd=self.directory)

    @property
    def url(self):
        """How a daemon reaches it."""
        return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{NAME}"

    def start(self):
        """Starts it and returns when it answers; the database is made if it is not there."""
        assert self.process is None, "it runs already"
        self.log = open(self.directory / "log", "ab")  # noqa: SIM115
        self.process = spawn(as_somebody(programs() / "postgres", "-D", self.data), cwd=self.directory, stdin=subprocess.DEVNULL,
                             stdout=self.log, stderr=self.log)

        def answers():
            assert self.process.poll() is None, (self.directory / "log").read_text()[-3000:]
            with suppress(psycopg.OperationalError):
                psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", connect_timeout=2).close()
                return True
            return False

        eventually(answers, "PostgreSQL answers", START_SECONDS)
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [NAME]).fetchall():
                connection.execute(f"CREATE DATABASE {NAME}")
        return self

    def processes(self):
        """All its processes: they work in its directory, whatever group they are in."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "cwd") == str(self.data):
                    found.append(int(entry.name))
        return found

    def signal(self, which):
        """Sends a signal to all of them."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def kill9(self):
        """SIGKILL for all at once, as a crash would have it."""
        self.signal(signal.SIGKILL)
        kill(self.process)
        eventually(lambda: not self.processes(), "its processes are gone")
        self.process = None
        self.log.close()

    def stop(self):
        """A stop in good order, but without waiting for clients."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        kill(self.process)
        self.process = None
        self.log.close()

    def pause(self):
        """It does nothing any more, and its connections stay open."""
        self.signal(signal.SIGSTOP)

    def resume(self):
        """It goes on."""
        self.signal(signal.SIGCONT)

    def connect(self, autocommit=False):
        """A connection; without `autocommit` it is one transaction."""
        return psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=NAME, autocommit=autocommit, connect_timeout=5)

    def query(self, text, *arguments):
        """Rows of a query."""
        with self.connect(autocommit=True) as connection:
            cursor = connection.execute(text, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def end(self):
        """The end of the test."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            kill(self.process)
            self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
