# What Python sees of request.pyx.
from collections.abc import Sequence

from xenvbd.ring import Request

KINDS: tuple[str, ...]

def check(request: Request, *, capacity: int, read_only: bool = False, discard: bool = True, barrier: bool = False,
          max_indirect: int = 256, logical_block_size: int = 512, sector_unit: int = 512,
          segments: Sequence[tuple[int, int, int]] | None = None) -> tuple[int, int, str | None, int]: ...
