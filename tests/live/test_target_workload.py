"""The workload's own answers, untraced: the faults the kernel counts are those it promises."""

import pytest

from tests.live.workload import Workload, WorkloadError

TMPFS_MAGIC = 0x01021994

EXACT = [
    ("anon-write", 101),
    ("zero-then-cow", 53),
    ("file-read", 53),
    ("file-private-write", 53),
    ("file-shared-write", 53),
    ("fetch", 53),
    ("shared-anon", 53),
    ("populate", 53),
    ("mlock", 53),
    ("huge",),
    ("dontneed", 53),
    ("stack", 53),
    ("read-into", 53),
    ("sigbus", 53),
    ("short-lived", 53),
    ("remote", 53),
    ("fork-cow", 53, 17, 13, 7),
    ("threads", 53, 5),
    ("late-threads", 53, 5),
    ("storm", 4, 101, 7),
]


@pytest.mark.parametrize("arguments", EXACT, ids=lambda arguments: str(arguments[0]))
def test_counts_what_it_promises(arguments: tuple[str | int, ...]) -> None:
    with Workload(*arguments) as work:
        report = work.go()
        assert [count.faults for count in report.counts] == [c.expected for c in report.counts]
        assert report.counts
        assert work.finish() == 0


def test_steps_of_fork_cow() -> None:
    with Workload("fork-cow", 53, 17, 13, 7) as work:
        counts = {count.label: count for count in work.go().counts}
        assert {label: count.faults for label, count in counts.items()} == {
            "write": 53,
            "child-cow": 17,
            "parent-cow": 13,
            "parent-reuse": 7,
        }
        assert counts["child-cow"].tid == work.report.child
        assert counts["parent-cow"].tid == work.pid


def test_threads_on_the_same_pages_share_the_faults() -> None:
    with Workload("threads-same", 53, 5) as work:
        counts = work.go().counts
        assert len({count.tid for count in counts}) == 5
        assert 53 <= sum(count.faults for count in counts) <= 5 * 53


def test_fault_around_needs_fewer_faults_than_pages() -> None:
    with Workload("file-around", 101) as work:
        assert 1 <= work.go().counts[0].faults < 101


def test_cold_file_faults_page_by_page() -> None:
    """Unless the file system keeps its pages (tmpfs has nowhere to drop them to)."""
    with Workload("file-cold", 53) as work:
        report = work.go()
        most = report.counts[0].faults == 53
        assert most or report.file_system == TMPFS_MAGIC


def test_mkwrite_needs_a_fault_to_read_and_one_to_write() -> None:
    with Workload("file-mkwrite", 53) as work:
        report = work.go()
        writes = 0 if report.file_system == TMPFS_MAGIC else 53
        assert [count.faults for count in report.counts] == [53, writes]


def test_exec_becomes_the_next_program() -> None:
    with Workload("exec", 53, "dontneed", 7) as work:
        assert [count.faults for count in work.go().counts] == [53]
        before = work.pid
        assert work.next_image().pid == before
        assert [count.faults for count in work.go().counts] == [7, 7]
        assert work.finish() == 0


def test_exit_ends_at_once() -> None:
    with Workload("exit") as work:
        assert work.finish() == 0


def test_bad_arguments_are_reported() -> None:
    with pytest.raises(WorkloadError, match="ended with 2"):
        Workload("anon-write")
