"""The books in words: whether every fault the kernel counted is accounted for, and why not."""

from tracer.common import units
from tracer.common.pages import PAGE_SIZE
from tracer.common.units import Glyphs
from tracer.model.result import Books


def balance(books: Books, glyphs: Glyphs) -> str:
    """One line: what was traced against what the kernel counted, and frames against pages."""
    return f"books: {_faults(books)}; {_frames(books, glyphs)}"


def _faults(books: Books) -> str:
    own = books.traced - books.foreign
    terms = [f"{_count(own, 'fault')} traced"]
    for count, what in (
        (books.filtered, "filtered out"),
        (books.lost, "lost"),
        (books.missed, "missed"),
    ):
        if count:
            terms.append(f"{count} {what}")
    total = own + books.filtered + books.lost + books.missed
    text = f"{' + '.join(terms)} {'=' if total == books.kernel else 'but'} "
    text += f"at least {books.kernel}" if books.kernel_at_least else str(books.kernel)
    least = " of the threads that were followed" if books.unfollowed else ""
    none = [
        f"0 {what}" for count, what in ((books.lost, "lost"), (books.missed, "missed")) if not count
    ]
    return f"{text} the kernel counted{least}" + (f"; {', '.join(none)}" if none else "")


def _frames(books: Books, glyphs: Glyphs) -> str:
    net = books.gained - books.given_up
    least = "at least " * bool(books.unseen_fills)
    text = f"frames: {least}{books.gained} gained {glyphs.minus} {books.given_up} released"
    if books.mapped_change is None:
        return f"{text} = {_signed(net, glyphs)}; mapped pages not known"
    if books.mapped_change == net:
        return f"{text} = {_signed(net, glyphs)} mapped"
    change = _signed(books.mapped_change, glyphs)
    return f"{text} = {_signed(net, glyphs)}, but mapped pages changed by {change}"


def memory(books: Books, glyphs: Glyphs) -> str:
    """One line: bytes gained, gross and net, and what is resident and mapped at the end.

    Resident counts each frame once, mapped in each address space that has it.
    """
    gross, net = books.gained * PAGE_SIZE, (books.gained - books.given_up) * PAGE_SIZE
    least = "at least " * bool(books.unseen_fills)
    text = f"memory: {least}{units.size(gross)} gained in all, "
    text += f"{units.net(net, glyphs)} net of releases"
    text += f"; resident at the end {_bytes(books.resident)}"
    if books.resident_peak:  # a lower bound of 0 says nothing
        text += f" (peak at least {_bytes(books.resident_peak)})"
    text += f", mapped {_bytes(books.mapped)}"
    unseen = books.resident is None and books.mapped is not None
    return text + " (from records only)" * unseen


def _bytes(pages: int | None) -> str:
    return "not known" if pages is None else units.size(pages * PAGE_SIZE)


def reasons(books: Books, glyphs: Glyphs) -> list[str]:
    """Why the two sides differ: a sentence for each number that needs one."""
    said = []
    if books.failed:
        said.append(
            f"{_count(books.failed, 'fault')} failed (bad access or no memory): "
            "they have rows, but are not in the kernel's count"
        )
    if books.foreign:
        said.append(
            f"{_count(books.foreign, 'fault')} in the targets' memory by other processes: "
            "they have rows, but the kernel counts them for those processes"
        )
    said += _beside(books)
    if books.lost:
        said.append(
            f"{_count(books.lost, 'event')} lost: no room in the ring, or not read in time; "
            "enlarge it (--buffer), or filter in the kernel (--range, --min-latency)"
        )
    if books.missed:
        reason = books.missed_reason or "cause unknown"
        said.append(
            f"{_count(books.missed, 'fault')} counted by the kernel, but missed by the probe: "
            f"{reason}"
        )
    if books.unseen_fills:
        said.append(
            f"{_count(books.unseen_fills, 'call')} populated pages without records "
            "(mlockall, or beyond 32 MiB of a call), and some were released before a snapshot: "
            "gained and released are lower bounds"
        )
    if books.kernel_at_least:
        said.append(
            f"the kernel may have counted more: {books.kernel_reason}; the books do not balance"
        )
    if books.unfollowed:
        said.append(
            f"{_count(books.unfollowed, 'thread start or exit', 'thread starts and exits')} "
            "may have been missed, since the kernel skipped the handlers: faults of such a "
            "thread may be in neither count"
        )
    return [*said, *_trouble(books, glyphs)]


def _beside(books: Books) -> list[str]:
    """Faults without a row that the kernel's count of the targets does not have either."""
    said = []
    for lost, filtered, one, several in (
        (books.failed_lost, books.failed_filtered, "failed fault", "failed faults"),
        (
            books.foreign_lost,
            books.foreign_filtered,
            "fault by another process",
            "faults by other processes",
        ),
    ):
        if lost:
            said.append(
                f"{_count(lost, one, several)} lost: no room in the ring, or not read in time; "
                "not in the kernel's count"
            )
        if filtered:
            said.append(f"{_count(filtered, one, several)} filtered out: not in the kernel's count")
    return said


def _trouble(books: Books, glyphs: Glyphs) -> list[str]:
    said = []
    seen = books.traced - books.foreign + books.filtered + books.lost + books.missed
    if seen != books.kernel:
        gap = _signed(books.kernel - seen, glyphs)
        said.append(f"the books do not balance: the kernel's count differs by {gap}")
    if books.conflict:
        said.append(
            f"{_count(books.conflict, 'fault')} contradicted by pagemap without an "
            "explanation: a bug, please report it"
        )
    return said


def _count(count: int, noun: str, several: str = "") -> str:
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def _signed(count: int, glyphs: Glyphs) -> str:
    return f"+{count}" if count >= 0 else f"{glyphs.minus}{-count}"
