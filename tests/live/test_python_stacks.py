"""Python's frames in call stacks: those that Python itself has, for each fault, on every probe.

programs/python/scenes.py writes where each of its faults is taken. It runs on the distribution's
Python, or the one that PAGEFAULT_PYTHON names (`make test-pythons` gets others).
"""

import ast
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.background import Collect
from tracer.callstacks.python_frames import SEVERAL, Shown, shown
from tracer.common.pages import PAGE_SIZE
from tracer.probes.choose import Attached
from tracer.session.plan import Outputs, Plan
from tracer.session.session import Session
from tracer.target.command import Command

SCENES = Path(__file__).with_name("programs") / "python" / "scenes.py"
PYTHON = os.environ.get("PAGEFAULT_PYTHON", "/usr/bin/python3")
NAMED = 0.97  # of the interpreter's faults
LOOP = "_PyEval_EvalFrameDefault"
TWO = ("two interpreters", "two interpreters again")
Function = tuple[str, str, int]  # qualified name, file, line


@dataclass
class Scene:
    """What a scene is, and the faults on its memory: the pages' last, as memory is used again."""

    name: str
    wanted: list[Function]
    stacks: list[int]
    pages: int

    @property
    def is_ambiguous(self) -> bool:
        return self.name in TWO


@dataclass
class Scenes:
    """A trace of scenes.py."""

    session: Session
    stacks: list[int]  # of each fault
    scenes: list[Scene]
    inexact: str

    def shown(self, number: int) -> tuple[list[Shown], str]:
        """A stack's frames, and what it lacks."""
        assert self.session.stacks is not None
        assert self.session.naming is not None
        stacks = self.session.stacks
        frames, note, _ = shown(self.session.naming.frames, stacks.locations, stacks.stacks[number])
        return frames, note

    def python(self, number: int) -> list[Function]:
        """The Python functions of a stack, innermost first."""
        return [
            (each.frame.function, each.frame.file, each.frame.line)
            for each in self.shown(number)[0]
            if each.frame.python
        ]

    def native(self, number: int) -> Iterator[str]:
        """The functions of all native frames of a stack."""
        assert self.session.stacks is not None
        assert self.session.naming is not None
        stacks = self.session.stacks
        for at in stacks.stacks[number].frames:
            yield self.session.naming.frames.frame(stacks.locations[at]).function


@pytest.fixture(scope="module")
def traced(with_stacks: Attached, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    said = tmp_path_factory.mktemp("python") / "said"
    with_stacks.program.reset()
    log = Collect()
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    few = ["few"] if os.environ.get("PAGEFAULT_GUEST") else []
    with Command([PYTHON, "-S", str(SCENES), str(said), *few], quiet) as command:
        plan = Plan(command=command, stacks=True, drain_s=300)
        session = Session(with_stacks, plan, Outputs(log=[log]))
        result = session.run()
        assert result.exit_status == 0
    assert session.naming is not None
    session.naming.settle()
    assert result.books.balanced()
    assert not result.books.lost
    return Scenes(
        session,
        log.rows["stack"].tolist(),
        list(_scenes(said, log)),
        with_stacks.probe.inexact(),
    )


def _scenes(said: Path, log: Collect) -> Iterator[Scene]:
    rows = log.rows
    faults: dict[int, list[tuple[int, int]]] = {}
    for pid, address, stack in zip(
        rows["pid"].tolist(), rows["address"].tolist(), rows["stack"].tolist(), strict=True
    ):
        faults.setdefault(pid, []).append((address, stack))
    for line in said.read_text(encoding="utf-8").splitlines():
        scene = ast.literal_eval(line)
        first, end = scene["address"], scene["address"] + scene["bytes"]
        last = {
            address // PAGE_SIZE: stack
            for address, stack in faults[scene["pid"]]
            if first <= address < end
        }
        wanted = [(name, file, number) for name, file, number in scene["stack"]]
        yield Scene(scene["scene"], wanted, list(last.values()), scene["bytes"] // PAGE_SIZE)


def test_each_fault_has_the_stack_that_python_has(traced: Scenes) -> None:
    wrong = Counter[str]()
    for scene in traced.scenes:
        if len(scene.stacks) != scene.pages and not traced.inexact:
            wrong[f"{scene.name}: {len(scene.stacks)} faults of {scene.pages}"] += 1
        for number in scene.stacks:
            found, (_, note) = traced.python(number), traced.shown(number)
            if scene.is_ambiguous and not found:
                assert note, "nothing says why"
            elif found != scene.wanted:
                wrong[f"{scene.name}: {_short(found)} ({note}), not {_short(scene.wanted)}"] += 1
    assert not wrong, "\n".join(f"{count} x {line}" for line, count in wrong.items())


def test_the_interpreter_s_faults_are_named(traced: Scenes) -> None:
    """Of those taken while Python code runs; where it is not known which, that is said."""
    named = nameless = 0
    for number, count in Counter(traced.stacks).items():
        if number == 0 or traced.shown(number)[1] == SEVERAL:
            continue
        if traced.python(number):
            named += count
        elif any(name.startswith(LOOP) for name in traced.native(number)):
            nameless += count
    assert named / (named + nameless) >= NAMED, (named, nameless)


def test_what_an_extension_calls_is_kept(traced: Scenes) -> None:
    """Memory that C code touches, called by way of ctypes, is that code's."""
    (scene,) = (each for each in traced.scenes if each.name == "released")
    for number in scene.stacks:
        frames, _ = traced.shown(number)
        modules = [each.frame.module for each in frames]
        assert any("libffi" in name or "_ctypes" in name for name in modules), modules
        assert frames[-1].frame.python


def test_the_interpreter_s_frames_are_shown_if_asked_for(traced: Scenes) -> None:
    """With --stacks=native each group of Python's is before the call that runs it."""
    naming, stacks = traced.session.naming, traced.session.stacks
    assert naming is not None
    assert stacks is not None
    (scene,) = (each for each in traced.scenes if each.name == "through C")
    naming.frames.native = True
    try:
        for number in scene.stacks:
            frames, _ = traced.shown(number)
            stack = stacks.stacks[number]
            native = [each.at for each in frames if each.at >= 0]
            assert native == list(range(len(stack.frames)))
            loops = [
                frames[at + 1].at
                for at, each in enumerate(frames[:-1])
                if each.at < 0 and frames[at + 1].at >= 0
            ]
            assert loops == list(stack.loops)
            assert len(loops) > 4
    finally:
        naming.frames.native = False


def _short(functions: list[Function]) -> str:
    return " < ".join(f"{name}:{line}" for name, _, line in functions[:12])
