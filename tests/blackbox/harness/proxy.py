"""A TCP proxy in front of a daemon, whose connections a test can cut or hold up, as a network does."""

import select
import socket
import threading


class Proxy:
    """Forwards what comes to `url` to the daemon. `held` lets nothing through towards the client, without ending anything."""

    def __init__(self, daemon):
        host, port = daemon.address.rsplit(":", 1)
        self._target, self._pairs, self._lock = (host, int(port)), [], threading.Lock()
        self._untold = set()
        self._go = threading.Event()
        self._go.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.url = f"http://{self.address}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for one, other, held in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(one, other, held), daemon=True).start()

    def _forward(self, one, other, held):
        try:
            while True:
                select.select([one], [], [])
                if held:
                    self._go.wait()
                data = one.recv(65536)
                if not data:
                    break
                other.sendall(data)
        except (OSError, ValueError):
            pass
        self._end({one, other} - self._untold)

    @staticmethod
    def _end(ends):
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def hold(self, held=True):
        """Lets nothing through towards clients, until it is called with False."""
        (self._go.clear if held else self._go.set)()

    def cut(self, tell_server=True):
        """Breaks all connections there are. With `tell_server=False` only the client hears of it; the server's sockets stay open."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for client, server in pairs:
            if not tell_server:
                self._untold.add(server)
            self._end({client, server} - self._untold)

    def stop(self):
        """Is not there any more."""
        self._go.set()
        self._listener.close()
        self.cut()
        self._end(self._untold)
