"""What a manager must know again of a device after it was restarted: a file of the runtime directory, as a
value.

Nothing of it is in xenstore, where a guest could read it."""
from __future__ import annotations

import errno
from dataclasses import asdict, dataclass, replace
from typing import Any

from xenvbd import __version__, domains, features, target, vdev
from xenvbd.disk.identity import Identity
from xenvbd.errors import Error
from xenvbd.features import Agreement
from xenvbd.properties import DiskFacts, Properties

GONE = ("min_io", "opt_io")     # properties of xenvbd 0.1 that had no effect
VERSION = 2                     # of what to_json() gives; one that is lower can be read: 1 has no identity


@dataclass(frozen=True)
class Record:
    """One published device.  domain is the handle that tells a domain from an earlier one of its number; name, what the
    disk was called, for messages once the domain is gone: nothing is found by it.  created: its areas are
    ours; agreement: of its present connection, None without one; flush_failed: what was written before may be
    lost, so it is not served again; identity: of its image, None of a target that is none, or if 0.1 wrote it; image:
    (device, inode) that stand in its journals."""

    kind: str
    domain: str
    name: str
    created: bool
    properties: Properties
    facts: DiskFacts
    engine: str
    buffer_bytes: int
    agreement: Agreement | None = None
    flush_failed: bool = False
    identity: Identity | None = None
    image: tuple[int, int] | None = None

    @property
    def stable_name(self) -> str:
        """What the worker calls it: by number, which no rename makes wrong."""
        return domains.disk_name(str(self.properties.domid), self.properties.vdev.number)

    def orders(self) -> dict[str, Any]:
        """What a worker is told of it at connect: see disk.open() and dataplane.Settings."""
        props = self.properties
        return {
            "name": self.stable_name, "target": str(props.target), "image-id": self.image and list(self.image),
            "open": {"read_only": props.read_only, "direct": props.direct, "engine": self.engine,
                     "logical_block_size": props.logical_block_size, "discard": props.discard_enable},
            "settings": {"discard": features.discard_offered(props, self.facts), "barrier": props.barrier,
                         "max_indirect": props.max_indirect, "read_only": props.read_only,
                         "logical_block_size": props.logical_block_size, "max_buffer_bytes": self.buffer_bytes,
                         "poll_ns": props.poll_us * 1000, "rerror": props.rerror, "werror": props.werror,
                         "size": self.facts.size}}

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("kind", "domain", "name", "created", "engine", "buffer_bytes",
                                                        "flush_failed")}
        properties = asdict(replace(self.properties, target=None))
        properties |= {"vdev": self.properties.vdev.number, "target": str(self.properties.target)}
        return plain | {"version": VERSION, "writer": __version__, "properties": properties,
                        "facts": asdict(self.facts), "agreement": self.agreement and self.agreement.to_json(),
                        "identity": self.identity and self.identity.to_json(),
                        "image": self.image and list(self.image)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """Raises Error, which says what to do, if a later version wrote it; KeyError, TypeError, ValueError or
        PropertyError if it is no record."""
        fields = dict(fields)
        version, writer = fields.pop("version", 0), fields.pop("writer", "unknown")
        if version > VERSION:
            raise Error(errno.ESTALE, f"its record is of version {version} (xenvbd {writer}), and xenvbd {__version__} "
                        f"reads {VERSION}: its worker serves it on; go back to xenvbd {writer}, or detach it there")
        properties = {name: value for name, value in fields["properties"].items() if name not in GONE} | {
            "vdev": vdev.from_number(fields["properties"]["vdev"]),
            "target": target.parse(fields["properties"]["target"])}
        agreement, identity, image = fields["agreement"], fields.get("identity"), fields.get("image")
        return cls(**(fields | {
            "properties": Properties(**properties), "facts": DiskFacts(**fields["facts"]),
            "agreement": agreement and Agreement.from_json(agreement),
            "identity": identity and Identity.from_json(identity), "image": image and (int(image[0]), int(image[1]))}))
