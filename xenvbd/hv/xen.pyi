# What Python sees of xen.pyx.
from xenvbd.hv.ops import Hypervisor

def host(domid: int, store_path: str) -> Hypervisor: ...
