"""A XenStore session for a single-threaded daemon: nodes, transactions, watches, reconnection."""
from xenvbd.store.store import Store, Watch
from xenvbd.store.transaction import Transaction

__all__ = ["Store", "Transaction", "Watch"]
