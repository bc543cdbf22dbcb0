"""Address spaces through fork, vfork, exec, exit and the reuse of pointers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tracer.kernel.sideband import ExecEvent, MmapEvent
from tracer.model.rows import Names
from tracer.procfs.maps import Mapping
from tracer.spaces.code_files import CodeFiles, CodeMapping
from tracer.spaces.mappings import VM_EXEC, VM_READ
from tracer.spaces.spaces import Spaces
from tracer.spaces.syscalls import Memory, SystemCall, decode, interpret
from tracer.wire.records import Mark, RecordType, load_layout

P = 4096
LAYOUT = load_layout(Path(__file__).parents[3] / "bpf")
A, B, C, D = (0xFFFF888000000000 + i * 0x1000 for i in range(4))  # mm pointers


def follow(spaces: Spaces, made: SystemCall) -> None:
    """What a system call says of mappings, as session.calls has it."""
    space = spaces.at(made.mm) or spaces.of(made.tgid)
    change = interpret(made, 0, Memory(), claims=spaces.doubtful).change
    if space is not None and change is not None:
        space.history.add(made.time_ns, change)


@pytest.fixture
def spaces() -> Spaces:
    return Spaces(Names())


def fault(
    mm: int, tgid: int = 1, page: int = 0, time: int = 0, current: int | None = None, flags: int = 0
) -> npt.NDArray[np.void]:
    record = np.zeros(1, dtype=LAYOUT.fault)
    record["mm"], record["tgid"], record["time_ns"], record["address"] = mm, tgid, time, page * P
    record["current_mm"] = mm if current is None else current
    if flags:
        record["marks"], record["vm_flags"] = Mark.MAPPING, flags
    return record


def resolve(spaces: Spaces, *faults: npt.NDArray[np.void]) -> list[tuple[int, int]]:
    numbers, owners = spaces.resolve(np.concatenate(faults))
    return list(zip(numbers.tolist(), owners.tolist(), strict=True))


def names(spaces: Spaces, *faults: npt.NDArray[np.void]) -> list[str]:
    records = np.concatenate(faults)
    numbers, _ = spaces.resolve(records)
    return [spaces._names.regions[i].name for i in spaces.places(numbers, records)[0]]


def event(time: int, pid: int, start: int, path: str) -> MmapEvent:
    return MmapEvent(time, pid, pid, start * P, (start + 4) * P, 0, "r--p", 8, hash(path), path)


def mapping(start: int, path: str) -> Mapping:
    return Mapping(start * P, (start + 4) * P, "r--p", 0, 8, 5, path)


def task(
    kind: RecordType, time: int, tgid: int, mm: int, child: tuple[int, int] = (0, 0)
) -> np.void:
    record = np.zeros(1, dtype=LAYOUT.task)
    record["type"], record["time_ns"], record["tgid"], record["mm"] = kind, time, tgid, mm
    record["child_tgid"], record["child_mm"] = child
    record["group_dead"] = 1
    return record[0]  # type: ignore[no-any-return]


def test_a_targets_pointer_is_learned_from_its_first_own_fault(spaces: Spaces) -> None:
    spaces.attach(1, 10, None, [mapping(0, "/a")])
    # building a new program comes first: not its own memory
    exec_stack = fault(B, 10, current=A, flags=0x18103)
    assert resolve(spaces, exec_stack, fault(A, 10)) == [(2, 10), (1, 10)]
    assert names(spaces, fault(A, 10, time=2)) == ["/a"]


def test_threads_and_vfork_share_fork_copies(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/a")])
    spaces.lifecycle(task(RecordType.FORK, 1, 10, A, (10, A)))  # a thread
    spaces.fork(2, 10, A, 11, A)  # vfork
    spaces.feed([event(3, 11, 8, "/by-vfork-child")])
    spaces.lifecycle(task(RecordType.FORK, 4, 10, A, (12, B)))
    spaces.feed([event(5, 12, 0, "/child"), event(6, 10, 0, "/parent")])
    assert resolve(spaces, fault(A, 11), fault(B, 12), fault(A, 10)) == [(1, 10), (2, 12), (1, 10)]
    assert names(
        spaces,
        *[fault(A, 10, page, time=7) for page in (0, 8)],
        *[fault(B, 12, page, time=7) for page in (0, 8)],
    ) == ["/parent", "/by-vfork-child", "/child", "/by-vfork-child"]
    spaces.exit(9, 10)  # the child still runs in it, and owns it now
    assert resolve(spaces, fault(A, 11)) == [(1, 11)]


def test_threads_stacks_are_recognised_by_their_forks(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/a")])
    for page in (0x1000, 0x2000):
        at = page * P, (page + 0x800) * P
        spaces.feed([MmapEvent(1, 10, 10, *at, 0, "rw-p", 0, 0, "")])
    thread = task(RecordType.FORK, 2, 10, A, (10, A))
    thread["child_sp"] = 0x1800 * P - 0x80
    spaces.lifecycle(thread)
    process = task(RecordType.FORK, 3, 10, A, (11, B))
    process["child_sp"] = 0x2800 * P - 0x80  # it runs on a copy of its parent's
    spaces.lifecycle(process)
    pages = np.array([0x1000, 0x2000], np.uint64)
    found = spaces[1].history.lookup(pages * np.uint64(P), np.array([4, 4]))[0]
    known = spaces._names
    assert [known.arrays[known.array_of[each]] for each in found.tolist()] == [
        "thread stacks",
        f"{0x2000 * P:#x}",
    ]


def test_exec_starts_empty_with_what_the_sideband_had_before_the_record(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/old")])
    spaces.feed([event(5, 10, 8, "/last"), ExecEvent(6, 10, 10), event(7, 10, 0, "/new")])
    assert resolve(spaces, fault(B, 10, current=A, flags=0x18103)) == [(2, 10)]
    assert names(spaces, fault(A, 10, 0, 5), fault(A, 10, 8, 5)) == ["/old", "/last"]
    spaces.lifecycle(task(RecordType.EXEC, 8, 10, B))
    assert len(spaces) == 2  # the space its arguments showed was adopted
    assert names(spaces, fault(B, 10, 0, 9), fault(B, 10, 8, 9)) == ["/new", ""]
    assert spaces[1].ended_ns == 8
    assert spaces.of(10) is spaces[2]


def test_two_execs_in_one_cycle(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    spaces.feed(
        [
            *(ExecEvent(1, 10, 10), event(2, 10, 0, "/one")),
            *(ExecEvent(5, 10, 10), event(6, 10, 0, "/two")),
        ]
    )
    spaces.exec(3, 10, B)
    assert names(spaces, fault(B, 10, 0, 4)) == ["/one"]
    spaces.exec(7, 10, A)  # the first pointer again
    assert names(spaces, fault(A, 10, 0, 8)) == ["/two"]
    assert resolve(spaces, fault(A, 10)) == [(3, 10)]


def test_an_exec_event_that_comes_late_or_never(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    spaces.exec(3, 10, B)
    spaces.feed([ExecEvent(1, 10, 10), event(2, 10, 0, "/one")])
    assert names(spaces, fault(B, 10, 0, 4)) == ["/one"]
    spaces.exec(13, 10, C)  # the event of this one was lost
    spaces.feed([ExecEvent(20, 10, 10), event(21, 10, 0, "/three")])
    spaces.exec(23, 10, D)
    assert names(spaces, fault(D, 10, 0, 24)) == ["/three"]


def test_a_sleeper_that_execs_at_once(spaces: Spaces) -> None:
    """Its first fault is in the new memory: the event that waits says that it is another."""
    spaces.attach(5, 10, None, [mapping(0, "/old")])
    spaces.feed([ExecEvent(6, 10, 10), event(7, 10, 0, "/new")])
    assert resolve(spaces, fault(B, 10, 0, 8)) == [(2, 10)]
    spaces.lifecycle(task(RecordType.EXEC, 9, 10, B))
    assert names(spaces, fault(B, 10, 0, 9)) == ["/new"]
    assert (len(spaces), spaces[1].ended_ns, spaces.of(10)) == (2, 8, spaces[2])


def test_a_fault_before_the_exec_is_in_the_old_memory(spaces: Spaces) -> None:
    spaces.attach(5, 10, None, [mapping(0, "/old")])
    spaces.feed([ExecEvent(8, 10, 10), event(9, 10, 0, "/new")])
    assert resolve(spaces, fault(A, 10, 0, 7)) == [(1, 10)]
    assert resolve(spaces, fault(B, 10, 0, 10)) == [(2, 10)]


@pytest.mark.parametrize("faults", [True, False])
def test_attached_to_in_the_middle_of_an_exec(spaces: Spaces, faults: bool) -> None:
    """The mappings read are the new memory's, and the record that is to come makes no other."""
    spaces.attach(5, 10, None, [mapping(0, "/new")])
    spaces.feed([ExecEvent(3, 10, 10), event(4, 10, 0, "/new"), event(6, 10, 8, "/later")])
    if faults:
        assert resolve(spaces, fault(B, 10, 0, 7)) == [(1, 10)]
    spaces.lifecycle(task(RecordType.EXEC, 8, 10, B))
    assert names(spaces, fault(B, 10, 0, 9), fault(B, 10, 8, 9)) == ["/new", "/later"]
    assert len(spaces) == 1


