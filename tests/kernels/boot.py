"""Boot a stock kernel under QEMU with virtme-ng and run one command inside.

No KVM, no image: the guest's root is the host's, read-only, so the checkout, its virtual
environment and the system's bcc are where they are on the host. One folder is writable, and
what the guest has to say goes there.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from tests.kernels.catalogue import MEMORY
from tests.kernels.fetch import Image

ROOT = Path(__file__).resolve().parents[2]
GUEST_SCRIPT = Path(__file__).with_name("guest.sh")


@dataclass(frozen=True)
class Boot:
    """How a guest ended. `status` is the command's; None where the guest died or hung."""

    status: int | None
    timed_out: bool
    seconds: float
    out: Path

    @property
    def output(self) -> str:
        """What the command wrote to stdout and stderr."""
        return _read(self.out / "output")

    @property
    def console(self) -> str:
        return _read(self.out / "console.log")

    def why_it_failed(self, lines: int = 40) -> str:
        """In words, with the end of the output and of the console."""
        if self.status is not None:
            return f"exit status {self.status}\n{_tail(self.output, lines)}"
        word = "timed out" if self.timed_out else "crashed or never started"
        return (
            f"guest {word} after {self.seconds:.0f} s\n"
            f"--- output\n{_tail(self.output, lines)}\n"
            f"--- console ({self.out}/console.log)\n{_tail(self.console, lines)}"
        )


def boot(
    image: Image,
    command: Sequence[str],
    out: Path,
    *,
    limit: float,
    root: Path = ROOT,
    cpus: int = 2,
    memory: str = MEMORY,
    append: Sequence[str] = (),
    vng: Sequence[str] = (),
    stop: Event | None = None,
) -> Boot:
    """Boot `image`, run `command` in the folder `root`, and wait at most `limit` seconds.

    `out` must exist; `output`, `status` and `console.log` are written there.
    `append` goes to the kernel's command line, `vng` to vng's own. Setting
    `stop` (from another thread) ends the guest at once.
    """
    out = out.resolve()
    for name in ("output", "status"):
        (out / name).unlink(missing_ok=True)
    started = time.monotonic()
    script = _write_script(command, root.resolve(), out)
    arguments = _vng_arguments(image, script, out, cpus, memory, append, vng)
    with (out / "console.log").open("wb") as console:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": _host_path()},
            start_new_session=True,  # QEMU is a grandchild: the group is what can be killed
        )
        try:
            timed_out = not _wait(process, started + limit, stop or Event())
        finally:
            _end(process)
    status = _read(out / "status").strip()
    return Boot(
        status=int(status) if status else None,
        timed_out=timed_out,
        seconds=time.monotonic() - started,
        out=out,
    )


def _write_script(command: Sequence[str], root: Path, out: Path) -> Path:
    """The command in a file: a kernel's command line, where vng puts it, ends at 2048 bytes."""
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    inside = ["exec", "sh", str(GUEST_SCRIPT), str(out), str(root), path, *command]
    script = out / "command.sh"
    script.write_text(f"{shlex.join(inside)}\n")
    return script


def _vng_arguments(
    image: Image,
    script: Path,
    out: Path,
    cpus: int,
    memory: str,
    append: Sequence[str],
    vng: Sequence[str],
) -> list[str]:
    return [
        str(Path(sys.executable).with_name("vng")),
        "--verbose",  # the kernel's messages, for the tail of a crash
        f"--run={image.vmlinuz}",
        "--disable-kvm",
        "--force-9p",  # the same everywhere; guest.sh makes it fast
        "--user=root",
        f"--memory={memory}",
        f"--cpus={cpus}",
        "--rodir=/mnt=/",
        f"--rwdir={out}",
        *(f"--append={word}" for word in append),
        *vng,
        f"--exec=sh {shlex.quote(str(script))}",
    ]


def _host_path() -> str:
    """PATH for vng: it calls virtme-run, which lies beside it, and modprobe, which is in sbin."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


def _wait(process: subprocess.Popen[bytes], deadline: float, stop: Event) -> bool:
    """Whether the process ended by itself before the deadline and before `stop`."""
    while time.monotonic() < deadline and not stop.is_set():
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the guest outlives us, whether it ended, hung, or we were interrupted."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _read(path: Path) -> str:
    """A guest's text, whatever bytes it holds; empty where there is none."""
    try:
        return path.read_text(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return ""


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])
