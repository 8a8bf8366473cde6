"""What the frontend holds against a backend: the errors it raises, and the names that their sentences use."""
from __future__ import annotations

import errno
from typing import Any

from xenvbd.errors import Error, HypervisorError

OPERATIONS = {0: "READ", 1: "WRITE", 2: "WRITE_BARRIER", 3: "FLUSH_DISKCACHE", 5: "DISCARD", 6: "INDIRECT"}
STATUSES = {0: "OKAY", -1: "ERROR", -2: "EOPNOTSUPP"}


def operation_name(operation: int) -> str:
    """blkif.h's name of an operation, with its number: READ (0)."""
    return f"{OPERATIONS.get(operation, 'unknown operation')} ({operation})"


def status_name(status: int) -> str:
    """blkif.h's name of a status, with its number: ERROR (-1)."""
    return f"{STATUSES.get(status, 'unknown status')} ({status})"


class OracleError(Error):
    """The backend broke the protocol or returned wrong data.  A blkfront would disable the disk for good.

    facts holds what is known, by name: index of the response in the ring, id, operation, status, sector ..."""

    facts: dict[str, Any]

    def __init__(self, errno: int, message: str, *, disk: str | None = None, path: str | None = None,
                 facts: dict[str, Any] | None = None) -> None:
        super().__init__(errno, message, disk=disk, path=path)
        self.facts = facts or {}


class Unanswered(OracleError, TimeoutError):
    """Requests had no answer when the deadline came; facts["ids"] are theirs."""


class RequestError(Error):
    """The backend answered a request, properly, with another status than OKAY.

    errno is EIO for ERROR and EOPNOTSUPP for EOPNOTSUPP; status is the ring's."""

    status: int

    def __init__(self, operation: int, sector: int, count: int, status: int, *, disk: str | None = None) -> None:
        what = f"{operation_name(operation)} of {count} sectors at {sector} was answered {status_name(status)}"
        super().__init__(errno.EOPNOTSUPP if status == -2 else errno.EIO, what, disk=disk)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return (Error, (self.errno, self.message))


def fault(kind: str, facts: dict[str, Any], answered: bool = False) -> Error:
    """The error for a fault that the data path found.  kind: of queue.FAULTS; facts: what it noted; answered: an
    unknown id was one of a raw request that was answered before."""
    if kind == "unanswered":
        return Unanswered(errno.ETIMEDOUT, _unanswered(facts["ids"]), facts=facts)
    if kind == "system":
        what = f"the pages of request {facts['id']:#x} cannot be taken back after its response"
        return HypervisorError(-facts["status"], what)
    return OracleError(errno.EPROTO, _sentence("duplicate" if answered else kind, facts), facts=facts)


def _unanswered(ids: list[int]) -> str:
    named = ", ".join(f"{i:#x}" for i in ids[:16]) + (" ..." if len(ids) > 16 else "")
    return f"no response in time for {len(ids)} requests: id {named}"


def _sentence(kind: str, facts: dict[str, Any]) -> str:
    """A fault in words."""
    if kind == "overrun":
        taken, beyond = facts["rsp_cons"], facts["rsp_prod"] - facts["rsp_cons"] & 0xFFFFFFFF
        return (f"rsp_prod is {facts['rsp_prod']}: {beyond} responses beyond the {taken} taken, "
                f"for {facts['req_prod'] - taken & 0xFFFFFFFF} requests")
    found, expected = operation_name(facts["operation"]), operation_name(facts["expected"])
    says = {"duplicate": "was answered before", "unknown": "is of no request",
            "operation": f"carries {found}, the request was {expected}",
            "status": f"to {found} has status {status_name(facts['status'])}, which was not expected",
            "data": "is to a READ that changed bytes outside its segments"}
    return f"response {facts['index']}: id {facts['id']:#x} {says[kind]}"
