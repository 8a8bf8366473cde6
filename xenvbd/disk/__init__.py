"""Disks: engines (uring, threads, memory, null) and filters, all of them Disks; open() chooses the engine."""
