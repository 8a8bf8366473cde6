"""What an administrator should know of a disk that works: what its image looks like, and what was asked for and is not
in effect."""
from __future__ import annotations

from xenvbd import target
from xenvbd.properties import DiskFacts, Properties


def remarks(properties: Properties | None, facts: DiskFacts | None) -> list[str]:
    """Sentences; none if all is as it looks, or nothing is known yet."""
    found: list[str] = []
    if properties is None or facts is None:
        return found
    if facts.content:
        path = properties.target.path if properties.target else ""
        found.append(f"{properties.target} looks like an image of format {facts.content} and is served raw, as all "
                     "are: the guest sees the format's own bytes; if that is not what is meant, detach it, and "
                     f"{target.other_way(facts.content, path)}")
    if not properties.lock:
        found.append(f"{properties.target} is not locked (lock = off): nothing keeps another from writing to it, on "
                     "this host or another; attach it again with lock = on once its file system has locks, and nobody "
                     "else holds them")
    if properties.persistent and facts.alignment > 1:
        found.append(f"persistent grants are not used: {properties.target} is served with direct I/O (XSA-229); "
                     "attach it with --no-direct, or with direct-io = false in the configuration, to have them")
    return found
