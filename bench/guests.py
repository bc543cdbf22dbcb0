"""Count instructions on stock kernels: `python -m bench.guests [--kernels NAMES] [--update]`."""

import argparse
import sys
from collections.abc import Sequence

from bench import baseline, instructions, page
from tests.kernels.boot import ROOT
from tests.kernels.catalogue import BENCH_KERNELS, pick
from tests.kernels.fetch import FetchError, cache_folder, fetch
from tests.kernels.stage import StageError, only_run, stage

OUT = ROOT / "build" / "kernels"


def main(arguments: Sequence[str]) -> int:
    names = ",".join(BENCH_KERNELS)
    parser = argparse.ArgumentParser(prog="python -m bench.guests", description=__doc__)
    parser.add_argument("--kernels", default=names, help=f"comma-separated (default: {names})")
    parser.add_argument(
        "--update", action="store_true", help="write the counts to bench/ and docs/"
    )
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, float]] = {}
    well = True
    try:
        with only_run(OUT), stage(OUT) as root:
            for kernel in pick(options.kernels.split(",")):
                image = fetch(kernel, cache_folder())
                counts = instructions.count(image, OUT / f"{image.version}-bench", root)
                if isinstance(counts, str):
                    print(counts, file=sys.stderr)
                    return 1
                print(instructions.judged(counts)[0], flush=True)
                well &= instructions.judged(counts)[1]
                found[counts.key] = counts.added()
    except (FetchError, StageError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if options.update:
        baseline.save(found)
        page.write()
        return 0
    return int(not well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
