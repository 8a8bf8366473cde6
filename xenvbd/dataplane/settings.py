"""What a data plane is allowed and told to do: the part of a disk's properties that it looks at."""
from __future__ import annotations

from dataclasses import dataclass

from xenvbd.properties import READ_ERRORS, WRITE_ERRORS

MAX_INDIRECT = 256              # segments: 1 MiB, which is the largest buffer there is
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Fields that say what is offered must say what was advertised; the rest is the host's choice.

    Secure discards are always refused.  Raises ValueError."""

    discard: bool = True                    # if the disk can
    barrier: bool = False                   # WRITE_BARRIER
    max_indirect: int = MAX_INDIRECT        # segments; 0: no indirect requests
    read_only: bool = False                 # also if the disk is
    logical_block_size: int = 512           # bytes; requests must be aligned to it
    max_persistent_grants: int = 1056       # pages of a ring that stay mapped, where that was agreed on; 0: none
    persistent_seconds: float = 60.0        # without use until such a page is let go, or half of it
    max_buffer_bytes: int = 16 * MIB        # for the data of one ring
    poll_ns: int = 0                        # how long to look for requests before sleeping
    rerror: str = "report"                  # a read that failed: answer with an error, or keep it ("stop")
    werror: str = "enospc"                  # a write: keep it for want of room only, never ("report"), or always
    size: int | None = None                 # bytes that the guest was told of; None: all that the disk has
    idle_seconds: float = 10.0              # without a request until the buffers' memory goes back to the kernel

    def __post_init__(self) -> None:
        if not 0 <= self.max_indirect <= MAX_INDIRECT:
            raise ValueError(f"max_indirect={self.max_indirect}: 0 to {MAX_INDIRECT} segments")
        size = self.logical_block_size
        if size < 512 or size & (size - 1):
            raise ValueError(f"logical_block_size={size}: a power of two from 512 on")
        if self.size is not None and self.size < 0:
            raise ValueError(f"size={self.size}: not negative")
        if self.max_buffer_bytes < 2 * MIB or self.max_buffer_bytes > 1 << 34:
            raise ValueError(f"max_buffer_bytes={self.max_buffer_bytes}: 2 MiB to 16 GiB")
        if not 0 <= self.max_persistent_grants <= 1 << 20:
            raise ValueError(f"max_persistent_grants={self.max_persistent_grants}: 0 to 1048576 pages")
        for name, value, known in (("rerror", self.rerror, READ_ERRORS), ("werror", self.werror, WRITE_ERRORS)):
            if value not in known:
                raise ValueError(f"{name}={value}: {' or '.join(known)}")
        if self.poll_ns < 0:
            raise ValueError(f"poll_ns={self.poll_ns}: not negative")
        for name, seconds in (("idle", self.idle_seconds), ("persistent", self.persistent_seconds)):
            if not 0 < seconds < 1 << 30:
                raise ValueError(f"{name}_seconds={seconds}: more than 0")