def test_a_child_made_as_its_parent_was_attached_to(spaces: Spaces) -> None:
    """After the hooks were on, before the mappings were read."""
    spaces.attach(5, 10, None, [mapping(0, "/a")], since_ns=2)
    spaces.fork(3, 10, A, 11, B)
    assert names(spaces, fault(A, 10, 0, 3), fault(B, 11, 0, 4)) == ["/a", "/a"]


@pytest.mark.parametrize("before", [[], [mapping(0, "/old")]])
def test_an_exec_as_it_was_attached_to(spaces: Spaces, before: list[Mapping]) -> None:
    """What was mapped before it was read before that, if at all."""
    spaces.attach(7, 10, None, [mapping(0, "/new")], 2, before)
    spaces.feed([ExecEvent(4, 10, 10), event(5, 10, 0, "/new")])
    old = "/old" if before else ""
    assert names(spaces, fault(A, 10, 0, 3), fault(A, 10, 0, 6)) == [old, "/new"]


def stack(start: int) -> Mapping:
    return mapping(start, "[stack]")


def test_an_exec_while_its_mappings_were_read(spaces: Spaces) -> None:
    """They are the new memory's: a fault before the exec was in what was read before."""
    old = [mapping(0, "/old"), mapping(20, "/old-and-gone"), stack(100)]
    new = [mapping(22, "/new"), mapping(40, "/new"), stack(200)]
    spaces.attach(5, 10, None, new, 2, old)
    assert names(spaces, fault(A, 10, 0, 6), fault(A, 10, 100, 6)) == ["/old", "[stack]"]
    assert names(spaces, fault(A, 10, 22, 6), fault(A, 10, 20, 6)) == ["/new", ""]  # in doubt
    spaces.feed([ExecEvent(7, 10, 10), event(8, 10, 40, "/new")])
    spaces.lifecycle(task(RecordType.EXEC, 9, 10, B))
    assert names(spaces, fault(B, 10, 40, 10), fault(B, 10, 0, 10)) == ["/new", ""]
    assert len(spaces) == 2


