"""bench/same_code.py: what counts as the same code, and what it says of the rest."""

import struct

from bench.same_code import FEATURES, Compared, Variant, _with, compare, render
from tracer.probes.compiled import Answer, Function, MapSpec
from tracer.probes.compiler import Build


def code(descriptor: int, value: int = 5) -> bytes:
    load = struct.pack("<BBhi", 0x18, 0x11, 0, descriptor) + bytes(8)
    return struct.pack("<BBhi", 0xB7, 0, 0, value) + load


def answer(code: bytes, name: str = "hook", **changed: int) -> Answer:
    facts = {"kind": 2, "key_size": 4, "value_size": 8, "entries": 1, "flags": 0} | changed
    return Answer(maps=[MapSpec("m", **facts)], functions=[Function(name, code, [(1, "m")])])


def test_descriptors_do_not_count() -> None:
    assert compare(answer(code(11)), answer(code(12))) == []


def test_what_differs_is_named() -> None:
    old = answer(code(11))
    (said,) = compare(old, answer(code(11, 6)))
    assert said == "hook: instruction 0 of 3: (183, 0, 0, 5) → (183, 0, 0, 6)"
    assert compare(old, answer(code(11)[:8])) == ["hook: 3 instructions → 1"]
    assert compare(old, answer(code(11), value_size=16))[0].startswith("map m: ")
    assert compare(old, answer(code(11), "other")) == [
        "hook: is in the old folder only",
        "other: is in the new folder only",
    ]


def test_a_build_has_the_features_it_is_to_have() -> None:
    build = Build(("-DPROBE_PERF", "-DMAPPED_RING", "-DCAST_CALL=7", "-DO_MM_OWNER=1"), 9)
    assert _with(build, ()) == Build(("-DPROBE_PERF", "-DO_MM_OWNER=1"), 0)
    with_casts = _with(build, ("casts",))
    assert with_casts.flags == ("-DPROBE_PERF", "-DO_MM_OWNER=1", *FEATURES["casts"])
    assert with_casts.cast != 0


def test_the_table_ends_with_what_differs() -> None:
    variant = Variant("perf", True, ("ring",), Build((), 0))
    lines = render([Compared(variant, 3, 100, []), Compared(variant, 3, 101, ["hook: so"])])
    _, row, last = lines.splitlines()
    assert row.split() == ["perf", "--stacks", "2", "6", "201", "1"]
    assert last == "perf with stacks, ring: hook: so"
