"""Measure what tracing costs, and write docs/performance.md: see `--help`."""

import argparse
import os
import sys

from bench import results, storm
from bench.page import PAGE, SECTIONS, Section, write
from bench.tools import ToolError


def main() -> int:
    options = _options()
    storm.build()
    well = True
    for section in SECTIONS:
        if not options.render and (not options.sections or section.name in options.sections):
            well &= _measure(section, options.quick)
    if not options.quick:
        write()
        print(f"wrote {os.path.relpath(PAGE)}")
    return int(not well)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure, and write docs/performance.md from what is known.",
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, shown and not kept")
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in names]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(names)}")
    if not options.render and os.geteuid() != 0:
        parser.error("tracing needs root")
    return options


def _measure(section: Section, quick: bool) -> bool:
    """Measure, save and print one section; False where that failed."""
    print(f"== {section.title}", flush=True)
    try:
        data = section.measure(*(section.quick if quick else ()))
    except (storm.StormError, ToolError, ValueError) as error:
        print(f"bench: {section.name}: {error}", file=sys.stderr)
        return section.name == "instructions"  # its counts come from another run
    print(section.render(data), flush=True)
    if not quick:
        results.save(section.name, data)
    return True


if __name__ == "__main__":
    sys.exit(main())
