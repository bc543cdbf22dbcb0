"""Bytes changed at random, the same in every run.

A test checks `every` example of its own name: each is a `Random` that depends on the seed, the
name and the example's number alone, so that one can be had again without those before it. How
many there are is the test's choice, 1000 of what is quick; `make fuzz EXAMPLES=100000 SEED=7`
checks so many of those, of slower ones in proportion, from another seed.
"""

import os
from collections.abc import Callable, Sequence
from random import Random

SEED = int(os.environ.get("FUZZ_SEED") or 0)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 1000)  # of a test that wants 1000
ONLY = os.environ.get("FUZZ_ONLY")  # the number of the one example to run again

EDGES = [
    *(0, 1, 2, 3, 7, 8, 16, 24, 64, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 1 << 20, 1 << 26),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47),
    *((1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 0x1000),
    *((1 << 64) - 0x100, (1 << 64) - 8, (1 << 64) - 1),
]


def every(name: str, count: int, check: Callable[[Random], object]) -> None:
    """Call `check` for `count` examples, or more by hand. A failure says which it was."""
    for number in [int(ONLY)] if ONLY else range(max(count * EXAMPLES // 1000, 1)):
        try:
            check(Random(f"{SEED} {name} {number}"))
        except BaseException as error:
            error.add_note(f"example {number} of {name!r}: FUZZ_SEED={SEED} FUZZ_ONLY={number}")
            raise


def number(random: Random, width: int) -> bytes:
    """A little-endian number of `width` bytes that is more likely than not at some edge."""
    value = random.choice(EDGES) if random.random() < 0.8 else random.getrandbits(64)
    if random.random() < 0.2:
        value += random.choice([-8, -1, 1, 8])
    return (value % (1 << 8 * width)).to_bytes(width, "little")


def mutated(
    random: Random, whole: bytes | bytearray, tables: Sequence[Sequence[tuple[int, int]]] = ()
) -> bytes:
    """`whole` changed in one to four ways: numbers and bytes overwritten, parts moved, the end cut.

    Half of the changes are to `tables`, in which a field is (first byte, bytes): one of up to
    eight bytes becomes another number, a longer one has a number written somewhere in it. The
    tables' turns are alike, however many fields each has.
    """
    data = bytearray(whole)
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 4])):
        size = max(len(data), 1)
        at, way = random.randrange(size), random.random()
        if tables and random.random() < 0.5:
            first, width = random.choice(random.choice(tables))
            if width > 8:
                at, width = first + random.randrange(width), random.choice([1, 2, 4, 8])
                first = at - at % width
            data[first : first + width] = number(random, width)
        elif way < 0.6:
            width = random.choice([1, 2, 4, 4, 8, 8])
            if random.random() < 0.8:
                at -= at % width
            data[at : at + width] = number(random, width)
        elif way < 0.75:
            data[at : at + 1] = bytes([random.getrandbits(8)])
        elif way < 0.85:
            part = data[at : at + random.choice([1, 8, 64, 4096])]
            to = random.randrange(size)
            if random.random() < 0.5:
                data[to:to] = part
            else:
                data[to : to + len(part)] = part
        elif way < 0.92:
            del data[at : at + random.choice([1, 8, 64, 4096])]
        else:
            del data[at:]
    return bytes(data)


def edited(random: Random, text: bytes, words: Sequence[bytes] = ()) -> bytes:
    """Text changed in one to four ways: cells replaced by `words` and numbers, bytes, its end."""
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 4])):
        cells = _cells(text)
        way = random.random()
        if way < 0.7 and cells:
            start, end = random.choice(cells)
            if words and random.random() < 0.7:
                new = random.choice(words)
            else:
                new = str(random.choice([1, -1]) * random.choice(EDGES)).encode()
            text = text[:start] + new + text[end:]
        elif way < 0.8:
            lines = text.splitlines(keepends=True)
            if lines:
                line = lines.pop(random.randrange(len(lines)))
                if random.random() < 0.7:
                    at = random.randrange(len(lines) + 1)
                    lines[at:at] = [line] * random.choice([1, 2])
            text = b"".join(lines)
        else:
            text = mutated(random, text)
    return text


def _cells(text: bytes) -> list[tuple[int, int]]:
    """Where each word or number lies: what neither commas, blanks, colons nor brackets divide."""
    found, start = [], 0
    for at, byte in enumerate(text + b","):
        if byte in b',:{}[] \n"':
            if at > start:
                found.append((start, at))
            start = at + 1
    return found
