"""The real nginx with config/nginx.conf in front of a daemon. Only places are changed: ports, paths, the certificate, who runs it."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

from .api import Api
from .process import Lines, eventually, kill, spawn

FILE = Path(__file__).parents[3] / "config" / "nginx.conf"
BINARY = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"  # Debian keeps it where only root looks
TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")


def free_ports(count):
    """Ports of the loopback that nobody has just now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [place.getsockname()[1] for place in taken]
    for place in taken:
        place.close()
    return ports


def certificate(directory):
    """A self-signed certificate for 127.0.0.1 and its key."""
    files = directory / "fullchain.pem", directory / "privkey.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-out", files[0], "-keyout", files[1]], check=True, capture_output=True, timeout=30)
    return files


class Nginx(Api):
    """nginx before `daemon`, itself as good as a daemon for `Ws`, `Sse` and HTTP. `edits` are pairs of texts to put one for the
    other in the file; the first must stand there exactly once."""

    def __init__(self, directory, daemon, edits=()):
        super().__init__(None, daemon.key)
        self.directory, self.daemon, self.edits = Path(directory), daemon, list(edits)
        self.file, self.access_log = self.directory / "nginx.conf", self.directory / "access.log"
        self.authority, self._key = certificate(self.directory)
        self.tls = ssl.create_default_context(cafile=self.authority)
        # `websockets` reads in a thread of its own while another writes. With what TLS 1.3 sends after its handshake, Python 3.11's
        # ssl now and then loses the request between the two.
        self.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        self.session.verify = str(self.authority)
        self.process = None

    def _write(self):
        plain, secure = free_ports(2)
        self.address, self.plain_url = f"127.0.0.1:{secure}", f"http://127.0.0.1:{plain}"
        self.url = f"https://{self.address}"
        paths = "".join(f"    {name}_temp_path {self.directory / name};\n" for name in TEMPORARY)
        text = FILE.read_text()
        for old, new in [
            *self.edits,
            ("user www-data;", "user root;" if os.geteuid() == 0 else ""),
            ("worker_processes auto;", "worker_processes 1;"),
            ("worker_rlimit_nofile 65536;", ""), ("worker_connections 16384;", "worker_connections 500;"),
            ("/run/nginx.pid", str(self.directory / "pid")), ("/var/log/nginx/error.log", "stderr"),
            ("/var/log/nginx/access.log", str(self.access_log)), ("\nhttp {\n", f"\nhttp {{\n{paths}"),
            ("server 127.0.0.1:8000;", f"server {self.daemon.address};"),
            ("listen 80;", f"listen 127.0.0.1:{plain};"), ("listen [::]:80;", ""),
            ("listen 443 ssl http2;", f"listen 127.0.0.1:{secure} ssl http2;"), ("listen [::]:443 ssl http2;", ""),
            ("/etc/ssl/tidegate/fullchain.pem", str(self.authority)), ("/etc/ssl/tidegate/privkey.pem", str(self._key)),
        ]:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {FILE}"
            text = text.replace(old, new)
        self.file.write_text(text)

    def command(self, *arguments):
        """nginx with this file."""
        return [BINARY, "-e", "stderr", "-p", str(self.directory), "-c", str(self.file), *arguments]

    def check(self):
        """What `nginx -t` says of the file; exit code and text."""
        self._write()
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stderr

    def start(self):
        """Starts it and returns when it listens. A port that somebody took meanwhile is another one at the next try."""
        for _ in range(3):
            self._write()
            self.process = spawn(self.command("-g", "daemon off;"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.log = Lines(self.process.stderr)
            eventually(lambda: self.process.poll() is not None or self._listens(), "nginx listens or has ended")
            if self.process.poll() is None:
                return self
            assert re.search("Address already in use", self.log.finish()), f"nginx did not start:\n{self.log.text()}"
        raise AssertionError(f"nginx found no free port:\n{self.log.text()}")

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.address.rsplit(":", 1)[1]))) == 0

    def reload(self):
        """Has it read its file anew; old workers go on for their streams."""
        subprocess.run(self.command("-s", "reload"), check=True, capture_output=True, timeout=30)

    def stop(self):
        """Ends it and its workers."""
        if self.process is not None:
            kill(self.process)
        self.session.close()
