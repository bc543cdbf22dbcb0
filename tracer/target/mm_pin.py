"""Pins an address space: keeps it readable after the process exits, with nothing attached.

`/proc/PID/pagemap` shows nothing once a process's last thread has left its
address space, and ptrace, which could keep it there, is visible to it and
excludes a debugger. A pin holds the address space instead: a
helper process of ours starts a read of the target's pagemap into a page of
its own that is registered with userfaultfd and not present. The kernel
(`pagemap_read`, fs/proc/task_mmu.c) takes a reference on the address space
(`mmget_not_zero`), walks, and copies the result to that page with no lock of
the target's held; there the helper sleeps, and its reference keeps
`exit_mm` from tearing the memory down. The target runs and exits as usual.

The helper is a process of its own session, not a thread of ours: a job
control stop of ours would make a thread waiting in such a fault spin, since
the kernel retries the fault at once while a signal is pending. The
userfaultfd's only descriptor is ours, so that the pin ends with the tracer in
every case: its last close lets the fault go on.

While pinned, descriptors opened before the exit keep working: pagemap always,
maps and smaps until the process is reaped (they look its task up first).
"""

import array
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
from collections.abc import Iterable

from tracer.common.closing import Closing

_PAGE = mmap.PAGESIZE
_READY_SECONDS = 10.0  # the helper answers within a millisecond or so, unless all is busy

_NR_USERFAULTFD = 323  # x86-64
# include/uapi/linux/userfaultfd.h
_UFFD_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_REGISTER_MODE_MISSING = 1
_EVENT_BYTES = 32


class PinUnavailable(Exception):
    """The address space cannot be pinned; the text says why, as a clause."""


class MmPin(Closing):
    """A pin on the current address space of `pid`, held until `close`.

    `helper` is one started earlier, where time is critical. Raises
    PinUnavailable, leaving nothing behind, when the process is gone, has no
    memory of its own or may not be read, and where the kernel has no
    userfaultfd. Not thread-safe.
    """

    def __init__(self, pid: int, helper: "PinHelper | None" = None) -> None:
        self.pid = pid
        self.maps_fd = -1
        self.pagemap_fd = -1
        self._helper = helper or PinHelper()
        try:
            self.pagemap_fd = _open(f"/proc/{pid}/pagemap")
            self.maps_fd = _open(f"/proc/{pid}/maps")
            self._helper.hold(self.pagemap_fd)
        except PinUnavailable:
            self.close()
            raise

    @property
    def pinned(self) -> bool:
        """Whether the pin is held: True from construction to `close`."""
        return self._helper.holding

    def read_maps(self) -> bytes:
        """`/proc/PID/maps` of the pinned address space; b"" once the process has been reaped."""
        chunks = []
        offset = 0
        try:
            while chunk := os.pread(self.maps_fd, 1 << 16, offset):
                chunks.append(chunk)
                offset += len(chunk)
        except OSError:  # ESRCH: reaped
            return b""
        return b"".join(chunks)

    def tend(self) -> None:
        """Renew the pin if the helper's sleep was interrupted; cheap, to be called in a loop.

        Suspending the machine or freezing a cgroup interrupts it; the helper would then spin.
        Where the memory was freed in between, the pin is released.
        """
        if not self._helper.disturbed():
            return
        try:
            fresh = PinHelper()
        except PinUnavailable:
            self._helper.close()
            return
        try:
            fresh.hold(self.pagemap_fd)
        except PinUnavailable:
            fresh.close()
        self._helper.close()
        self._helper = fresh

    def close(self) -> None:
        """Release the pin; the kernel frees the memory if the process has ended. Idempotent."""
        self._helper.close()
        for fd in (self.pagemap_fd, self.maps_fd):
            if fd >= 0:
                os.close(fd)
        self.pagemap_fd = self.maps_fd = -1


