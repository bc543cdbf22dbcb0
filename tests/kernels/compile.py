"""Compiling for a guest on the host: clang takes a second here and half a minute there.

In a guest, `ask` (called by the plugin report.py) writes what would be compiled to a file in the
guest's folder; on the host, `serve` waits for that and runs this module, which compiles. What it
made goes into the guest's cache of compiled probes (tracer/probes/cache.py), where the tests find
it. The first probe, without call stacks, is left to the guest: bcc must work there, too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from tracer.common.cache_files import default_folder
from tracer.common.errors import TraceError
from tracer.common.resources import bpf_dir
from tracer.kernel.btf import Btf
from tracer.probes import cache
from tracer.probes.bcc_check import installed_bcc
from tracer.probes.compiled import decode, encode
from tracer.probes.compiler import Build, builds_for

WANTED, MADE = "wanted.json", "compiled.json"
LIMIT_SECONDS = 120.0  # for all of them, on the host
_POLL_SECONDS = 0.2


def ask(folder: Path, probes: Sequence[str]) -> None:
    """Say what the tests of these probes need on this kernel."""
    about = installed_bcc()
    if about is None:
        return
    wanted = {}
    with Btf() as btf:
        plain = builds_for(btf, stacks=False), probes[1:]
        by_rules = builds_for(btf, stacks=True), probes
        by_pointers = builds_for(btf, stacks=True, by_rules=False), probes[:1]  # test_stack_walk.py
        for builds, some in (plain, by_rules, by_pointers):
            for probe in some:
                build = builds[probe]
                wanted[build.key(bpf_dir(), about)] = [list(build.flags), build.cast]
    _write(folder / WANTED, json.dumps(wanted))


def receive(folder: Path) -> None:
    """Put what was asked for into the cache, once it is there; without it all is compiled here."""
    deadline = time.monotonic() + LIMIT_SECONDS
    made = folder / MADE
    while (folder / WANTED).exists() and time.monotonic() < deadline:
        if made.exists():
            for key, answer in json.loads(made.read_text()).items():
                cache.store(default_folder(), key, decode(json.loads(answer)))
            return
        time.sleep(_POLL_SECONDS)


def clear(folder: Path) -> None:
    """Nothing of an earlier run is taken for this one's."""
    for name in (WANTED, MADE):
        (folder / name).unlink(missing_ok=True)


def serve(folder: Path, root: Path, ended: Event) -> None:
    """Compile for the guest with this folder, if it asks, until it has `ended`."""
    while not (folder / WANTED).exists():
        if ended.wait(_POLL_SECONDS):
            return
    command = [sys.executable, "-m", "tests.kernels.compile", str(folder)]
    subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    if not (folder / MADE).exists():
        _write(folder / MADE, "{}")


def main(folder: Path) -> None:
    made = {}
    for key, (flags, cast) in json.loads((folder / WANTED).read_text()).items():
        try:
            made[key] = encode(Build(tuple(flags), cast).compile(bpf_dir()))
        except TraceError as error:
            print(f"tests.kernels.compile: {error}", file=sys.stderr)
    _write(folder / MADE, json.dumps(made))


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
