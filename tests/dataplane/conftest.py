"""The fixtures of tests/support."""
from tests.support.fixtures import guests, machine, serve, serve_queues

__all__ = ["guests", "machine", "serve", "serve_queues"]
