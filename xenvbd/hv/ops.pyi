# What Python sees of ops.pyx.
class Hypervisor:
    spec: str
    domid: int
    store_path: str
