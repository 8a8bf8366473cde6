# What Python sees of responder.pyx.
from xenvbd.frontend.queue import FrontQueue, Peer

class Responder(Peer):
    def __init__(self, queue: FrontQueue, index: int = 0) -> None: ...