def test_no_exec_while_its_mappings_were_read(spaces: Spaces) -> None:
    """What is there no more was unmapped meanwhile."""
    spaces.attach(5, 10, None, [mapping(40, "/a"), stack(100)], 2, [mapping(0, "/a"), stack(100)])
    assert names(spaces, fault(A, 10, 0, 6), fault(A, 10, 40, 6)) == ["", "/a"]


def test_attached_to_after_an_exec(spaces: Spaces) -> None:
    """The late event of that exec makes no other memory; the event of the next does."""
    spaces.attach(5, 10, None, [mapping(0, "/one")])
    spaces.feed([ExecEvent(3, 10, 10), event(4, 10, 0, "/one")])
    assert resolve(spaces, fault(A, 10, 0, 7)) == [(1, 10)]
    spaces.feed([ExecEvent(8, 10, 10), event(9, 10, 0, "/two")])
    spaces.lifecycle(task(RecordType.EXEC, 10, 10, B))
    assert names(spaces, fault(B, 10, 0, 11)) == ["/two"]
    assert len(spaces) == 2


def test_a_vfork_child_leaves_its_parents_memory_by_exec(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/parent")])
    # everything of the child is fed before its FORK record is reached
    spaces.feed([ExecEvent(4, 11, 11), event(5, 11, 0, "/child")])
    spaces.fork(1, 10, A, 11, A)
    spaces.exec(6, 11, B)
    assert resolve(spaces, fault(A, 10), fault(B, 11)) == [(1, 10), (2, 11)]
    assert names(spaces, fault(A, 10, 0, 7), fault(B, 11, 0, 7)) == ["/parent", "/child"]
    assert spaces[1].ended_ns is None


def test_a_pointer_used_again_is_a_new_space(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    spaces.fork(1, 10, A, 11, B)
    assert resolve(spaces, fault(B, 11)) == [(2, 11)]
    spaces.lifecycle(task(RecordType.EXIT, 2, 11, 0))
    spaces.fork(3, 10, A, 12, B)
    assert resolve(spaces, fault(B, 12)) == [(3, 12)]
    spaces.fork(4, 10, A, 13, B)  # 12's end was not seen
    assert resolve(spaces, fault(B, 13)) == [(4, 13)]
    assert spaces[3].ended_ns == 4
    assert spaces.of(12) is None


def test_memory_nobody_reported_has_no_owner(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    assert resolve(spaces, fault(D, 10, current=A)) == [(2, 0)]
    foreign = fault(C, 99)
    foreign["marks"] = Mark.FOREIGN
    assert resolve(spaces, foreign) == [(3, 0)]


def test_an_exec_nobody_reported(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    assert resolve(spaces, fault(B, 10)) == [(2, 10)]
    assert spaces[1].ended_ns is not None


def test_system_calls_change_mappings(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/a")])
    record = np.zeros(3, dtype=LAYOUT.syscall)
    record["time_ns"], record["mm"] = [5, 6, 7], A
    record["number"], record["result"] = [11, 25, 25], [0, 20 * P, (1 << 64) - 12]
    record["args"][:, :4] = [[0, P, 0, 0], [P, 3 * P, 3 * P, 1], [20 * P, P, 9 * P, 1]]
    for each in decode(record):
        follow(spaces, each)
    faults = np.concatenate([fault(A, 10, 2, 5), fault(A, 10, 22, 6), fault(A, 10, 25, 8)])
    regions = [
        spaces._names.regions[i] for i in spaces.lookup(1, faults["address"], faults["time_ns"])[0]
    ]
    assert [(r.start // P, r.end // P, r.offset // P) for r in regions] == [
        (1, 4, 1),
        (20, 23, 1),
        (0, 0, 0),
    ]


@pytest.mark.parametrize("doubtful", [False, True])
def test_new_mappings_are_read_from_system_calls_in_doubt_only(
    spaces: Spaces, doubtful: bool
) -> None:
    spaces.attach(0, 10, A)
    if doubtful:
        spaces.doubt()
    record = np.zeros(4, dtype=LAYOUT.syscall)
    record["time_ns"], record["mm"], record["number"] = 5, A, [9, 9, 9, 10]
    record["result"] = [20 * P, 40 * P, (1 << 64) - 12, 0]
    record["args"][:, :4] = [[0, P, 3, 0x22], [0, P, 1, 0x21], [0, P, 3, 2], [20 * P, P, 5, 0]]
    for each in decode(record):
        follow(spaces, each)
    ids, _ = spaces.lookup(1, np.array([20 * P, 40 * P], np.uint64), np.array([6, 6], np.uint64))
    found = [(spaces._names.regions[i].perms, spaces._names.regions[i].name) for i in ids]
    wanted = [("r-xp", "[anon]"), ("r--s", "/dev/zero (deleted)")]
    assert found == (wanted if doubtful else [("", "")] * 2)


def test_addresses_in_many_spaces(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/a")])
    spaces.attach(0, 11, B, [mapping(0, "/b")])
    numbers = np.array([2, 1, 0], dtype=np.uint32)
    where, when = np.zeros(3, dtype=np.uint64), np.full(3, 9, dtype=np.int64)
    ids, _ = spaces.places_at(numbers, where, when)
    assert [spaces._names.regions[i].name for i in ids] == ["/b", "/a", ""]


def test_snapshots_go_to_the_space_of_their_moment(spaces: Spaces) -> None:
    spaces.attach(0, 10, A)
    spaces.feed([ExecEvent(10, 10, 10)])
    spaces.snapshot(5, 10, [mapping(0, "/before")])
    spaces.snapshot(12, 10, [mapping(0, "/after")])
    spaces.snapshot(12, 77, [mapping(0, "/nobody")])
    assert names(spaces, fault(A, 10, 0, 6)) == ["/before"]
    spaces.exec(11, 10, B)
    assert names(spaces, fault(B, 10, 0, 13)) == ["/after"]


def test_what_ended_is_let_go_after_one_more_cycle(spaces: Spaces) -> None:
    spaces.attach(0, 10, A, [mapping(0, "/a")])
    spaces.exit(5, 10)
    late = fault(A, 10, 0, 4)
    number = np.array([1], dtype=np.uint32)
    assert spaces.places(number, late)[0][0]
    spaces.advance(6)
    assert not spaces.places(number, late)[0][0]
    assert spaces._by_mm == {}


def test_events_of_processes_that_never_appear_are_dropped(spaces: Spaces) -> None:
    spaces.feed([event(1, 50, 0, "/x"), event(9, 51, 0, "/y")])
    spaces.advance(5)
    assert list(spaces._orphans) == [51]


def test_an_empty_batch(spaces: Spaces) -> None:
    none = np.zeros(0, dtype=LAYOUT.fault)
    numbers, owners = spaces.resolve(none)
    assert len(numbers) == len(owners) == spaces.places(numbers, none).size == 0


class Numbers(CodeFiles):
    """Each path's files by number, without reading any; a new one is told apart by its process."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def see(self, pid: int, mapping: CodeMapping, *, anew: bool) -> int:
        key = mapping.path, pid if anew else 0
        if key not in self.seen:
            self.seen.append(key)
        return self.seen.index(key) + 1


def test_files_of_one_path_are_distinguished() -> None:
    """In what faults, lookups and lists of mappings name; and no file's data matter."""
    spaces = Spaces(Names(fold=True), Numbers())
    code = mapping(0, "/a")._replace(perms="r-xp")
    spaces.attach(0, 10, A, [code, mapping(8, "/a")])
    spaces.attach(0, 11, B)
    made = event(1, 11, 0, "/a")
    made.perms = "r-xp"
    spaces.feed([made])
    numbers = np.array([1, 2], dtype=np.uint32)
    ids, _ = spaces.places_at(numbers, np.zeros(2, np.uint64), np.full(2, 9, np.int64))
    regions = [spaces._names.regions[at] for at in ids]
    assert [(region.name, region.file) for region in regions] == [("/a", 1), ("/a", 2)]
    first = fault(A, 10, 0, 20, flags=VM_READ | VM_EXEC)
    first["inode"], first["device"], first["vm_end"] = 5, 8, 4 * P
    assert spaces.places(numbers[:1], first)[0].tolist() == ids[:1].tolist()
    settled = spaces.settled(10, [code, mapping(8, "/a")])
    assert [each.file for each in settled] == [1, 0]
    child = spaces[1].history.fork(30)
    assert [(region.name, region.file) for region in child.present()] == [("/a", 1), ("/a", 0)]
