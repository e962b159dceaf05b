"""A TCP proxy that cuts connections, as networks do."""

import contextlib
import socket
import threading


class CuttingProxy:
    """Carries bytes to `address` and back.

    Cuts the first connections, one for each of `cuts`, as soon as it has carried that many bytes. `at_cut` is called
    just before.
    """

    def __init__(self, address, cuts, at_cut=lambda: None):
        host, port = address.split(":")
        self.server = host, int(port)
        self.cuts = list(cuts)
        self.at_cut = at_cut
        self.lock = threading.Lock()
        # In bytes, both ways: on all connections, and on this one until it is cut.
        self.carried, self.left = 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self.listener.getsockname()[1])
        self.sockets = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(self.server)
                except OSError:
                    client.close()
                    continue
                self.sockets += [client, server]
                self.left = self.cuts[0] if self.cuts else float("inf")
                for source, target in [(client, server), (server, client)]:
                    threading.Thread(target=self.carry, args=[source, target], daemon=True).start()

    def carry(self, source, target):
        """Carries bytes one way."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                if self.is_over(len(data)):
                    self.at_cut()
                    break
        for end in [source, target]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def is_over(self, carried):
        """Counts what was carried, both ways together. True once for each cut."""
        with self.lock:
            self.carried += carried
            before, self.left = self.left, self.left - carried
            over = self.left <= 0 < before
            if over:
                self.cuts.pop(0)
            return over

    def close(self):
        for end in self.sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
