"""A disk of which any operation can be made to fail, or to get no answer: FUSE, in memory.

python -m tests.live.disk FOLDER serves it (include/uapi/linux/fuse.h), and takes orders, a JSON
list a line, from stdin. `Disk` is a test's side of that. The kernel's part is the real one: a
failure is an error of write(2), and who waits for an answer waits in the kernel.
"""

import ctypes
import errno
import json
import os
import re
import select
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from tests.live import features
from tests.live.cli import environment

STALL = 0  # in place of an errno: no answer until `go_on`


class Operation(IntEnum):
    """Those that the kernel asks for here."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RENAME = 12
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    RENAME2 = 45


@dataclass(frozen=True)
class Asked:
    """What the kernel asked for, of which name: a draft's is that of the file it becomes."""

    operation: str
    name: str


class Disk:
    """The disk, mounted at `folder`."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.process = process

    def order(self, *words: object) -> Any:
        """Have the server do something; what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def fail(
        self, operation: str, name: str = "", nth: int = 1, error: int = errno.EIO, *, once: bool
    ) -> None:
        """Let the `nth` such operation from now on fail, and unless `once` each one after it.

        `operation`: several are separated by "|"; `name`: of any file, where it is empty.
        """
        self.order("fail", operation.split("|"), name, nth, error, once)

    def stall(self, operation: str, name: str = "", nth: int = 1) -> None:
        """From the `nth` such operation on, answer nothing that is asked of that file."""
        self.order("fail", operation.split("|"), name, nth, STALL, False)

    def stalled(self) -> list[Asked]:
        """What has no answer yet."""
        return [Asked(*each) for each in self.order("stalled")]

    def go_on(self) -> None:
        """Nothing fails any more, and what waited gets its answer."""
        self.order("go on")

    def asked(self) -> list[Asked]:
        """What was asked for since the last call."""
        return [Asked(*each) for each in self.order("asked")]

    def end(self) -> None:
        """The server is gone: whoever waits for it gets an error."""
        self.process.kill()
        self.process.wait()


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk mounted at `folder`, which is made; skips the test where there is no FUSE."""
    features.fuse()
    folder.mkdir()
    command = [sys.executable, "-m", "tests.live.disk", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield Disk(folder, process)
        finally:
            process.kill()
            subprocess.run(["umount", "-l", str(folder)], check=True)


# -- the server ------------------------------------------------------------------------------

_HEADER = struct.Struct("<IIQQIIII")
_NO_ANSWER = (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)
_DRAFT = re.compile(r"\.(.+)\.\d+")
_MODE, _SIZE = 1, 8  # FATTR_MODE, FATTR_SIZE


@dataclass
class _Node:
    name: str
    mode: int
    content: bytearray = field(default_factory=bytearray)
    entries: dict[str, int] = field(default_factory=dict)


@dataclass
class _Rule:
    operations: list[str]
    name: str
    left: int  # until it is due
    error: int
    once: bool

    def due(self, asked: Asked) -> bool:
        if asked.operation not in self.operations or self.name not in ("", asked.name):
            return False
        self.left -= 1
        return self.left == 0 if self.once else self.left <= 0


class _Failure(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Server:
    def __init__(self, device: int) -> None:
        self._device = device
        self._nodes = {1: _Node("", stat.S_IFDIR | 0o755)}
        self._made = 1
        self._rules: list[_Rule] = []
        self._asked: list[Asked] = []
        self._held: list[tuple[Asked, bytes]] = []

    def serve(self) -> None:
        """Until the file system is unmounted."""
        orders = sys.stdin.fileno()
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(orders, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if ready.get(orders, 0) & select.POLLIN:
                self._obey()
            elif orders in ready:
                return
            if ready.get(self._device, 0) & select.POLLIN:
                try:
                    request = os.read(self._device, 1 << 18)
                except OSError:
                    return
                self._handle(request)

    def _obey(self) -> None:
        verb, *words = json.loads(sys.stdin.buffer.readline())
        answer: object = None
        if verb == "fail":
            self._rules.append(_Rule(*words))
        elif verb == "go on":
            self._rules.clear()
            held, self._held = self._held, []
            for _, request in held:
                self._answer(request)
        elif verb == "stalled":
            answer = [(asked.operation, asked.name) for asked, _ in self._held]
        elif verb == "asked":
            answer = [(asked.operation, asked.name) for asked in self._asked]
            self._asked.clear()
        print(json.dumps(answer), flush=True)

    def _handle(self, request: bytes) -> None:
        _, operation, number, node, *_ = _HEADER.unpack_from(request)
        if operation in _NO_ANSWER:
            return
        known = Operation._value2member_map_.get(operation)
        if known is None:
            self._reply(number, errno.ENOSYS)
            return
        asked = Asked(Operation(operation).name, self._name(Operation(operation), node, request))
        self._asked.append(asked)
        due = [rule for rule in self._rules if rule.due(asked)]
        if not due:
            self._answer(request)
        elif due[0].error == STALL:
            self._held.append((asked, request))
        else:
            self._reply(number, due[0].error)

    def _name(self, operation: Operation, node: int, request: bytes) -> str:
        """The name asked for, or that of the file; of a rename, the new one."""
        match operation:
            case Operation.LOOKUP | Operation.UNLINK | Operation.MKDIR | Operation.CREATE:
                skip = {Operation.MKDIR: 8, Operation.CREATE: 16}.get(operation, 0)
                name = _words(request, 40 + skip)[0]
            case Operation.RENAME | Operation.RENAME2:
                name = _words(request, 40 + (8 if operation == Operation.RENAME else 16))[1]
            case _:
                name = self._nodes.get(node, self._nodes[1]).name  # none: of all of them
        draft = _DRAFT.fullmatch(name)
        return draft[1] if draft else name

    def _answer(self, request: bytes) -> None:
        _, operation, number, node, *_ = _HEADER.unpack_from(request)
        do: Callable[[int, bytes], bytes] = getattr(self, f"_do_{Operation(operation).name}")
        try:
            self._reply(number, 0, do(node, request))
        except _Failure as failure:
            self._reply(number, failure.number)

    def _reply(self, number: int, error: int, answer: bytes = b"") -> None:
        message = struct.pack("<IiQ", 16 + len(answer), -error, number) + answer
        with suppress(FileNotFoundError):  # who asked was killed
            os.write(self._device, message)

    # -- each operation: the node it is of, the request; the answer --

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        size = len(node.content)
        numbers = number, size, -(-size // 512), 0, 0, 0  # and times
        return struct.pack("<6Q10I", *numbers, 0, 0, 0, node.mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, number: int) -> bytes:
        # Valid for no time: the kernel asks again whenever it wants to know.
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _find(self, folder: int, name: str) -> int:
        try:
            return self._nodes[folder].entries[name]
        except KeyError:
            raise _Failure(errno.ENOENT) from None

    def _make(self, folder: int, name: str, mode: int) -> int:
        self._made += 1
        self._nodes[self._made] = _Node(name, mode)
        self._nodes[folder].entries[name] = self._made
        return self._made

    def _do_INIT(self, _: int, __: bytes) -> bytes:
        big_writes = 1 << 5
        flags = (7, 31, 65536, big_writes, 0, 0, 65536, 1)
        return struct.pack("<4I2H2I2H8I", *flags, *[0] * 10)

    def _do_LOOKUP(self, node: int, request: bytes) -> bytes:
        return self._entry(self._find(node, _words(request, 40)[0]))

    def _do_GETATTR(self, node: int, _: bytes) -> bytes:
        return struct.pack("<Q2I", 0, 0, 0) + self._attributes(node)

    def _do_SETATTR(self, node: int, request: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", request, 40)
        if valid & _SIZE:
            content = self._nodes[node].content
            del content[size:]
            content.extend(bytes(size - len(content)))
        if valid & _MODE:
            (self._nodes[node].mode,) = struct.unpack_from("<I", request, 40 + 68)
        return self._do_GETATTR(node, request)

    def _do_MKDIR(self, node: int, request: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", request, 40)
        made = self._make(node, _words(request, 48)[0], stat.S_IFDIR | mode)
        return self._entry(made)

    def _do_CREATE(self, node: int, request: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", request, 40)
        made = self._make(node, _words(request, 56)[0], mode)
        return self._entry(made) + self._do_OPEN(made, request)

    def _do_UNLINK(self, node: int, request: bytes) -> bytes:
        name = _words(request, 40)[0]
        self._find(node, name)
        del self._nodes[node].entries[name]
        return b""

    def _do_RENAME(self, node: int, request: bytes, skip: int = 8) -> bytes:
        (folder,) = struct.unpack_from("<Q", request, 40)
        old, new = _words(request, 40 + skip)[:2]
        number = self._find(node, old)
        del self._nodes[node].entries[old]
        self._nodes[folder].entries[new] = number
        self._nodes[number].name = new
        return b""

    def _do_RENAME2(self, node: int, request: bytes) -> bytes:
        return self._do_RENAME(node, request, 16)

    def _do_OPEN(self, _: int, __: bytes) -> bytes:
        return struct.pack("<Q2I", 1, 0, 0)

    def _do_READ(self, node: int, request: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", request, 40)
        return bytes(self._nodes[node].content[offset : offset + size])

    def _do_WRITE(self, node: int, request: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", request, 40)
        content = self._nodes[node].content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + size] = request[80 : 80 + size]
        return struct.pack("<II", size, 0)

    def _do_STATFS(self, _: int, __: bytes) -> bytes:
        return struct.pack("<5Q10I", *[1 << 20] * 5, 4096, 255, 4096, *[0] * 7)

    def _do_READDIR(self, node: int, request: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", request, 40)
        out = b""
        for at, (name, number) in enumerate(self._nodes[node].entries.items(), 1):
            raw = os.fsencode(name)
            each = struct.pack("<QQII", number, at, len(raw), 0) + raw
            each += bytes(-len(each) % 8)
            if at > offset and len(out) + len(each) <= size:
                out += each
        return out

    def _nothing(self, _: int, __: bytes) -> bytes:
        return b""

    _do_OPENDIR = _do_OPEN
    _do_RELEASE = _do_RELEASEDIR = _do_FLUSH = _do_FSYNC = _nothing


def _words(request: bytes, start: int) -> list[str]:
    return [os.fsdecode(word) for word in request[start:].split(b"\0")]


def main() -> None:
    """Serve until the file system is unmounted, or the test has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is meant for others
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"disk", os.fsencode(sys.argv[1]), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    print("ready", flush=True)
    _Server(device).serve()


if __name__ == "__main__":
    main()
