"""What the pictures of the live view show: memory that comes, goes and changes its kind."""

import mmap
import os
import random
import tempfile
import time

PAGE = 4096
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def memory(pages: int, advice: int = mmap.MADV_NOHUGEPAGE) -> mmap.mmap:
    """Anonymous memory that nothing has touched, with room before the next."""
    mmap.mmap(-1, 64 * PAGE, flags=ANON, prot=mmap.PROT_READ)
    made = mmap.mmap(-1, pages * PAGE, flags=ANON)
    made.madvise(advice)
    return made


def main() -> None:
    """About four seconds."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/table.db", "w+b") as file:
        file.write(os.urandom(160 * PAGE))
        file.flush()
        table = mmap.mmap(file.fileno(), 0)
        heap, cache, zeros = memory(400), memory(640), memory(96)
        huge = memory(1536, mmap.MADV_HUGEPAGE)
        kept = [heap, cache, zeros, huge, table]
        order = list(range(640))
        random.Random(7).shuffle(order)
        for step in range(40):
            for page in range(step * 8, step * 8 + 8):
                heap[page * PAGE] = 1
            for page in order[step * 10 : step * 10 + 10]:
                cache[page * PAGE] = 1
            if step % 2:
                for page in range(step, step + 2):
                    zeros[page * PAGE]
                table[step * 3 * PAGE]
            if step == 20:
                for page in range(512, 1024):
                    huge[page * PAGE] = 1
            if step == 30:
                cache.madvise(mmap.MADV_DONTNEED, 128 * PAGE, 192 * PAGE)
                heap.madvise(mmap.MADV_DONTNEED, 16 * PAGE, 40 * PAGE)
            time.sleep(0.08)
        assert kept
    os._exit(0)  # with all of it mapped


if __name__ == "__main__":
    main()
