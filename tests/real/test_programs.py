"""Real programs, traced: unchanged by it, every fault accounted for, each report made of it."""

from collections import Counter

import pytest

from tests.real.programs import REAL, STRESSORS
from tests.real.reports import Reporter
from tests.real.witnessed import Witnessed, kernel_count

# A file system's, a compiler's and a database's processes, threads of a JVM: attached to, too.
ATTACHED = ("git", "java", "postgresql")
STACKS = "sqlite3"
EACH = [
    *((program.name, "command") for program in REAL),
    *((name, "attached") for name in ATTACHED),
    (STACKS, "stacks"),
]
# Pictures take seconds each: of all but stressors, and of those stressors that have what few have:
# huge pages, userfaultfd, pages that come and go all the time.
DRAWN = {program.name for program in REAL if program not in STRESSORS} | {
    f"stress-ng-{name}" for name in ("malloc", "madvise", "mmap", "mmaphuge", "userfaultfd")
}
REPORTED = [(name, how) for name, how in EACH if how != "attached"]
each = pytest.mark.parametrize("traced", EACH, indirect=True, ids="-".join)


def is_exact(traced: Witnessed) -> bool:
    """Whether the books claim the kernel's count to the fault."""
    books = traced.books
    return not books["unfollowed"] and not books.get("kernel_at_least", False)


@each
def test_the_program_does_not_notice(traced: Witnessed) -> None:
    ended, plain = traced.ended, traced.plain
    assert (ended.status, ended.out, ended.err) == (plain.status, plain.out, plain.err)
    if traced.command:
        assert traced.tracer.status == plain.status
        assert traced.meta["exit_status"] == plain.status
    else:
        assert (traced.tracer.status, traced.tracer.err) == (0, "")
    assert "Traceback" not in traced.tracer.out
    assert traced.meta["state"] == "finished"


@each
def test_the_kernels_count_is_getrusages(traced: Witnessed) -> None:
    """To the fault, whatever was lost; where the books call it a bound, it must be one."""
    counted, books = kernel_count(traced), traced.books
    if is_exact(traced):
        assert books["kernel"] == counted, books
    else:
        assert books["kernel"] <= counted, books


@each
def test_the_books_balance(traced: Witnessed) -> None:
    books = traced.books
    recorded = books["traced"] - books["foreign"] + books["filtered"]
    assert recorded + books["lost"] + books["missed"] == books["kernel"], books
    assert books["conflict"] == 0, books
    assert books["balanced"] or books.get("kernel_at_least", False), books
    assert min(books["lost"], books["missed"]) >= 0, books
    if not books["lost"] and not books["lost_other"]:
        assert books["balanced"], books
        assert traced.meta["verdict"]["inexact"] == []
        assert books["gained"] - books["given_up"] == books["mapped_change"], books


@each
def test_rows_are_what_the_books_say(traced: Witnessed) -> None:
    books = traced.books
    kinds: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    for row in traced.rows():
        kinds[row["kind"]] += 1
        pages[row["kind"]] += int(row["pages"])
    assert kinds.total() == books["traced"] + books["failed"]
    assert kinds["failed"] == books["failed"]
    by = books["gained_by"]
    if not books["lost"] and not books["lost_other"]:
        # What userfaultfd gave is a source of its own, and not all of it was waited for.
        assert pages["uffd"] <= by.get("uffd", 0), by
        assert pages.total() - pages["uffd"] == by.get("fault", 0) + by.get("around", 0), by
        assert kinds[""] == 0, kinds


def _at_exit(traced: Witnessed) -> int:
    """Threads whose last fault may have come after perf left them.

    Since Linux 6.16 a task's perf events end before its memory is released, and a thread that
    ends before others has the kernel write to the word that they wait for (set_tid_address).
    """
    last = {(row["pid"], row["tid"]): row for row in traced.rows()}
    threads = Counter(pid for pid, _ in last)
    return sum(
        threads[pid] > 1 and row["cause"] == "kernel" and row["access"] == "write"
        for (pid, _), row in last.items()
    )


@each
def test_perf_stat_agrees(traced: Witnessed) -> None:
    """perf counts from when `witness` waited, and what raises an exception only."""
    if traced.perf is None:
        pytest.skip("a machine on which perf is quick")
    books, ended = traced.books, traced.ended
    rows = [row for row in traced.rows() if not traced.is_early(row)]
    late, perf = _at_exit(traced), traced.perf.minor + traced.perf.major
    counted = ended.own - ended.before + ended.minor + ended.major
    assert perf <= counted, (perf, books)
    if traced.meta["probe"]["name"] == "perf":
        # The same events: what perf did not see is what the tracer missed.
        seen = sum(row["kind"] != "failed" for row in rows) - books["foreign"]
        assert perf <= seen <= perf + late, (perf, seen, late, books)
    else:
        blind = sum(row["cause"] in ("populate", "remote") for row in rows)
        unseen = counted - perf
        assert blind <= unseen <= blind + books["missed"] + late, (blind, unseen, late, books)
    majors = sum(row["major"] == "true" for row in rows)
    assert majors - late <= traced.perf.major <= majors + books["missed"], (traced.perf, books)
    assert traced.perf.major <= ended.major, (traced.perf, ended)


@pytest.mark.parametrize("traced", REPORTED, indirect=True, ids="-".join)
def test_every_report_is_made(traced: Witnessed, reporter: Reporter) -> None:
    assert reporter.trouble(traced.csv, drawn=traced.program.name in DRAWN) == ""
