# What Python sees of seccomp.pyx.
from collections.abc import Iterable

Condition = tuple[int, int, int]

def number(name: str) -> int | None: ...
def load(rules: Iterable[tuple[str, tuple[Condition, ...]]], absent: Iterable[str]) -> None: ...
