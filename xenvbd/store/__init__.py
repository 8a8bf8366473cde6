"""A XenStore session for a single-threaded daemon: nodes, transactions, watches, reconnection."""
from .store import Store, Watch
from .transaction import Transaction

__all__ = ["Store", "Transaction", "Watch"]
