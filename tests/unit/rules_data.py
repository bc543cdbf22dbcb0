"""A kernel that is given unwind rules, and programs that processes run."""

from tracer.callstacks.kernel_rules import Kernel, Program
from tracer.common.types import U64

BASE = 0x7F00_0000_0000  # of mappings: the first library lies below
CODE, CODE_END = 0x40_0000, 0x41_0000


def program(
    own: int = 1,
    shared: int = 0x5A00_0000_0000_0000,
    code: int = CODE,
    base: int = BASE,
    libraries: int = 0,
) -> Program:
    """A program whose code is at `code`; `libraries` 0: as the program's own."""
    return Program(own, shared, libraries or shared, code, code + CODE_END - CODE, base)


class FakeKernel:
    """What it was given, and what it knows."""

    def __init__(self, *programs: Program) -> None:
        self.rules: dict[int, int] = {}
        self.programs = {each.own: each for each in programs}
        self.runs: dict[int, int] = {}  # a program's own number by process
        self.renewed: list[tuple[int, int, bool]] = []
        self.separate: list[int] = []  # shared numbers
        self.asked: list[int] = []  # numbers of programs
        self.installs = 0  # calls
        self.pythons: list[tuple[int, dict[str, int]]] = []  # runtimes by number of a program

    def interface(self) -> Kernel:
        return Kernel(
            self._install,
            self._remove,
            self._program,
            self._renew,
            self.separate.append,
            self._runs,
            self._running,
            self._install_python,
        )

    def _install(self, keys: U64, values: U64) -> None:
        assert len(keys) == len(values) > 0
        self.installs += 1
        self.rules.update(zip(keys.tolist(), values.tolist(), strict=True))

    def _remove(self, keys: U64) -> None:
        for key in keys.tolist():
            del self.rules[key]

    def _program(self, own: int) -> Program | None:
        self.asked.append(own)
        return self.programs.get(own)

    def _renew(self, tgid: int, own: int, another: bool) -> None:
        self.renewed.append((tgid, own, another))

    def _runs(self, tgid: int) -> int:
        return self.runs.get(tgid, 0)

    def _install_python(self, number: int, runtime: dict[str, int]) -> None:
        self.pythons.append((number, runtime))

    def _running(self) -> set[int]:
        numbers = set(self.runs.values())
        known = [self.programs[own] for own in numbers if own in self.programs]
        return numbers.union(*((each.shared, each.libraries) for each in known))
