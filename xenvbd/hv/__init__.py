"""The hypervisor seam: open() is the one place where a machine is chosen; nothing else may ask which it is."""
