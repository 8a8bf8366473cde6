"""xenvbd: a Xen virtual block device (vbd) backend for Linux, in user space."""
__version__ = "0.2.0~dev"