class PinHelper:
    """A process that can pin one address space; started in advance, it pins in about 0.1 ms.

    Raises PinUnavailable where the kernel refuses a userfaultfd.
    """

    def __init__(self) -> None:
        self.holding = False
        self._uffd = -1
        self._pid = 0
        try:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._pid = _fork_helper(theirs)
        except OSError as error:
            raise PinUnavailable(f"no helper process ({error.strerror})") from error
        self._socket.settimeout(_READY_SECONDS)
        reply, fd = _receive_fd(self._socket)
        if fd is None:
            self.close()
            raise PinUnavailable(reply or "the helper process did not start")
        self._uffd = fd

    @property
    def pid(self) -> int:
        """The helper's own process id; 0 once closed."""
        return self._pid

    def hold(self, pagemap_fd: int) -> None:
        """Start the read that pins; returns when userfaultfd reports that it sleeps in the copy."""
        try:
            _send_fd(self._socket, b"hold", pagemap_fd)
        except OSError as error:
            raise PinUnavailable(f"the helper process is gone ({error.strerror})") from error
        events = _poll([self._uffd, self._socket.fileno()])
        if self._uffd not in events:
            reply = _receive_text(self._socket) if events else ""
            raise PinUnavailable(reply or "the helper process did not answer")
        os.read(self._uffd, _EVENT_BYTES)
        self.holding = True

    def disturbed(self) -> bool:
        """Whether the helper's fault was taken again (see `MmPin.tend`)."""
        if not self.holding:
            return False
        try:
            return bool(os.read(self._uffd, 64 * _EVENT_BYTES))
        except OSError:  # EAGAIN: asleep
            return False

    def close(self) -> None:
        """End the helper, and with it the pin. Idempotent."""
        self.holding = False
        self._socket.close()
        if self._pid:
            # A fault wait is killable: this cannot hang, and frees the memory if it was the last.
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        if self._uffd >= 0:
            os.close(self._uffd)
            self._uffd = -1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PinUnavailable(f"{path} cannot be opened ({error.strerror})") from error


def _poll(fds: Iterable[int]) -> set[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(_READY_SECONDS * 1000)}


def _send_fd(channel: socket.socket, text: bytes, fd: int) -> None:
    rights = array.array("i", [fd])
    channel.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _receive_fd(channel: socket.socket) -> tuple[str, int | None]:
    """The peer's message and the descriptor sent with it; ("", None) without a message."""
    try:
        text, ancillary, _, _ = channel.recvmsg(256, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return "", None
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return text.decode(), int(array.array("i", data[:4])[0])
    return text.decode(), None


def _receive_text(channel: socket.socket) -> str:
    try:
        return channel.recv(256).decode()
    except OSError:
        return ""


def _fork_helper(channel: socket.socket) -> int:
    # Only _helper may run in the child, no signal handler: it keeps all signals blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _helper(channel)
            finally:
                os._exit(0)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _helper(channel: socket.socket) -> None:
    """The helper process: send the userfaultfd, receive a pagemap, read it, end."""
    os.setsid()
    keep = channel.fileno()
    os.closerange(0, keep)
    os.closerange(keep + 1, 1 << 20)
    try:
        uffd, page = _missing_page()
    except OSError as error:
        channel.send(f"userfaultfd is not available ({os.strerror(error.errno or 0)})".encode())
        return
    _send_fd(channel, b"ready", uffd)
    os.close(uffd)
    _, pagemap = _receive_fd(channel)
    if pagemap is None:
        return
    try:
        done = os.preadv(pagemap, [page], 0)
    except OSError as error:
        channel.send(f"its page map cannot be read ({error.strerror})".encode())
    else:
        channel.send(b"" if done else b"it has no memory any more, or never had any")


def _missing_page() -> tuple[int, ctypes.Array[ctypes.c_char]]:
    """A userfaultfd of this process, and eight bytes on the missing page registered with it.

    Raises OSError: ENOSYS without CONFIG_USERFAULTFD, EPERM without CAP_SYS_PTRACE.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uffd = int(libc.syscall(_NR_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK))
    if uffd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    fcntl.ioctl(uffd, _UFFDIO_API, struct.pack("QQQ", _UFFD_API, 0, 0))
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(
        None,
        ctypes.c_size_t(_PAGE),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        ctypes.c_long(0),
    )
    register = struct.pack("QQQQ", address, _PAGE, _REGISTER_MODE_MISSING, 0)
    fcntl.ioctl(uffd, _UFFDIO_REGISTER, register)
    return uffd, (ctypes.c_char * 8).from_address(address)
