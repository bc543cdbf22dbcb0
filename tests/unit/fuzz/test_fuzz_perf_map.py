"""Maps of compiled functions that make no sense, or that want memory and time."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.unit.fuzz.mutation import EDGES, edited, every
from tests.unit.symbolizing.test_perf_map import PID, Process, last
from tracer.common.text import decode
from tracer.symbolizing.perf_map import PerfMap

LINE = re.compile(rb"(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.{1,1024})")
NAMES = ["f", "py::main:/x.py", "a b c", "\U0001f600", "\udcff", "x" * 300, "\u2028", "\x1b[2J"]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("map")
    yield made
    os.close(made)


def some_map(random: Random) -> bytes:
    """Functions near each other and over each other, some listed twice; then damaged."""
    lines = []
    for _ in range(random.randrange(1, 40)):
        start = random.choice([random.randrange(0x400), *random.sample(EDGES, 1)])
        size = random.choice([0, 1, 0x10, 0x80, *random.sample(EDGES, 1)])
        name = random.choice(NAMES).encode("utf-8", "surrogateescape")
        prefix = random.choice([b"", b"0x"])
        lines.append(b"%b%x %x %b\n" % (prefix, start, size, name))
    text = b"".join(lines)
    return edited(random, text) if random.random() < 0.5 else text


def by_the_book(text: bytes, address: int) -> tuple[str, int] | None:
    """What a map says of an address, without any haste: the last function that covers it."""
    found = None
    for line in text.split(b"\n")[:-1]:
        if match := LINE.match(line):
            start = int(match[1], 16)
            if start <= address < min(start + int(match[2], 16), (1 << 64) - 1):
                found = decode(match[3].strip()), address - start
    return found


def test_maps_in_pieces(descriptor: int) -> None:
    """Read as it grows, a piece at a time: all the same as read at once."""

    def check(random: Random) -> None:
        text = b"".join(some_map(random) for _ in range(random.choice([1, 1, 3])))
        os.ftruncate(descriptor, 0)
        known = PerfMap()
        cut = random.randrange(len(text) + 1)
        for number, part in enumerate((text[:cut], text[cut:])):
            os.pwrite(descriptor, part, os.fstat(descriptor).st_size)
            known.read(descriptor, [(number, os.fstat(descriptor).st_size)])
        whole = text[: text.rfind(b"\n") + 1]
        assert known.size == len(whole)
        starts = [int(start) for start in known._starts]
        chosen = random.sample(starts, min(8, len(starts)))
        for address in [*random.sample(EDGES, 3), -1, 1 << 64, random.randrange(0x400), *chosen]:
            wanted = by_the_book(whole, address) if 0 <= address < 1 << 64 else None
            assert last(known, address) == wanted

    every("perf map", 400, check)


def test_a_process_without_end(process: Process) -> None:
    """Whatever is there to read: a name, or none."""

    def check(random: Random) -> None:
        process.map.write_bytes(some_map(random))
        maps = process.maps()
        for address in (-1, 0, random.randrange(0x400), (1 << 64) - 1, 1 << 64):
            found = maps.at(PID, address)
            assert found is None or 0 <= found[1] <= address

    every("perf map of a process", 100, check)
