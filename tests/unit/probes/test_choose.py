"""What is stored and refused by the kernel is compiled anew, once."""

from pathlib import Path
from typing import Any

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.probes import choose
from tracer.probes.bpf import Refused
from tracer.probes.compiled import Answer


class World:
    """A cache whose programs this kernel refuses, and a compiler."""

    def __init__(self, *, readonly: bool = False, fresh_loads: bool = True) -> None:
        self.stored, self.readonly, self.fresh_loads = True, readonly, fresh_loads
        self.compiled = 0

    def compilation(self, wanted: str, folder: Path, tried: tuple[str, ...], **more: bool) -> Any:
        world = self

        class Compilation:
            def __enter__(self) -> "Compilation":
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def answer(self) -> Answer:
                if tried:
                    return Answer(reasons=[])
                world.compiled += not world.stored
                return Answer(probe="perf", cached="key" if world.stored else "")

        return Compilation()

    def drop(self, folder: object, key: str) -> None:
        assert key == "key"
        self.stored = self.readonly

    def load(self, answer: Answer, *arguments: object, **more: object) -> str:
        if answer.cached or not self.fresh_loads:
            raise TraceError("refused", code=Exit.NO_PROBE) from Refused(22, "Invalid argument")
        return "attached"


def attach(world: World, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(choose, "Compilation", world.compilation)
    monkeypatch.setattr(choose, "drop", world.drop)
    monkeypatch.setattr(choose, "_load", world.load)
    return choose.attach("perf", Path("/bpf"))


def test_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    assert attach(world, monkeypatch) == "attached"
    assert world.compiled == 1


@pytest.mark.parametrize("readonly", [False, True])
def test_once_only(monkeypatch: pytest.MonkeyPatch, readonly: bool) -> None:
    world = World(readonly=readonly, fresh_loads=False)
    with pytest.raises(TraceError, match="refuses the probe"):
        attach(world, monkeypatch)
    assert world.compiled == (not readonly)
