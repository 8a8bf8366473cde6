"""Event channels against a model of Xen's common/event_channel.c, under random interleavings of three domains."""
import contextlib
import select
import shutil
import tempfile
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from xenvbd.errors import HypervisorError
from xenvbd.hv import evtchn, sim

DOMAINS = (0, 1, 2)
domains = st.sampled_from(DOMAINS)
ports = st.integers(1, 5)


@dataclass
class Port:
    state: str
    remote: int
    remote_port: int = 0
    pending: bool = False
    masked: bool = False


class EventChannelMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.machine = sim.Machine.create(tempfile.mkdtemp(prefix="xenvbd-model-", dir="/dev/shm"))
        for domid in DOMAINS[1:]:
            self.machine.add_domain(domid)
        self.channels = {domid: evtchn.EventChannels(self.machine.join(domid)) for domid in DOMAINS}
        self.model = {domid: {} for domid in DOMAINS}

    def teardown(self):
        for channels in self.channels.values():
            channels.close()
        self.machine.close()
        shutil.rmtree(self.machine.dir)

    def free(self, domid):
        return next(port for port in range(1, 4096) if port not in self.model[domid])

    @rule(domid=domains, remote=domains)
    def bind_unbound(self, domid, remote):
        expected = self.free(domid)
        assert self.channels[domid].bind_unbound(remote) == expected
        self.model[domid][expected] = Port("unbound", remote)

    @rule(domid=domains, remote=domains, port=ports)
    def bind_interdomain(self, domid, remote, port):
        other = self.model[remote].get(port)
        try:
            ours = self.channels[domid].bind_interdomain(remote, port)
        except HypervisorError:
            assert other is None or (other.state, other.remote) != ("unbound", domid)
            return
        assert ours == self.free(domid)
        other.state, other.remote_port = "interdomain", ours
        self.model[domid][ours] = Port("interdomain", remote, port, pending=True)

    @rule(domid=domains, port=ports)
    def unbind(self, domid, port):
        if port not in self.model[domid]:
            return
        self.channels[domid].unbind(port)
        gone = self.model[domid].pop(port)
        if gone.state == "interdomain" and (other := self.model[gone.remote].get(gone.remote_port)):
            other.state, other.remote, other.remote_port = "unbound", domid, 0

    @rule(domid=domains, port=ports)
    def notify(self, domid, port):
        ours = self.model[domid].get(port)
        with contextlib.nullcontext() if ours else pytest.raises(HypervisorError):
            self.channels[domid].notify(port)
        if ours and ours.state == "interdomain":
            self.model[ours.remote][ours.remote_port].pending = True

    @rule(domid=domains)
    def take(self, domid):
        port = self.channels[domid].pending()
        assert port in self.ready(domid) or (port is None and not self.ready(domid))
        if port is not None:
            self.model[domid][port].pending, self.model[domid][port].masked = False, True

    @rule(domid=domains, port=ports)
    def unmask(self, domid, port):
        self.channels[domid].unmask(port)
        if port in self.model[domid]:
            self.model[domid][port].masked = False

    def ready(self, domid):
        return {number for number, port in self.model[domid].items() if port.pending and not port.masked}

    @invariant()
    def the_machine_is_as_the_model(self):
        for domid in DOMAINS:
            found = {info.port: Port(*info[1:]) for info in self.machine.ports(domid)}
            assert found == self.model[domid]

    @invariant()
    def who_has_an_event_is_woken(self):
        for domid in DOMAINS:
            if self.ready(domid):
                assert select.select([self.channels[domid]], [], [], 0)[0]


TestEventChannels = EventChannelMachine.TestCase
TestEventChannels.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
