"""A program to make pictures of: it walks its memory upwards, at random, and downwards again."""

import mmap
import random
import time

PAGE = 4096
COUNT = 3000


def touch(memory: mmap.mmap, pages: list[int], pause: float) -> None:
    for number, page in enumerate(pages):
        memory[page * PAGE] = 1
        if number % 50 == 49:
            time.sleep(pause)


def main() -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, 2 * COUNT * PAGE, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    touch(memory, list(range(COUNT)), 0.003)
    scattered = list(range(COUNT, 2 * COUNT))
    random.Random(1).shuffle(scattered)
    touch(memory, scattered[: COUNT // 2], 0.006)
    memory.madvise(mmap.MADV_DONTNEED, 0, COUNT * PAGE)
    time.sleep(0.1)
    touch(memory, list(range(COUNT - 1, 0, -1)), 0.003)
    lines = [str(number) * 40 for number in range(60_000)]
    time.sleep(0.1 if lines else 0)


if __name__ == "__main__":
    main()
