"""Following links below /dev, where udev makes them: relative or absolute, but never out of that directory.

openat2() cannot do this: RESOLVE_BENEATH refuses every absolute link, and RESOLVE_IN_ROOT would look for /dev/dm-3 in
/dev/dev.  So each step of the way is opened by itself, and no link is ever followed by the kernel.
"""
from __future__ import annotations

import contextlib
import errno
import os
import stat

from xenvbd.errors import PolicyError, TargetError

MAX_LINKS = 40                  # MAXSYMLINKS
STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def normal(path: str) -> str:
    """An absolute path with one slash at its beginning; Linux gives two no meaning of their own."""
    return "/" + path.lstrip("/") if path.startswith("//") else path


def open_beneath(path: str, root: str) -> int:
    """An O_PATH descriptor of what an absolute path beneath the directory root stands for, links followed within root.

    Raises OSError as open() does, PolicyError if a link leads out of root, TargetError if there are too many."""
    with contextlib.ExitStack() as opened:
        way = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        opened.callback(_close, way)
        todo, links = _steps(path, root, path), 0
        while todo:
            step = todo.pop()
            if step == "..":
                _back(way, path, root)
                continue
            fd = os.open(step, STEP, dir_fd=way[-1])
            way.append(fd)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                continue
            links += 1
            todo += _target(way, path, root, links)
        return os.dup(way[-1])


def _target(way: list[int], path: str, root: str, links: int) -> list[str]:
    """The steps that the link at the end of the way stands for; the way is cut back to where they begin."""
    if links > MAX_LINKS:
        raise TargetError(errno.ELOOP, f"found more than {MAX_LINKS} symbolic links, one after the other", path=path)
    fd = way.pop()
    try:
        target = os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
    if target.startswith("/"):
        while len(way) > 1:
            os.close(way.pop())
    return _steps(target, root, path)


def _steps(text: str, root: str, path: str) -> list[str]:
    """The steps of a path or of a link, the first one last; those of an absolute one are taken from root."""
    steps = [step for step in text.split("/") if step not in ("", ".")]
    if text.startswith("/"):
        start = [step for step in root.split("/") if step]
        if steps[:len(start)] != start:
            raise _leads_out(path, root, f" ({text})")
        steps = steps[len(start):]
    return steps[::-1]


def _close(way: list[int]) -> None:
    while way:
        os.close(way.pop())


def _back(way: list[int], path: str, root: str) -> None:
    if len(way) == 1:
        raise _leads_out(path, root, "")
    os.close(way.pop())


def _leads_out(path: str, root: str, where: str) -> PolicyError:
    return PolicyError(errno.EXDEV, f"found a symbolic link that leads out of {root}{where}; name the file itself",
                       path=path)
