"""Unwind rules across runs: found by a file's content, and suggestions only."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.unit.rules_data import CODE, program
from tracer.callstacks import stored_rules
from tracer.callstacks.file_rules import EXACT, PAGE, RETURN, FileRules, Known
from tracer.callstacks.kernel_rules import value_of
from tracer.callstacks.stored_rules import StoredRules
from tracer.common import cache_files
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import UNKNOWN, Cfa, CodeRule, Rule

RSP, OTHER, BARE = Rule(Cfa.RSP, 8), Rule(Cfa.RSP, 16), Rule(Cfa.FRAME)
INDEX = "rules.index"
HOUR_NS = 3_600_000_000_000


class Run:
    """One run of the tracer, by which some files are numbered."""

    def __init__(self, folder: Path | None, *files: Path) -> None:
        self.files = dict(enumerate(files, 1))
        self.stored = StoredRules(folder, self.open)
        self.rules = FileRules()
        self.rules.load = self.stored.load
        self.read: list[int] = []  # whose content was read

    def open(self, file: int) -> int:
        return os.open(self.files[file], os.O_RDONLY)

    def digest(self, file: int) -> bytes:
        self.read.append(file)
        return hashlib.sha256(self.files[file].read_bytes()).digest()

    def learn(self, offset: int, *, file: int = 1, exact: bool = False, rule: Rule = RSP) -> None:
        code = CodeRule(rule, after_call=True, bare_page=rule == BARE)
        self.rules.add(file, offset, exact=exact, rule=rule, code=code)

    def known(self, file: int = 1) -> Known:
        """What a program that maps the file begins with."""
        mapped = Mapping(CODE, CODE + (1 << 20), "r-xp", 0, 8, 1, "/bin/x", file)
        self.rules.of(program(), mapped)
        (table,) = (each for number, each in self.rules.tables() if number == file)
        return table.stored | table.learned

    def end(self) -> None:
        unread = self.stored.unread(self.rules)
        self.stored.store(self.rules, lambda file: self.digest(file) if file in unread else b"")


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may have been made just now."""
    monkeypatch.setattr(stored_rules, "_SETTLED_NS", -HOUR_NS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "binary"
    path.write_bytes(b"code")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() + ".rules"


def learned(folder: Path, path: Path, *offsets: int, rule: Rule = RSP) -> Run:
    """A run that learns these."""
    run = Run(folder, path)
    for offset in offsets:
        run.learn(offset, rule=rule)
    run.end()
    return run


def test_the_next_run_begins_with_what_one_learned(folder: Path, binary: Path) -> None:
    first = Run(folder, binary)
    first.learn(0x10)
    first.learn(0x20, exact=True, rule=Rule(Cfa.RBP, -16, -8, UNKNOWN))
    first.learn(0x5030, rule=BARE)
    first.end()
    assert first.read == [1]
    assert names(folder) == sorted([name_of(b"code"), INDEX])
    second = Run(folder, binary)
    assert second.known() == first.known()
    assert second.known().keys() == {
        *((0x10, RETURN), (0x20, EXACT), (0x5030, RETURN), (0x5000, PAGE))
    }
    second.end()
    assert second.read == []  # the file is known by its state


def test_without_a_folder(binary: Path) -> None:
    run = Run(None, binary)
    run.learn(0x10)
    run.end()
    run = Run(None, binary)
    assert run.known() == {}
    assert run.stored.unread(run.rules) == []


def test_without_sources_nothing_is_stored(
    folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rules, "__file__", "/none/x/y.py")
    learned(folder, binary, 0x10)
    assert not folder.exists()


def test_what_others_stored_meanwhile_stays(folder: Path, binary: Path) -> None:
    one, two = Run(folder, binary), Run(folder, binary)
    one.learn(0x10)
    two.learn(0x20)
    one.end()
    two.end()
    assert Run(folder, binary).known().keys() == {(0x10, RETURN), (0x20, RETURN)}


def test_a_file_of_the_same_content_is_the_same(folder: Path, binary: Path, tmp_path: Path) -> None:
    learned(folder, binary, 0x10)
    copy = tmp_path / "copy"
    copy.write_bytes(b"code")
    assert Run(folder, copy).known() == {}  # it has not been read yet
    run = learned(folder, copy, 0x20)
    assert run.read == [1]
    both = {(0x10, RETURN), (0x20, RETURN)}
    assert Run(folder, copy).known().keys() == Run(folder, binary).known().keys() == both


def test_a_file_of_another_content_is_another_one(folder: Path, binary: Path) -> None:
    """Its owner can set its times and its size back, but not when it was changed last."""
    learned(folder, binary, 0x10)
    facts = binary.stat()
    time.sleep(0.02)
    binary.write_bytes(b"evil")
    os.utime(binary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert Run(folder, binary).known() == {}
    learned(folder, binary, 0x20, rule=OTHER)
    assert Run(folder, binary).known() == {(0x20, RETURN): value_of(OTHER)}
    assert names(folder) == sorted([name_of(b"code"), name_of(b"evil"), INDEX])


def test_a_file_that_was_changed_just_now_is_not_recognized(
    folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be changed again without another time. By its content its rules are stored."""
    monkeypatch.setattr(stored_rules, "_SETTLED_NS", HOUR_NS)
    learned(folder, binary, 0x10)
    assert Run(folder, binary).known() == {}
    monkeypatch.setattr(stored_rules, "_SETTLED_NS", -HOUR_NS)
    learned(folder, binary, 0x20)
    assert Run(folder, binary).known().keys() == {(0x10, RETURN), (0x20, RETURN)}


def test_a_file_that_changes_during_the_run_is_not_stored(folder: Path, binary: Path) -> None:
    run = Run(folder, binary)
    run.learn(0x10)
    time.sleep(0.02)
    binary.write_bytes(b"evil")
    run.end()
    assert not folder.exists()


def test_a_file_that_is_gone_is_not_stored(folder: Path, binary: Path, tmp_path: Path) -> None:
    run = Run(folder, tmp_path / "none")
    run.learn(0x10)
    run.end()
    run = Run(folder, binary)
    run.learn(0x10)
    binary.unlink()
    run.stored.store(run.rules, lambda file: b"\1" * 32)
    assert not folder.exists()


def test_a_file_whose_content_cannot_be_read(folder: Path, binary: Path) -> None:
    run = Run(folder, binary)
    run.learn(0x10)
    run.stored.store(run.rules, lambda file: b"")
    assert not folder.exists()


def test_only_content_that_is_needed_is_read(
    folder: Path, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    run = Run(folder, binary, other)
    run.known(2)
    run.learn(0x10)
    assert run.stored.unread(run.rules) == [1]
    monkeypatch.setattr(stored_rules, "_LARGEST", 3)
    assert run.stored.unread(run.rules) == []


# -- wrong ones --------------------------------------------------------------------------------


def test_rules_that_were_wrong_are_not_kept(folder: Path, binary: Path) -> None:
    """The file says otherwise: whatever was stored of it is no rule of it."""
    learned(folder, binary, 0x10, 0x20)
    run = Run(folder, binary)
    assert len(run.known()) == 2
    run.rules.compare(1, 0x10, exact=False, rule=OTHER)
    assert run.known() == {}
    run.learn(0x10, rule=OTHER)
    run.end()
    assert run.read == [1]
    assert Run(folder, binary).known() == {(0x10, RETURN): value_of(OTHER)}


def test_those_that_contradict_what_was_learned_are_not_kept(folder: Path, binary: Path) -> None:
    first, second = Run(folder, binary), Run(folder, binary)
    first.learn(0x10)
    first.learn(0x20)
    second.learn(0x10, rule=OTHER)
    first.end()
    second.end()
    assert Run(folder, binary).known() == {(0x10, RETURN): value_of(OTHER)}


def test_a_file_that_passes_for_another_leaves_that_one_s_alone(
    folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may report what it likes."""
    monkeypatch.setattr(StoredRules, "_identity", lambda self, file: (1, 2, 3, 4, 5))
    learned(folder, binary, 0x10)
    binary.write_bytes(b"evil")
    run = Run(folder, binary)
    assert run.known().keys() == {(0x10, RETURN)}
    run.learn(0x10, rule=OTHER)
    assert run.known() == {(0x10, RETURN): value_of(OTHER)}
    run.end()
    assert run.read == [1]
    assert Run(folder, binary).known() == {(0x10, RETURN): value_of(OTHER)}
    monkeypatch.setattr(StoredRules, "_identity", lambda self, file: (1, 2, 3, 4, 6))
    binary.write_bytes(b"code")
    learned(folder, binary, 0x30)
    assert Run(folder, binary).known().keys() == {(0x10, RETURN), (0x30, RETURN)}


# -- what lies in the cache --------------------------------------------------------------------


def plant(folder: Path, rows: list[tuple[int, int, int]]) -> None:
    """Offsets, values and kinds, as if we had written them."""
    data = stored_rules._version() + np.array(rows, stored_rules._RULE).tobytes()
    cache_files.write(folder, name_of(b"code"), data)


def test_what_is_no_rule_is_not_read(folder: Path, binary: Path) -> None:
    learned(folder, binary, 0x10)
    good = (0x20, value_of(RSP), RETURN)
    plant(folder, [good])
    assert Run(folder, binary).known() == {(0x20, RETURN): value_of(RSP)}
    for bad in (
        (1 << 63, value_of(RSP), RETURN),  # no offset in a file
        (0x30, value_of(RSP), 3),
        (0x30, value_of(RSP), 255),
        (0x30, 11 << 48, RETURN),  # no way to compute a CFA
        (0x30, (1 << 64) - 1, RETURN),
        (0x30, 2 << 32 | 1 << 48, RETURN),  # rbp above the CFA
        (0x30, 0xFFF1 << 32 | 1 << 48, RETURN),
        (0x3000, value_of(RSP), PAGE),
        (0x3010, value_of(BARE), PAGE),
    ):
        plant(folder, [good, bad])
        assert Run(folder, binary).known() == {}, bad


@pytest.mark.parametrize("which", [INDEX, name_of(b"code")])
def test_what_was_damaged_is_not_read(folder: Path, binary: Path, which: str) -> None:
    learned(folder, binary, 0x10)
    whole = (folder / which).read_bytes()
    for size in range(0, len(whole), 5):
        (folder / which).write_bytes(whole[:size])
        assert Run(folder, binary).known() == {}
    for data in (b"", b"\0", b"\0" * 100, stored_rules._version(), stored_rules._version() + b"x"):
        cache_files.write(folder, which, data)
        assert Run(folder, binary).known() == {}
    learned(folder, binary, 0x10)
    assert len(Run(folder, binary).known()) == 1


def test_another_version_s_are_not_read(
    folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(stored_rules, "_version", lambda: b"1" * 32)
        learned(folder, binary, 0x10)
    assert Run(folder, binary).known() == {}
    learned(folder, binary, 0x20)
    assert Run(folder, binary).known().keys() == {(0x20, RETURN)}


def test_no_more_than_so_many_are_stored(
    folder: Path, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run has learned itself goes first; of files, those used last stay."""
    monkeypatch.setattr(stored_rules, "_MOST_OF_ONE", 2)
    learned(folder, binary, 0x10, 0x20)
    learned(folder, binary, 0x30)
    assert list(Run(folder, binary).known()) == [(0x30, RETURN), (0x10, RETURN)]
    monkeypatch.setattr(stored_rules, "_MOST_FILES", 2)
    os.utime(folder / name_of(b"code"), (0, 0))
    for number in range(4):
        other = tmp_path / f"other {number}"
        other.write_bytes(other.name.encode())
        learned(folder, other, 0x10)
        os.utime(folder / name_of(other.name.encode()), (number, number))
    assert names(folder) == sorted([*(name_of(b"other %d" % at) for at in (2, 3)), INDEX])
    size = (folder / INDEX).stat().st_size
    learned(folder, other, 0x20)
    assert (folder / INDEX).stat().st_size == size


def test_those_in_use_are_not_old(folder: Path, binary: Path) -> None:
    learned(folder, binary, 0x10)
    os.utime(folder / name_of(b"code"), (1, 1))
    run = Run(folder, binary)
    run.known()
    run.end()
    assert (folder / name_of(b"code")).stat().st_mtime > 1
    run = Run(folder, binary)
    run.known()
    (folder / name_of(b"code")).unlink()
    run.end()
