"""How the frontends of the world shake hands: one class each, in the order their sources do it.

What differs: which state of the backend they wait for, which nodes they write and require, whether in a
transaction, in which state they publish their ring, in which units they count sectors, and how they close.
"""
from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xenvbd.frontend.bus import Bus, HandshakeError, State

PROTOCOLS = {"native": "x86_64-abi", "x86_64-abi": "x86_64-abi", "x86_32-abi": "x86_32-abi"}


@dataclass(frozen=True)
class Wishes:
    """What the frontend would like, within what the backend offers.  None: as the persona does by itself."""

    ring_page_order: int | None = None
    indirect: int | None = None
    persistent: bool = True
    queues: int = 1
    abi: str = "native"
    protocol: bool = True                                       # False: leave the node out
    nodes: dict[str, str | None] = field(default_factory=dict)  # written instead of the persona's; None: left out


@dataclass(frozen=True)
class RingNodes:
    """What there is to publish of a queue."""

    refs: tuple[int, ...]
    port: int


@dataclass(frozen=True)
class Facts:
    """What the backend says of its disk, as this persona understands it."""

    sectors: int                    # of 512 bytes
    sector_size: int
    physical_sector_size: int = 512
    info: int = 0
    flush: bool = False
    barrier: bool = False
    discard: bool = False
    discard_secure: bool = False
    discard_granularity: int = 0
    discard_alignment: int = 0
    persistent: bool = False
    max_segments: int = 11
    ring_page_order: int = 0
    number_shift: int = 0           # sector_number is in units of 512 << this
    segment_shift: int = 0          # first_sect and last_sect likewise

    @property
    def cdrom(self) -> bool:
        return bool(self.info & 1)

    @property
    def read_only(self) -> bool:
        return bool(self.info & 4)


MakeRing = Callable[[int], RingNodes]


