"""Prints as JSON why each probe cannot be used here; empty for one that can.

python -m bench.probes
"""

import json

from tracer.common.errors import TraceError
from tracer.common.resources import bpf_dir
from tracer.probes.choose import attach


def refusals() -> dict[str, str]:
    """Reasons by probe, in the order of preference."""
    found = {}
    for name in ("fentry", "kprobe", "perf"):
        try:
            attach(name, bpf_dir()).close()
            found[name] = ""
        except TraceError as error:
            found[name] = error.message
    return found


if __name__ == "__main__":
    print(json.dumps(refusals()))
