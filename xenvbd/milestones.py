"""The trace events of what a vbd as a whole has come to: published, and gone."""
from __future__ import annotations

from xenvbd.properties import DiskFacts, Properties
from xenvbd.trace import event


def published(disk: str, properties: Properties, facts: DiskFacts) -> None:
    """The guest has been told of it."""
    if properties.device_type == "cdrom":
        event("xen_cdrom_realize", disk=disk)
    else:
        event("xen_disk_realize", disk=disk)
    event("xen_block_realize", disk=disk, target=str(properties.target), mode=properties.mode)
    event("xen_block_size", disk=disk, sectors=facts.size // properties.sector_unit)


def gone(disk: str, area: str, properties: Properties | None) -> None:
    """Nothing of it is left; area: of the backend; properties: None if it was never known what it was to be."""
    event("xen_device_unrealize", disk=disk, path=area)
    if properties is not None and properties.device_type == "cdrom":
        event("xen_cdrom_unrealize", disk=disk)
    else:
        event("xen_disk_unrealize", disk=disk)
    event("xen_block_unrealize", disk=disk)
    event("xen_block_blockdev_del", disk=disk, target=str(properties and properties.target))
