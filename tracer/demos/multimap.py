"""multimap: allocate several pages, each a mapping of its own, then write to one after another.

Watch it with `watch -n 0.1 "sudo ptdump -g PID | awk '/virt|rwx/{print}'"`.
"""

import os
import sys
from collections.abc import Sequence

from tracer.demos import pages


def main(argv: Sequence[str] | None = None) -> int:
    """The `multimap` command; returns its exit status."""
    options = pages.parse_arguments(
        argv, "multimap", "Map five pages, then write to one after another, at each Enter.", 5
    )

    def steps(wait: pages.Wait) -> None:
        pages.say(f"pid: {os.getpid()}")
        wait()
        memories = [pages.allocate(1) for _ in range(options.pages)]
        for memory in memories:
            pages.say(f"Allocated page at {pages.address_of(memory):#x}")
        wait()
        for memory in memories:
            pages.touch(memory)
            pages.say(f"data written to {pages.address_of(memory):#x}")
            wait()

    return pages.run("multimap", steps, options)


if __name__ == "__main__":
    sys.exit(main())
