"""A control socket's server on a loop in a thread, for tests of what clients do to it."""
import threading

from xenvbd.control import Dispatch, Server
from xenvbd.loop import Loop


class Daemon:
    """Serves from the start; stop() when done."""

    def __init__(self, path: str, dispatch: Dispatch, idle: float = 60.0) -> None:
        self.path, self.loop = path, Loop()
        self.server = Server(self.loop, path, dispatch, idle=idle)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join()
        self.server.close()
        self.loop.close()
