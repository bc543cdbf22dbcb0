"""How much of the tracer the unit tests run, by package: `python -m tests.covered FLOOR`.

Reads what pytest-cov has left in build/coverage (`make test-unit` with CI=true). Lines that only
processes of the tests' own run (commands, the helper that reads files) are not counted. The status
is 1 where less than FLOOR per cent was run.
"""

import sys
from collections import Counter
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parents[1]


def counted() -> tuple[Counter[str], Counter[str]]:
    """Statements by package, and those of them that no test ran."""
    coverage = Coverage()
    coverage.load()
    statements: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for file in coverage.get_data().measured_files():
        package = str(Path(file).relative_to(ROOT).parent)
        _, lines, _, missed, _ = coverage.analysis2(file)
        statements[package] += len(lines)
        missing[package] += len(missed)
    return statements, missing


def table(statements: Counter[str], missing: Counter[str], floor: float) -> tuple[list[str], bool]:
    """Lines to print, and whether what was run is enough."""
    lines = [
        f"{_percent(missing[package], count):5.1f} %  {package}"
        for package, count in sorted(statements.items())
        if count
    ]
    run = _percent(missing.total(), statements.total())
    lines.append(
        f"{run:5.1f} %  of {statements.total()} statements; at least {floor:g} % are to be"
    )
    return lines, run >= floor


def _percent(missing: int, count: int) -> float:
    return 100 * (count - missing) / count if count else 0.0


if __name__ == "__main__":
    said, enough = table(*counted(), float(sys.argv[1]))
    print("what the unit tests run of the tracer:", *said, sep="\n")
    sys.exit(not enough)