class Persona:
    """What they have in common; a subclass says what it does otherwise."""

    name = ""
    max_order = 4                       # of the ring
    default_order = 0
    default_indirect = 0                # segments; 0: never uses INDIRECT
    sectors_in_sector_size = False      # unit of `sectors`
    numbers_in_sector_size = False      # unit of sector_number and of a discard's count
    segments_in_sector_size = False     # unit of first_sect and last_sect
    max_segments = 11
    anonymous = False                   # every request has id 0

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        """From whatever state the area is in to a ring that can be used.  Raises HandshakeError."""
        raise NotImplementedError

    def close(self, bus: Bus) -> None:
        """The closing of our own accord: Closing, Closed, each once the backend has answered the last."""
        bus.switch(State.Closing)
        bus.await_backend(State.Closing, State.Closed, gone=True)
        bus.switch(State.Closed)
        bus.await_backend(State.Closed, gone=True)

    def answer_closing(self, bus: Bus) -> None:
        """The backend went to Closing; nothing is in flight any more."""
        self.close(bus)

    def reset(self, bus: Bus) -> None:
        """Make a backend that still serves a dead predecessor ready for a new ring (kexec, kdump): Linux's
        xenbus_reset_frontend."""
        state = bus.backend_state
        if state is State.Connected:
            bus.switch(State.Closing)
            bus.await_backend(State.Closing)
        if state in (State.Connected, State.Closing):
            bus.switch(State.Closed)
            bus.await_backend(State.Closed)
        if state in (State.Connected, State.Closing, State.Closed):
            bus.switch(State.Initialising)
            bus.await_backend(State.InitWait)

    # Pieces

    def order(self, bus: Bus, wishes: Wishes) -> int:
        """The ring's page order: ours, no more than the backend's.  ValueError: more than this frontend knows."""
        own = self.default_order if wishes.ring_page_order is None else wishes.ring_page_order
        if own > self.max_order and "ring-page-order" not in wishes.nodes:
            raise ValueError(f"{self.name} has no rings of 2**{own} pages")
        return min(own, bus.number("max-ring-page-order", 0)) if own else 0

    def ring_nodes(self, ring: RingNodes, wishes: Wishes) -> dict[str, str]:
        """ring-ref or ring-page-order and ring-ref0.., event-channel, protocol."""
        order = len(ring.refs).bit_length() - 1
        nodes = {"ring-ref": str(ring.refs[0])} if order == 0 else {
            "ring-page-order": str(order), **{f"ring-ref{i}": str(ref) for i, ref in enumerate(ring.refs)}}
        nodes["event-channel"] = str(ring.port)
        if wishes.protocol:
            nodes["protocol"] = PROTOCOLS[wishes.abi]
        return nodes

    def overridden(self, nodes: dict[str, str], wishes: Wishes) -> dict[str, str]:
        """The nodes with the caller's changes."""
        merged: dict[str, str | None] = {**nodes, **wishes.nodes}
        return {node: value for node, value in merged.items() if value is not None}

    def facts(self, bus: Bus, wishes: Wishes, ring: RingNodes) -> Facts:
        """Read the disk's nodes; sectors, info and sector-size must be there."""
        sectors, info, sector_size = bus.number("sectors"), bus.number("info"), bus.number("sector-size")
        if sector_size < 512 or sector_size & (sector_size - 1):
            raise HandshakeError(errno.EINVAL, f"{sector_size} is no sector size", path=f"{bus.backend}/sector-size")
        scale = (sector_size // 512).bit_length() - 1
        return Facts(
            sectors=sectors << (scale * self.sectors_in_sector_size), sector_size=sector_size, info=info,
            number_shift=scale * self.numbers_in_sector_size, segment_shift=scale * self.segments_in_sector_size,
            physical_sector_size=bus.number("physical-sector-size", sector_size),
            flush=bus.flag("feature-flush-cache"), barrier=bus.flag("feature-barrier"),
            persistent=bus.flag("feature-persistent") and wishes.persistent,
            max_segments=self.segments(bus, wishes), ring_page_order=len(ring.refs).bit_length() - 1,
            **self.discard(bus))

    def segments(self, bus: Bus, wishes: Wishes) -> int:
        """Segments of a request.  Linux makes no use of an offer of 11 or fewer."""
        own = self.default_indirect if wishes.indirect is None else wishes.indirect
        offer = bus.number("feature-max-indirect-segments", 0) if own else 0
        return min(own, offer) if min(own, offer) > self.max_segments else self.max_segments

    def discard(self, bus: Bus) -> dict[str, Any]:
        """The fields of Facts on DISCARD."""
        if not bus.flag("feature-discard"):
            return {}
        return {"discard": True, "discard_granularity": bus.number("discard-granularity", 0),
                "discard_alignment": bus.number("discard-alignment", 0),
                "discard_secure": bus.flag("discard-secure")}

    def fatal(self, bus: Bus, step: Callable[[], Facts]) -> Facts:
        """Run a step of the handshake; on failure go to Closing, as xenbus_dev_fatal does."""
        try:
            return step()
        except HandshakeError:
            bus.switch(State.Closing)
            raise


class Linux(Persona):
    """xen-blkfront: waits for InitWait, publishes in one transaction, then Initialised."""

    name = "linux"
    default_indirect = 32

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        if bus.state is not State.Initialising:
            self.reset(bus)
        return self.fatal(bus, lambda: self._connect(bus, make_ring, wishes))

    def _connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        bus.await_backend(State.InitWait, refuse=(State.Closing, State.Closed))
        count = max(1, min(wishes.queues, bus.number("multi-queue-max-queues", 1)))
        order = self.order(bus, wishes)
        rings = [make_ring(order) for _ in range(count)]
        nodes = {**self.rings_nodes(rings, wishes), "feature-persistent": str(int(wishes.persistent))}
        bus.write(self.overridden(nodes, wishes))
        bus.switch(State.Initialised)
        bus.await_backend(State.Connected, refuse=(State.Closing, State.Closed))
        facts = self.facts(bus, wishes, rings[0])
        bus.switch(State.Connected)
        return facts

    def rings_nodes(self, rings: list[RingNodes], wishes: Wishes) -> dict[str, str]:
        """One ring's nodes lie in the area itself; of several each has a directory, for what is a ring's own."""
        if len(rings) == 1:
            return self.ring_nodes(rings[0], wishes)
        nodes = {"multi-queue-num-queues": str(len(rings))}
        for number, ring in enumerate(rings):
            for name, value in self.ring_nodes(ring, wishes).items():
                own = name.startswith(("ring-ref", "event-channel"))
                nodes[f"queue-{number}/{name}" if own else name] = value
        return nodes

    def answer_closing(self, bus: Bus) -> None:
        bus.switch(State.Closed)
        bus.await_backend(State.Closed, gone=True)


class Windows(Persona):
    """win-xenvbd: closes first, needs InitWait after Initialising, counts everything in sector-size."""

    name = "windows"
    default_order = 4
    default_indirect = 256
    sectors_in_sector_size = numbers_in_sector_size = segments_in_sector_size = True

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        self.close(bus)
        bus.switch(State.Initialising)
        self._await_not(bus, (State.Closed, State.Initialising), State.InitWait)
        bus.number("multi-queue-max-queues", 1)
        ring = make_ring(self.order(bus, wishes))
        bus.write(self.overridden(self._nodes(ring, wishes), wishes))
        bus.switch(State.Initialised)
        self._await_not(bus, (State.InitWait, State.Initialising, State.Initialised), State.Connected)
        bus.flag("removable")
        facts = self.facts(bus, wishes, ring)
        bus.switch(State.Connected)
        return facts

    def _nodes(self, ring: RingNodes, wishes: Wishes) -> dict[str, str]:
        return {"multi-queue-num-queues": "1", **self.ring_nodes(ring, wishes),
                "feature-persistent": str(int(wishes.persistent)), "target-id": "0", "feature-surprise-remove": "1",
                "feature-online-resize": "1", "feature-large-sector-size": "1"}

    def _await_not(self, bus: Bus, through: tuple[State, ...], wanted: State) -> None:
        """Wait while the backend is in one of those states; where it goes then must be the wanted one."""
        others = tuple(state for state in State if state not in (*through, wanted))
        bus.await_backend(wanted, refuse=others)

    def close(self, bus: Bus) -> None:
        """Repeat Closing until the backend has answered it, then Closed until that is answered."""
        known = tuple(state for state in State if state is not State.Initialising)
        state = bus.await_backend(*known, gone=True)
        if state not in (State.Closing, State.Closed):
            bus.switch(State.Closing)
            state = bus.await_backend(State.Closing, State.Closed, gone=True)
        if state is not State.Closed:
            bus.switch(State.Closed)
            bus.await_backend(State.Closed, gone=True)

    def answer_closing(self, bus: Bus) -> None:
        if bus.theirs("online") == b"0":
            bus.write({"ejected": "1"}, transaction=False)
        self.close(bus)

    def discard(self, bus: Bus) -> dict[str, Any]:
        return super().discard(bus) if bus.number("discard-enable", 1) else {}


class FreeBSD(Persona):
    """FreeBSD's blkfront: starts at InitWait, Initialised or Connected; no transaction; old nodes for the ring."""

    name = "freebsd"
    max_order = 5
    default_order = 5
    sectors_in_sector_size = numbers_in_sector_size = True

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        if bus.state is not State.Initialising:
            self.reset(bus)
        bus.switch(State.Initialising)
        return self.fatal(bus, lambda: self._connect(bus, make_ring, wishes))

    def _connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        bus.await_backend(State.InitWait, State.Initialised, State.Connected)
        ring = make_ring(self.order(bus, wishes))
        bus.write(self.overridden(self._nodes(bus, ring, wishes), wishes), transaction=False)
        bus.switch(State.Initialised)
        bus.await_backend(State.Connected, refuse=(State.Closing,))
        facts = self.facts(bus, wishes, ring)
        bus.switch(State.Connected)
        return facts

    def order(self, bus: Bus, wishes: Wishes) -> int:
        """max-ring-pages counts where there is one, otherwise max-ring-page-order; rounded down."""
        pages = bus.number("max-ring-pages", 1 << bus.number("max-ring-page-order", 0))
        own = self.default_order if wishes.ring_page_order is None else wishes.ring_page_order
        return min(own, self.max_order, max(pages, 1).bit_length() - 1)

    def _nodes(self, bus: Bus, ring: RingNodes, wishes: Wishes) -> dict[str, str]:
        pages = {"num-ring-pages": str(len(ring.refs))} if len(ring.refs) > 1 else {}
        requests = bus.number("max-requests", 32 * len(ring.refs))
        return {**pages, "max-requests": str(requests), "max-request-segments": "11",
                "max-request-size": str(10 * 4096), **self.ring_nodes(ring, wishes)}

    def answer_closing(self, bus: Bus) -> None:
        """Nobody has the disk open."""
        bus.switch(State.Closing)
        bus.switch(State.Closed)
        bus.await_backend(State.Closed, gone=True)

    def refuse_closing(self, bus: Bus) -> None:
        """Somebody has it open: say so, and stay."""
        bus.write({"error": "16 Device in use; refusing to close"}, transaction=False)


class MiniOS(Persona):
    """MiniOS: never waits for InitWait, goes straight to Connected; leaves the area ready for the next kernel."""

    name = "minios"
    max_order = 0
    sectors_in_sector_size = True
    needs_mode = True

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        self.look_first(bus)
        ring = make_ring(self.order(bus, wishes))
        bus.write(self.overridden(self.ring_nodes(ring, wishes), wishes), state=State.Connected)
        mode = bus.theirs("mode")
        if self.needs_mode and not mode:
            raise HandshakeError(errno.ENOENT, "expected r or w, found no node", path=f"{bus.backend}/mode")
        bus.await_backend(State.Connected, refuse=tuple(s for s in State if s > State.Connected))
        return self.facts(bus, wishes, ring)

    def look_first(self, bus: Bus) -> None:
        """What is done before the ring is made."""

    def close(self, bus: Bus) -> None:
        bus.switch(State.Closing)
        bus.await_backend(*(s for s in State if s >= State.Closing), gone=True)
        bus.switch(State.Closed)
        bus.await_backend(*(s for s in State if s >= State.Closed), gone=True)
        if bus.gone or bus.theirs("online") == b"0":
            return      # MiniOS would wait on for the InitWait of a backend that goes away
        bus.switch(State.Initialising)
        bus.await_backend(*(s for s in State if State.InitWait <= s < State.Closed), gone=True)
        bus.remove("ring-ref", "event-channel")


class UBoot(MiniOS):
    """U-Boot's pvblock, a descendant of MiniOS's blkfront."""

    name = "uboot"


class OVMF(MiniOS):
    """OVMF's XenPvBlkDxe: as MiniOS, without the mode; an empty CD-ROM drive is recognised by params."""

    name = "ovmf"
    needs_mode = False

    def look_first(self, bus: Bus) -> None:
        if bus.own("device-type") == b"cdrom" and bus.theirs("params") in (b"", b"aio:"):
            raise HandshakeError(errno.ENOMEDIUM, "no medium in the drive", path=f"{bus.backend}/params")


class Grub(Persona):
    """PV-GRUB: Initialised without waiting, spins only while the backend is at InitWait, never Connected."""

    name = "grub"
    max_order = 0
    max_segments = 1
    anonymous = True

    def connect(self, bus: Bus, make_ring: MakeRing, wishes: Wishes) -> Facts:
        ring = make_ring(self.order(bus, wishes))
        nodes = self.overridden(self.ring_nodes(ring, wishes), wishes)
        bus.write(nodes, transaction=False, state=State.Initialised)
        bus.await_backend(*(s for s in State if s is not State.InitWait))
        return Facts(sectors=bus.number("sectors"), sector_size=bus.number("sector-size"), max_segments=1)

    def close(self, bus: Bus) -> None:
        bus.switch(State.Closed)
        bus.await_backend(State.Closed, gone=True)
        bus.remove("ring-ref", "event-channel")
        if not bus.gone:
            bus.switch(State.Initialising)


PERSONAS: dict[str, Persona] = {p.name: p for p in (Linux(), Windows(), FreeBSD(), MiniOS(), UBoot(), OVMF(), Grub())}


def persona(name: str) -> Persona:
    """The persona of that name.  ValueError names those there are."""
    if name not in PERSONAS:
        raise ValueError(f"persona {name!r} is none of {', '.join(PERSONAS)}")
    return PERSONAS[name]
