"""The fixtures of tests/support."""
from tests.support.fixtures import guests, machine, serve

__all__ = ["guests", "machine", "serve"]
