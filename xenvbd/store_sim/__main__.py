"""python -m xenvbd.store_sim DIR [--domains 0,1,...]: the simulated store as a process of its own.

Prints "ready" when the sockets DIR/store.N are there.  May be killed; started again, it has its tree back."""
from __future__ import annotations

import argparse
import signal

from xenvbd.store_sim.server import SimStore


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m xenvbd.store_sim", description="the simulated XenStore")
    parser.add_argument("directory", help="the simulated machine")
    parser.add_argument("--domains", default="0", help="domains to create, such as 0,1,2 (default: 0)")
    args = parser.parse_args()
    store = SimStore(args.directory, [int(domid) for domid in args.domains.split(",") if domid])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: store.shut_down())
    print("ready", flush=True)
    store.run()
    store.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
