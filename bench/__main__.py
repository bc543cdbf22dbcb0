"""Count what each probe adds to a fault, on stock kernels under emulation."""

import argparse
import sys

from bench.instructions import measure
from tests.kernels.boot import ROOT
from tests.kernels.catalogue import pick
from tests.kernels.fetch import FetchError, cache_folder, fetch
from tests.kernels.stage import StageError, only_run, stage

OUT = ROOT / "build" / "kernels"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--kernels", default="6.12", help="comma-separated (default: 6.12)")
    options = parser.parse_args()
    well = True
    try:
        with only_run(OUT), stage(OUT) as root:
            for kernel in pick(options.kernels.split(",")):
                image = fetch(kernel, cache_folder())
                text, good = measure(image, OUT / f"{image.version}-bench", root)
                print(f"{text}\n", flush=True)
                well &= good
    except (FetchError, StageError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
