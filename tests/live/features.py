"""What a machine can be made to do for a test, and to stop doing afterwards.

Each function is a context manager that sets up one feature of the kernel and leaves everything
as it was. Where the machine cannot, it skips the test with the missing feature as the reason; the
list of skips that are expected is tests/kernels/catalogue.py. conftest.py has a fixture for each.
"""

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage")
KSM = Path("/sys/kernel/mm/ksm")
NODES = Path("/sys/devices/system/node")
ZRAM = Path("/sys/class/zram-control")
CGROUP = Path("/sys/fs/cgroup")
VERSION = tuple(int(part) for part in os.uname().release.split(".")[:2])  # of the kernel
_LOCK = Path("/tmp/pagefault-trace-features.lock")  # holds nothing
_MOUNTED = Path("/run/pagefault-cgroup2")
_SECONDS = 120.0  # a limit, not a wait


@contextlib.contextmanager
def only_user() -> Iterator[None]:
    """Nobody else turns the machine's knobs: another test run on this machine waits here."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def knob(path: Path | str, value: str | int, missing: str = "") -> Iterator[None]:
    """A file in /sys or /proc/sys set to `value`; a choice is restored to what was `[chosen]`."""
    path = Path(path)
    try:
        before = path.read_text()
        path.write_text(f"{value}\n")
    except OSError as error:
        pytest.skip(missing or f"{path}: {error.strerror}")
    chosen = re.search(r"\[(\S+)\]", before)
    try:
        yield
    finally:
        path.write_text(chosen[1] if chosen else before)


@contextlib.contextmanager
def thp(mode: str) -> Iterator[None]:
    """Transparent huge pages `always`, `madvise` or `never`."""
    with knob(THP / "enabled", mode, "transparent huge pages"):
        yield


@contextlib.contextmanager
def mthp(kib: int, mode: str = "always") -> Iterator[None]:
    """Folios of this size, and of no other, for anonymous memory: 16, 32, 64 … KiB."""
    wanted = THP / f"hugepages-{kib}kB" / "enabled"
    if not wanted.exists():
        pytest.skip(f"multi-size huge pages ({kib} KiB)")
    with contextlib.ExitStack() as stack:
        for size in sorted(THP.glob("hugepages-*kB/enabled")):
            stack.enter_context(knob(size, mode if size == wanted else "never"))
        yield


@contextlib.contextmanager
def hugetlb(pages: int, kib: int = 2048) -> Iterator[None]:
    """So many huge pages more in the pool, free."""
    pool = Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages")
    if not pool.exists():
        pytest.skip(f"hugetlb pages ({kib} KiB)")
    before = int(pool.read_text())
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")
    with knob(pool, before + pages):
        if int(pool.read_text()) < before + pages:
            pytest.skip(f"{pages} hugetlb pages ({kib} KiB): memory is too fragmented")
        yield


def numa_nodes() -> tuple[int, ...]:
    """The nodes with memory, two at least."""
    nodes = tuple(
        int(node.name.removeprefix("node"))
        for node in sorted(NODES.glob("node[0-9]*"))
        if "MemTotal:        0 kB" not in (node / "meminfo").read_text()
    )
    if len(nodes) < 2:
        pytest.skip("a second NUMA node")
    return nodes


@contextlib.contextmanager
def ksm() -> Iterator[None]:
    """ksmd at work, as fast as it can; in the end its merged pages are separated again."""
    with (
        knob(KSM / "sleep_millisecs", 0, "KSM"),
        knob(KSM / "pages_to_scan", 10_000),
        knob(KSM / "run", 1),
    ):
        yield
        (KSM / "run").write_text("2")


@contextlib.contextmanager
def swap(mib: int = 64, kind: str = "zram") -> Iterator[Path]:
    """A swap area, preferred to any other; its device or file.

    `zram` is read at once, past the swap cache; `file` lies on the scratch disk, and is
    read through the swap cache, with readahead.
    """
    with _zram(mib) if kind == "zram" else _swap_file(mib) as area:
        _run("mkswap", str(area))
        try:
            _run("swapon", "--priority", "32000", str(area))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"leave to swap ({error.stderr.strip()})")
        try:
            yield area
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # the test's own swapoff
                _run("swapoff", str(area))


@contextlib.contextmanager
def _zram(mib: int) -> Iterator[Path]:
    _modprobe("zram")
    try:
        number = int((ZRAM / "hot_add").read_text())
    except OSError as error:
        pytest.skip(f"zram ({error.strerror})")
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(f"{mib}M")
        yield Path(f"/dev/zram{number}")
    finally:
        _until_free(lambda: (ZRAM / "hot_remove").write_text(str(number)))


@contextlib.contextmanager
def _swap_file(mib: int) -> Iterator[Path]:
    # /tmp may be tmpfs, which cannot be swapped to; a guest's TMPDIR is a disk (guest.sh).
    folder = None if os.environ.get("PAGEFAULT_GUEST") else "/var/tmp"
    with tempfile.NamedTemporaryFile(prefix="swap.", dir=folder) as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _until_free(action: Callable[[], object]) -> None:
    """Again while the kernel says EBUSY: udev and its like look at new devices."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            action()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@dataclass(frozen=True)
