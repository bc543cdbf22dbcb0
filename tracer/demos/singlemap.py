"""singlemap: allocate one page, then write to it, step by step.

Look at it between the steps with `sudo ptdump PID`: the page is listed as soon as it
is mapped, and has a physical address only once it was written.
"""

import os
import sys
from collections.abc import Sequence

from tracer.demos import pages


def main(argv: Sequence[str] | None = None) -> int:
    """The `singlemap` command; returns its exit status."""
    options = pages.parse_arguments(
        argv, "singlemap", "Map one page, then write to it, waiting for Enter at each step.", 1
    )

    def steps(wait: pages.Wait) -> None:
        pages.say(f"pid: {os.getpid()}")
        wait()
        memory = pages.allocate(options.pages)
        address = pages.address_of(memory)
        pages.say(f"Allocated new map: {address:#x}")
        wait()
        for page in range(options.pages):
            pages.touch(memory, page)  # first: when the line is read, the page is there
            pages.say(f"Writing data to {address + page * pages.PAGE_SIZE:#x}")
            wait()

    return pages.run("singlemap", steps, options)


if __name__ == "__main__":
    sys.exit(main())
