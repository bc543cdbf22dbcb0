"""What a learner of unwind rules has to do with: a ring, a kernel, processes, and files."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from tests.unit.rules_data import BASE, CODE, FakeKernel, program
from tracer.callstacks.kernel_rules import KernelRules
from tracer.callstacks.learning import Learner
from tracer.callstacks.locations import Location
from tracer.common.errors import TraceError
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule
from tracer.symbolizing.runtime import Runtime

LIB, JIT, VDSO_AT = BASE - 0x20_0000, BASE - 0x40_0000, BASE + 0x7_0000_0000
TGID, CHILD, OTHER = 10, 20, 30  # the first two run one program
MOVED = -0x10_0000  # where CHILD's mappings are
RSP = Rule(Cfa.RSP, 8)
AFTER_CALL = CodeRule(RSP, after_call=True, bare_page=False)


def mappings(shift: int = 0) -> list[Mapping]:
    return [
        Mapping(CODE, CODE + 0x1_0000, "r-xp", 0x1000, 8, 1, "/bin/x", 1),
        Mapping(CODE + 0x2_0000, CODE + 0x3_0000, "rw-p", 0, 8, 1, "/bin/x"),
        Mapping(JIT + shift, JIT + shift + 0x1_0000, "rwxp", 0, 0, 0, ""),
        Mapping(LIB + shift, LIB + shift + 0x1_0000, "r-xp", 0, 8, 2, "/lib/x.so", 2),
        Mapping(VDSO_AT, VDSO_AT + 0x2000, "r-xp", 0, 0, 0, "[vdso]"),
    ]


class FakeRing:
    """Copies that have come."""

    fd = 3

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.reads = 0
        self.closed = False

    def read(self) -> Iterator[list[bytes]]:
        self.reads += 1
        if self.records:
            records, self.records = self.records, []
            yield records

    def close(self) -> None:
        self.closed = True


class FakeRules:
    """What is known of files; all code of which nothing is said here is `usual`."""

    def __init__(self) -> None:
        self.usual: CodeRule | None = AFTER_CALL
        self.codes: dict[tuple[int, int], CodeRule] = {}  # by file and offset
        self.answering = True
        self.asked: list[tuple[int, int]] = []
        self.waits: list[float] = []
        self.lookups = 0
        self._answered: set[tuple[int, int]] = set()
        self.runtimes: dict[tuple[int, int], Runtime] = {}  # by file and offset
        self.asked_runtimes: list[tuple[int, int]] = []
        self.answering_runtimes = True

    def answer(self) -> None:
        """Answer all that was asked."""
        self._answered.update(self.asked)

    def ask_rules(self, locations: Iterable[Location]) -> None:
        files: dict[int, list[int]] = {}
        for each in locations:
            files.setdefault(each.file_with_code, []).append(each.looked_up)
        self.ask_codes(files, 1.0)

    def ask_codes(self, files: dict[int, list[int]], wait_s: float) -> None:
        self.waits.append(wait_s)
        for file, offsets in files.items():
            self.asked += [(file, offset) for offset in offsets]
        if self.answering:
            self.answer()

    def code(self, location: Location) -> CodeRule | None:
        return self.code_at(location.file_with_code, location.looked_up)

    def code_at(self, file: int, offset: int) -> CodeRule | None:
        self.lookups += 1
        known = (file, offset) in self._answered
        return self.codes.get((file, offset), self.usual) if known else None

    def has_rule(self, location: Location) -> bool:
        return (location.file_with_code, location.looked_up) in self._answered

    def ask_runtime(self, file: int, offset: int) -> None:
        self.asked_runtimes.append((file, offset))

    def has_runtime(self, file: int, offset: int) -> bool:
        return self.answering_runtimes and (file, offset) in self.asked_runtimes

    def runtime(self, file: int, offset: int) -> Runtime | None:
        return self.runtimes.get((file, offset)) if self.has_runtime(file, offset) else None


class Learning:
    """A learner amid all that."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(
            program(1), program(2, base=BASE + MOVED), program(3, 77, base=BASE + MOVED)
        )
        self.kernel.runs = {TGID: 1, CHILD: 2, OTHER: 3}
        self.maps = {TGID: mappings(), CHILD: mappings(MOVED), OTHER: mappings(MOVED)}
        self.read: list[int] = []  # whose mappings
        self.ring, self.rules = FakeRing(), FakeRules()
        self.installed = KernelRules(self.kernel.interface())
        self.learner = Learner(cast(Any, self.ring), self.installed, self.rules, self.mappings_of)

    def mappings_of(self, tgid: int) -> list[Mapping]:
        self.read.append(tgid)
        if tgid not in self.maps:
            raise TraceError("it is gone")
        return self.maps[tgid]

    def send(self, *records: bytes) -> None:
        self.ring.records += records
        self.learner.turn()
