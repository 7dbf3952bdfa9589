"""The real tidegate binary, started for one test in its own directory and on a free port.

`start` waits for the log line `listening on ADDRESS`. Settings go in as the environment: `LIMITS__BODY_BYTES="1KiB"`
stands for `TIDEGATE_LIMITS__BODY_BYTES`; None takes one of the harness's own settings away.
"""

import os
import secrets
import signal
import subprocess
from pathlib import Path

from .api import Api
from .process import Lines, kill, spawn

START_SECONDS = 20
STOP_SECONDS = 20


def binary():
    """The binary under test. Without it nothing is tested, and that is a failure."""
    path = os.environ.get("TIDEGATE_BIN")
    assert path, "set TIDEGATE_BIN to the absolute path of the tidegate binary"
    assert os.path.isabs(path) and os.access(path, os.X_OK), f"TIDEGATE_BIN={path} is not an executable file (absolute path)"
    return path


def environment(settings):
    """The test's environment without anything tidegate would read, and with `settings`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    env.pop("RUST_LOG", None)
    env.update({f"TIDEGATE_{name}": str(value) for name, value in settings.items() if value is not None})
    return env


class Result:
    """How a command that ran to its end came out."""

    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr

    def __repr__(self):
        return f"exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Daemon(Api):
    """One daemon: its directory, its settings, its process, and (as an `Api`) its HTTP interface."""

    def __init__(self, directory, settings, lasting=False):
        self.directory = Path(directory)
        self.lasting = lasting
        self.key = secrets.token_urlsafe(24)
        self.log_dir = self.directory / "log"
        self.token_file = self.directory / "token"
        # Where the daemon keeps these by default, seen from the directory it is started in.
        data = self.directory / "data"
        self.secret_file, self.keys_file, self.revoked_file, self.audit_file = (
            data / name for name in ("secret", "keys.toml", "revoked", "audit.log"))
        self.settings = {
            "SERVER__LISTEN": "127.0.0.1:0",
            "LOG__DIR": self.log_dir,
            "AUTH__API_KEYS": f"test:{self.key}",
            "AUTH__TOKEN_FILE": self.token_file,
            "SOURCES__HOST__ENABLED": "false",
            "PIPELINES__BUILTIN": "false",
        }
        self.settings.update(settings)
        self.wrapper, self.arguments = [], []
        self.process = None
        self.address = None
        self.runs = []
        super().__init__(None, self.key)

    def start(self):
        """Starts it and returns when it is ready. A port it once had is kept."""
        assert self.process is None, "the daemon runs already"
        env = environment({**self.settings, **({"SERVER__LISTEN": self.address} if self.address else {})})
        self.process = spawn([*self.wrapper, binary(), "serve", *self.arguments], cwd=self.directory, env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, lasting=self.lasting)
        self.stdout, self.stderr = Lines(self.process.stdout), Lines(self.process.stderr)
        self.runs.append((self.stdout, self.stderr))
        found = self.stderr.wait_for(r"listening on (?:http://)?([0-9.]+:\d+|\[[0-9a-f:]+\]:\d+)", START_SECONDS)
        if not found:
            code = self.process.poll()
            raise AssertionError(f"the daemon did not say `listening on` within {START_SECONDS} s (exit code {code})")
        self.address = found.group(1)
        self.url = f"http://{self.address}"
        return self

    def configure(self, text):
        """Puts a settings file beside the environment (which goes before it). Returns the daemon."""
        file = self.directory / "tidegate.toml"
        file.write_text(text)
        self.arguments = ["--config", str(file)]
        return self

    def reload(self, text=None, says="settings reloaded"):
        """Writes the settings file anew, sends SIGHUP, and returns the log line that tells how it went."""
        if text is not None:
            self.configure(text)
        start = self.stderr.count()
        self.process.send_signal(signal.SIGHUP)
        found = self.stderr.wait_for(says, START_SECONDS, start)
        assert found, f"after SIGHUP the log does not say {says!r} (exit code {self.process.poll()})"
        return found.string

    def terminate(self):
        """SIGTERM; returns when it has gone, and requires exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"SIGTERM ended the daemon with {code}, not 0"

    def wait(self, timeout=STOP_SECONDS):
        """Waits until it has ended by itself; its exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end within {timeout} s") from None
        self._ended()
        return code

    def kill9(self):
        """SIGKILL, as a crash would have it."""
        kill(self.process)
        self._ended()

    def restart(self):
        """SIGTERM and a new start on the same port and directory."""
        self.terminate()
        return self.start()

    def revive(self):
        """Starts it again if it has died."""
        if self.process.poll() is not None:
            self._ended()
            self.start()

    def stop(self):
        """The end of the test: no politeness, nothing left behind."""
        if self.process is not None:
            self.kill9()
        self.session.close()

    def _ended(self):
        kill(self.process)
        self.stdout.finish()
        self.stderr.finish()
        self.session.close()  # its kept connections lead to a process that is gone
        self.process = None

    def run(self, *arguments, stdin=None, timeout=15, **settings):
        """Runs the same binary with this daemon's settings to its end: a second daemon, or a command of the CLI."""
        return run(arguments, {**self.settings, **settings}, self.directory, stdin, timeout)

    def log_text(self):
        """All it ever said on stderr."""
        return "".join(stderr.text() for _, stderr in self.runs)

    def output_text(self):
        """All it ever said on stdout."""
        return "".join(stdout.text() for stdout, _ in self.runs)

    def rss_bytes(self):
        """Resident memory of the process."""
        return self._memory("VmRSS")

    def peak_bytes(self):
        """The most resident memory it had since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self):
        """The peak begins anew, from what is resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _memory(self, name):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")


def run(arguments, settings, directory, stdin=None, timeout=15):
    """Runs the binary to its end and returns how it came out; a command that hangs is a failure."""
    child = spawn([binary(), *map(str, arguments)], cwd=directory, env=environment(settings),
                  stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = child.communicate(stdin.encode() if stdin is not None else None, timeout)
    except subprocess.TimeoutExpired:
        kill(child)
        out, err = child.communicate()
        raise AssertionError(f"`tidegate {' '.join(map(str, arguments))}` did not end within {timeout} s\n"
                             f"--- stdout\n{out.decode()}\n--- stderr\n{err.decode()}") from None
    kill(child)
    return Result(child.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
