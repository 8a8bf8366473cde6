"""The data plane: ring -> request -> grants -> Disk -> response, without the GIL; one I/O thread a queue.

DataPlane (plane.py) is the way in.  Behind it, in the order of a request's way: queue (what a ring's thread owns),
intake (ring to disk), execute (what the disk is asked for, in which order), reply (disk to ring), thread (the loop).
"""
from xenvbd.dataplane.plane import DataPlane, PlaneEvent
from xenvbd.dataplane.settings import Settings

__all__ = ["DataPlane", "PlaneEvent", "Settings"]
