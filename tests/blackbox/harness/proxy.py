"""A TCP proxy in front of a daemon, whose connections a test can cut or hold up, as a network does."""

import select
import socket
import threading


class Proxy:
    """Forwards what comes to `url` to the daemon. `held` lets nothing through towards the client, without ending anything."""

    def __init__(self, daemon):
        host, port = daemon.address.rsplit(":", 1)
        self._target, self._pairs, self._lock = (host, int(port)), [], threading.Lock()
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
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def hold(self, held=True):
        """Lets nothing through towards clients, until it is called with False."""
        (self._go.clear if held else self._go.set)()

    def cut(self, tell_server=True):
        """Breaks all connections there are. With `tell_server=False` only the client hears of it."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for client, server in pairs:
            for end in (client, server) if tell_server else (client,):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def stop(self):
        """Is not there any more."""
        self._go.set()
        self._listener.close()
        self.cut()
