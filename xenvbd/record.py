"""What a manager must know again of a device after it was restarted: a file of the runtime directory, as a
value.

Nothing of it is in xenstore, where a guest could read it."""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from xenvbd import features, target, vdev
from xenvbd.features import Agreement
from xenvbd.properties import DiskFacts, Properties


@dataclass(frozen=True)
class Record:
    """One published device.  domain tells a domain from an earlier one of its number; created: its areas are
    ours; agreement: of its present connection, None without one; flush_failed: what was written before may be
    lost, so it is not served again."""

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

    def orders(self) -> dict[str, Any]:
        """What a worker is told of it at connect: see disk.open() and dataplane.Settings."""
        props = self.properties
        return {
            "name": self.name, "target": str(props.target),
            "open": {"read_only": props.read_only, "direct": props.direct, "engine": self.engine,
                     "logical_block_size": props.logical_block_size, "discard": props.discard_enable},
            "settings": {"discard": features.discard_offered(props, self.facts), "barrier": props.barrier,
                         "max_indirect": props.max_indirect, "read_only": props.read_only,
                         "logical_block_size": props.logical_block_size, "max_buffer_bytes": self.buffer_bytes,
                         "poll_ns": props.poll_us * 1000, "rerror": props.rerror, "werror": props.werror}}

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("kind", "domain", "name", "created", "engine", "buffer_bytes",
                                                        "flush_failed")}
        properties = asdict(replace(self.properties, target=None))
        properties |= {"vdev": self.properties.vdev.number, "target": str(self.properties.target)}
        return plain | {"properties": properties, "facts": asdict(self.facts),
                        "agreement": self.agreement and self.agreement.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """Raises KeyError, TypeError, ValueError or PropertyError if an other version wrote it."""
        properties = fields["properties"] | {
            "vdev": vdev.from_number(fields["properties"]["vdev"]),
            "target": target.parse(fields["properties"]["target"])}
        agreement = fields["agreement"]
        return cls(**(fields | {
            "properties": Properties(**properties), "facts": DiskFacts(**fields["facts"]),
            "agreement": agreement and Agreement.from_json(agreement)}))
