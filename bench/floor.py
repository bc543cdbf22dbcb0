"""Runs bench/floor.c: the lower bound of the cost of a record per fault, or an empty program.

    python -m bench.floor [--empty] PID

Prints `ready`, and the address of each fault once it is interrupted. It reads
the ring with the tracer's own code.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from tracer.common.resources import bpf_dir
from tracer.wire.ring import KernelRing

SOURCE = Path(__file__).with_suffix(".c")
_RING_BYTES, _PAGE = 64 << 20, 4096
_RECORD = 8
_MINOR, _MAJOR = 5, 6  # include/uapi/linux/perf_event.h: PERF_COUNT_SW_PAGE_FAULTS_*
_PAUSE_S = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.floor")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("pid", type=int)
    options = parser.parse_args()
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir() / "compat")
    from bcc import BPF, PerfType

    flags = ["-I/usr/include", "-I/usr/include/x86_64-linux-gnu"]  # behind the stand-ins
    flags += [f"-DTARGET={options.pid}", f"-DRING_PAGES={_RING_BYTES // _PAGE}"]
    bpf = BPF(src_file=str(SOURCE), cflags=[*flags, *["-DEMPTY"] * options.empty])
    for config in (_MINOR, _MAJOR):
        bpf.attach_perf_event(PerfType.SOFTWARE, config, fn_name="page_fault", sample_period=1)
    print("ready", flush=True)
    read = [] if options.empty else _read(bpf["events"].get_fd())
    sys.stdout.writelines(f"{address:x}\n" for address in read)


def _read(fd: int) -> list[int]:
    """The records' addresses, until SIGINT."""
    batches = []
    with KernelRing(fd, _RING_BYTES, _RECORD) as ring:
        try:
            while True:
                batches.append(ring.read())
                if not len(batches[-1]):
                    time.sleep(_PAUSE_S)
        except KeyboardInterrupt:
            while len(rest := ring.read()):
                batches.append(rest)
    return [int(address) for address in np.concatenate(batches).view("<u8").ravel()]


if __name__ == "__main__":
    main()
