"""The object that holds the three tables of the hypervisor seam."""


cdef class Hypervisor:

    def __init__(self):
        raise TypeError("use xenvbd.hv.open()")

    def __repr__(self):
        return f"<{type(self).__name__} {self.spec} as domain {self.domid}>"