class Group:
    """A control group with a memory limit; both versions of the interface."""

    path: Path

    @property
    def version(self) -> int:
        return 2 if (self.path / "memory.current").exists() else 1

    @property
    def usage(self) -> int:
        """Bytes charged."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        return int((self.path / name).read_text())

    def add(self, pid: int) -> None:
        """Move a process in; what it touches from now on is charged here."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, bytes_: int) -> None:
        """Set the limit. The kernel reclaims what is above it before this returns."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        (self.path / name).write_text(str(bytes_))

    def reclaim(self, bytes_: int) -> None:
        """Have the kernel reclaim about so many bytes of the group's processes."""
        direct = self.path / "memory.reclaim"  # 5.19 and later, version 2
        with contextlib.suppress(OSError):  # it reclaimed fewer, or would have had to kill
            if direct.exists():
                direct.write_text(str(bytes_))
            else:
                lower = "memory.high" if self.version == 2 else "memory.limit_in_bytes"
                (self.path / lower).write_text(str(max(self.usage - bytes_, 1 << 16)))
                (self.path / lower).write_text("max" if self.version == 2 else "-1")


@contextlib.contextmanager
def memcg(limit: int | None = None) -> Iterator[Group]:
    """A new group of the memory controller; its processes move to the parent in the end."""
    parent = _memory_controller()
    path = Path(tempfile.mkdtemp(prefix="pagefault.", dir=parent))
    group = Group(path)
    try:
        if limit is not None:
            group.limit(limit)
        yield group
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # ended meanwhile
                (parent / "cgroup.procs").write_text(pid)
        _until_free(path.rmdir)


def _memory_controller() -> Path:
    """Where groups with memory limits are made: version 2 where it has the controller."""
    for root in (CGROUP, CGROUP / "unified", _MOUNTED):
        if _enable_memory(root):
            return root
    if (CGROUP / "memory" / "memory.limit_in_bytes").exists():
        return CGROUP / "memory"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _MOUNTED.mkdir(exist_ok=True)
        _run("mount", "-t", "cgroup2", "none", str(_MOUNTED))
        if _enable_memory(_MOUNTED):
            return _MOUNTED
    pytest.skip("a memory control group")


def fuse() -> None:
    """FUSE is there."""
    _modprobe("fuse")
    if not Path("/dev/fuse").exists():
        pytest.skip("FUSE")


@dataclass(frozen=True)
class Device:
    """A disk with a file system, mounted; until it fails."""

    name: str
    sectors: int
    loop: str

    def fail(self) -> None:
        """Every read and write that reaches it is an error from now on."""
        self._become("error")

    def recover(self) -> None:
        """It has what it had before."""
        self._become(f"linear {self.loop} 0")

    def _become(self, target: str) -> None:
        _dmsetup("suspend", "--nolockfs", "--noflush", self.name)
        _dmsetup("load", self.name, "--table", f"0 {self.sectors} {target}")
        _dmsetup("resume", self.name)


@contextlib.contextmanager
def failing_device(folder: Path) -> Iterator[Device]:
    """A disk by device-mapper, with ext4 on it, mounted at `folder`."""
    _modprobe("dm-mod")
    _modprobe("loop")
    name = f"pagefault-{os.getpid()}"
    with tempfile.NamedTemporaryFile(prefix="disk.") as image:
        image.truncate(32 << 20)
        _run("mkfs.ext4", "-q", "-F", image.name)
        try:
            _dmsetup("version")
            loop = _run("losetup", "--find", "--show", image.name).strip()
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("device-mapper")
        device = Device(name, (32 << 20) // 512, loop)
        try:
            _dmsetup("create", name, "--table", f"0 {device.sectors} linear {loop} 0")
            _run("mount", f"/dev/mapper/{name}", str(folder))
            try:
                yield device
            finally:
                _run("umount", str(folder))
        finally:
            _dmsetup("remove", "--force", name)
            _run("losetup", "--detach", loop)


def _dmsetup(*words: str) -> None:
    _run("env", "DM_DISABLE_UDEV=1", "dmsetup", *words)  # a guest has no udev to wait for


def overlay() -> None:
    """overlayfs is there."""
    _modprobe("overlay")
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("overlayfs")


def _enable_memory(root: Path) -> bool:
    """Whether groups below this root of a version-2 tree have, or now get, the controller."""
    try:
        if "memory" not in (root / "cgroup.controllers").read_text().split():
            return False
        (root / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True


def _modprobe(module: str) -> None:
    """Load it where it is a module; built in or missing, the next step shows."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _run("modprobe", module)


def _run(*command: str) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env=os.environ | {"PATH": path},
    )
    return done.stdout
