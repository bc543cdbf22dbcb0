"""The process that reads targets' files: what it may do, and what becomes of it."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.callstacks.test_symbols import FULL, SYMTAB, make_elf
from tests.unit.opened import opener
from tracer.symbolizing import helper as helper_module
from tracer.symbolizing.helper import MOST_DEATHS, Helper, Question
from tracer.symbolizing.lookup import Lookup
from tracer.symbolizing.perf_maps import PerfMaps

LONG_S = 60.0  # nobody waits that long


@pytest.fixture
def helper() -> Iterator[Helper]:
    made = Helper()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two files, 1 and 2."""
    for number in (1, 2):
        (tmp_path / str(number)).write_bytes(make_elf((SYMTAB, FULL)))
    return tmp_path


def opening(folder: Path) -> Callable[[int], int]:
    return lambda number: opener(folder / str(number))()


def pid_of(helper: Helper) -> int:
    assert helper._process is not None
    return helper._process.pid


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def function(lookup: Lookup, file: int, offset: int = 0x1108) -> tuple[str, int] | None:
    """What is known of an offset in a file, however long it takes."""
    lookup.function(file, offset)
    assert lookup.wait(LONG_S)
    return lookup.function(file, offset)


def test_it_answers_and_has_no_rights(helper: Helper, folder: Path) -> None:
    secret = os.open(folder / "1", os.O_RDONLY)
    os.set_inheritable(secret, True)  # what our caller left open
    try:
        lookup = Lookup(helper, opening(folder))
        assert function(lookup, 1) == ("first", 8)
        assert len(lookup.build_id(1)) == 40
        assert lookup.rule(1, 0x1108) is None
        pid = pid_of(helper)
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    finally:
        os.close(secret)
    files = {name for name in held if not name.startswith("socket:")}
    assert files == {"/dev/null", str(folder / "1")}  # the latter is what it was given
    assert len(held) == len(files) + 1
    status = status_of(pid)
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
        assert status["Groups"] == ""
        assert os.readlink(f"/proc/{pid}/root").endswith(" (deleted)")  # an empty folder
    limits = Path(f"/proc/{pid}/limits").read_text()
    for limit in ("Max file size", "Max core file size", "Max processes"):
        (line,) = (line for line in limits.splitlines() if line.startswith(limit))
        assert line.split()[3 if limit != "Max core file size" else 4] == "0"
    assert "OPENBLAS_NUM_THREADS" in Path(f"/proc/{pid}/environ").read_text()
    assert "PYTHONPATH" not in Path(f"/proc/{pid}/environ").read_text()
    helper.close()
    assert not Path(f"/proc/{pid}").exists()


def test_the_tracer_reads_no_file_itself() -> None:
    """What names code in the tracer's process has no parser in it."""
    code = (
        "import sys, tracer.app.sinks, tracer.session.session;"
        "import tracer.callstacks.naming, tracer.callstacks.source_lines;"
        "sys.exit(any(name in sys.modules for name in"
        " ('tracer.symbolizing.elf', 'tracer.symbolizing.unwind',"
        " 'tracer.symbolizing.perf_map', 'symbolic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_it_dies_of_is_not_tried_again(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 2) == ("first", 8)
    os.kill(pid_of(helper), signal.SIGSTOP)
    lookup.function(1, 0x1108)
    lookup.function(2, 0x1208)  # waits behind it
    os.kill(pid_of(helper), signal.SIGKILL)
    assert lookup.wait(LONG_S)
    assert lookup.function(1, 0x1108) is None
    assert lookup.failed == {1: "the process that reads it was killed by SIGKILL"}
    assert function(lookup, 2, 0x1208) == ("alias", 8)
    assert helper.started == 2
    assert function(lookup, 1, 0x1118) is None
    assert helper.started == 2


def test_processor_time_is_bounded(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 2) == ("first", 8)
    limits = Path(f"/proc/{pid_of(helper)}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max cpu time"))
    assert 10 <= int(line.split()[3]) <= 12
    os.kill(pid_of(helper), signal.SIGSTOP)
    lookup.function(1, 0x1108)
    os.kill(pid_of(helper), signal.SIGXCPU)
    os.kill(pid_of(helper), signal.SIGCONT)
    assert lookup.wait(LONG_S)
    # It may have answered before the signal came.
    assert lookup.failed in ({1: "it took more than 10 s of processor time"}, {})


def test_nobody_waits_for_one_that_does_not_answer(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 2) == ("first", 8)
    os.kill(pid_of(helper), signal.SIGSTOP)
    lookup.ask("functions", 1, [0x1108])
    assert not lookup.wait(0.05)
    helper._deadline = 0.0  # as if its time were over
    assert lookup.wait(LONG_S)
    assert lookup.failed == {1: "it took too long"}
    assert function(lookup, 2, 0x1208) == ("alias", 8)


def test_a_file_takes_so_much_time_in_all(
    helper: Helper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 40)
    monkeypatch.setattr(helper_module, "_processor_time", lambda pid: next(clock))
    lookup = Lookup(helper, opening(folder))
    next(clock)
    assert function(lookup, 1) is None  # its build ID took 40 s
    assert lookup.failed == {1: "it took more than 30 s of processor time"}
    monkeypatch.setattr(helper_module, "MOST_IN_ALL_S", 0.0)
    assert function(lookup, 2) is None
    assert "all files" in lookup.failed[2]


def test_processor_time_is_the_kernel_s() -> None:
    began = helper_module._processor_time(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert 0.03 <= helper_module._processor_time(os.getpid()) - began <= 1
    assert helper_module._processor_time(1 << 30) == 0


def test_without_a_descriptor_the_processor_time_is_not_known() -> None:
    """The tracer runs on: it asks after every answer."""
    code = (
        "import os, resource\n"
        "from tracer.symbolizing import helper\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "assert helper._processor_time(os.getpid()) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_given_up_in_the_end(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    for number in range(10, 10 + MOST_DEATHS):
        (folder / str(number)).write_bytes(b"")
        assert function(lookup, 2, 0x1000 + number) is None
        os.kill(pid_of(helper), signal.SIGSTOP)
        lookup.function(number, 0)
        os.kill(pid_of(helper), signal.SIGKILL)
        assert lookup.wait(LONG_S)
    assert function(lookup, 1) is None
    assert f"ended {MOST_DEATHS} times" in lookup.failed[1]
    assert helper.started == MOST_DEATHS


def test_where_there_is_none(helper: Helper, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 1) is None
    assert "status 1" in lookup.failed[1]
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    other = Helper()
    assert function(Lookup(other, opening(folder)), 1) is None


GOOD = '{"texts":["first"],"found":[[0,8]]}'
ANSWERS = [
    *("null", "7", "[]", "{}", '{"answer":7}', '{"answer":[1]}', '{"answer":{}}'),
    *(f'{{"answer":{each}}}' for each in (
        '{"texts":7,"found":[[0,8]]}', '{"texts":["f"],"found":7}', '{"texts":[8],"found":[[0,8]]}',
        '{"texts":["f"],"found":[[1,8]]}', '{"texts":["f"],"found":[[0,"8"]]}',
        '{"texts":["f"],"found":[[0,1e400]]}', '{"texts":["f"],"found":[[0,8],[0,9]]}',
        '{"texts":["f"],"found":[[0,' + "9" * 400 + "]]}", '{"texts":["f"],"found":[0]}',
        '{"texts":["f"],"found":[[]]}', '{"texts":["f"],"found":["f"]}', "NaN", "Infinity",
    )),
    *("{" * 100, "[" * 100_000, "\xff", f'{{"answer":{GOOD}}}' * 2),
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=[str(at) for at in range(len(ANSWERS))])
def test_what_it_answers_is_not_believed(
    helper: Helper, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """A file may have taken it over: then there are no names, and nothing else."""
    code = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]));"
        "pack = lambda text: len(text).to_bytes(4, 'little') + text.encode('latin-1');"
        's.sendall(pack(\'{"lacking":""}\')); s.recv(1 << 16);'
        's.sendall(pack(\'{"answer":""}\')); s.recv(1 << 16);'
        f"s.sendall(pack({answer!r})); s.recv(1 << 16)"
    )
    monkeypatch.setattr(helper_module, "_START", code)
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 1) is None
    assert 1 in lookup.failed


@pytest.mark.parametrize("length", [0, 1 << 26, (1 << 32) - 1])
def test_nor_is_how_long_it_says_that_it_is(
    helper: Helper, folder: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    code = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]));"
        f"s.sendall(({length}).to_bytes(4, 'little')); s.recv(1 << 16)"
    )
    monkeypatch.setattr(helper_module, "_START", code)
    monkeypatch.setattr(helper_module, "_SLACK_S", 0.5)
    assert function(Lookup(helper, opening(folder)), 1) is None


def test_it_ends_with_the_tracer(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from tracer.symbolizing.helper import Helper; helper = Helper();"
        "helper.start(); helper.ready(time.monotonic() + 60);"
        "print(helper._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    until = time.monotonic() + LONG_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_a_perf_map_of_half_a_million_functions_takes_little(helper: Helper) -> None:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    line = "{:x} 10 a function with a name of forty characters\n"
    path.write_text("".join(line.format(at) for at in range(1 << 12, 1 << 23, 16)))
    try:
        maps = PerfMaps(helper)
        maps.at(os.getpid(), 0x1004)
        assert helper.turn(time.monotonic() + LONG_S)
        found = maps.at(os.getpid(), 0x1004)
        assert path.stat().st_size > 25 << 20
    finally:
        path.unlink()
    assert found == ("a function with a name of forty characters", 4)
    peak = int(status_of(pid_of(helper))["VmHWM"].split()[0])
    assert peak < 250 << 10  # KiB


def test_perf_maps_that_take_too_much_are_given_up(helper: Helper) -> None:
    """One of 1 GiB is not read; one that is a single line is read as it is, and has no name."""
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    path.write_bytes(b"x" * (32 << 20))
    try:
        maps = PerfMaps(helper)
        assert maps.at(os.getpid(), 0x1004) is None
        assert helper.turn(time.monotonic() + LONG_S)
        assert maps.failed == {}
        with path.open("ab") as file:
            file.truncate(1 << 30)
        maps.hurry()
        assert maps.at(os.getpid(), 0x1004) is None
        assert helper.turn(time.monotonic() + LONG_S)
        maps.close()
    finally:
        path.unlink()
    assert maps.failed == {os.getpid(): "it is too large"}
    assert helper.started == 1
    peak = int(status_of(pid_of(helper))["VmHWM"].split()[0])
    assert peak < 150 << 10  # KiB


def test_names_without_end_take_little(helper: Helper, folder: Path) -> None:
    """One name that is that of all code of a file, or as many that are as long."""
    long = "\udcff" * 4000
    many = [(f"{at}" + long, 0x12, 0x401000 + at, 1) for at in range(512)]
    (folder / "1").write_bytes(make_elf((SYMTAB, [(long, 0x12, 0x401000, 0x1000)])))
    (folder / "2").write_bytes(make_elf((SYMTAB, many)))
    lookup = Lookup(helper, opening(folder))
    for file in (1, 2):
        lookup.ask("functions", file, range(0x1000, 0x2000))
        assert lookup.wait(LONG_S)
    assert lookup.failed == {}
    whole = {id(found[0]) for at in range(0x1000, 0x2000) if (found := lookup.function(1, at))}
    assert len(whole) == 1
    names = [found[0] for at in range(0x1000, 0x2000) if (found := lookup.function(2, at))]
    assert len(names) == 512
    assert sum(map(len, names)) < 1 << 20


def test_asked_when_it_is_over_it_does_not_start_again(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 1) == ("first", 8)
    helper.close()
    assert lookup.function(2, 0x1108) is None
    assert helper.started == 1
    assert lookup.failed == {}


def test_its_end_is_reported_whatever_it_was(helper: Helper, folder: Path) -> None:
    lookup = Lookup(helper, opening(folder))
    assert function(lookup, 2) == ("first", 8)
    os.kill(pid_of(helper), signal.SIGSTOP)
    lookup.function(1, 0x1108)
    os.kill(pid_of(helper), 40)  # which has no name
    os.kill(pid_of(helper), signal.SIGCONT)
    assert lookup.wait(LONG_S)
    assert lookup.failed in ({1: "the process that reads it was killed by signal 40"}, {})


def test_descriptors_that_run_out_cost_no_names(folder: Path) -> None:
    """Of more files than may be open: those used last are, the others are handed over again."""
    for number in range(10, 70):
        (folder / str(number)).write_bytes(make_elf((SYMTAB, FULL)))
    code = f"""
import os, resource, sys, time
sys.path[:0] = [{str(Path(__file__).parents[3])!r}]
from tests.unit.opened import opener
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from tracer.symbolizing.helper import Helper
from tracer.symbolizing.lookup import Lookup
helper = Helper()
lookup = Lookup(helper, lambda number: opener(f"{folder}/{{number}}")())
for again in (0x1108, 0x1208):
    for number in range(10, 70):
        lookup.ask("functions", number, [again])
        lookup.ask("rules", number, [again])
    assert lookup.wait({LONG_S})
    assert all(lookup.function(number, again) for number in range(10, 70))
assert not lookup.failed
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mangled_names_one_of_which_kills_it(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are demangled all the same."""
    lookup = Lookup(helper)
    lookup.ask_names(["_Z1fi"])
    assert lookup.wait(LONG_S)
    assert lookup.demangled("_Z1fi") == "f(int)"
    start = helper_module._START.replace(
        "import main; main()",
        "import main; import tracer.symbolizing.server as s; old = s._demangled;"
        "s._demangled = lambda lib, name: sys.exit(9) if 'evil' in name else old(lib, name);"
        "main()",
    )
    monkeypatch.setattr(helper_module, "_START", start)
    os.kill(pid_of(helper), signal.SIGKILL)
    lookup.ask_names([f"_Z1{chr(97 + at)}i" for at in range(6)] + ["_Z4evili"])
    assert lookup.wait(LONG_S)
    assert [lookup.demangled(f"_Z1{chr(97 + at)}i") for at in range(6)] == [
        f"{chr(97 + at)}(int)" for at in range(6)
    ]
    assert lookup.demangled("_Z4evili") == ""


def test_urgent_questions_go_first(helper: Helper) -> None:
    """In their own order; and the answers of others may be behind them."""
    asked: list[str] = []

    def question(about: str, *, urgent: bool = False) -> Question:
        def make(started: int) -> None:
            asked.append(about)  # it turns out that there is nothing to ask

        return Question(about, make, lambda answer, why: None, urgent=urgent)

    helper._pumping = True  # as while an answer is received
    for about, urgent in (("a", False), ("b", True), ("c", False), ("d", True)):
        helper.ask(question(about, urgent=urgent))
    helper._pumping = False
    assert helper.turn(time.monotonic() + LONG_S)
    assert asked == ["b", "d", "a", "c"]


def test_urgent_questions_are_given_up_and_dropped_as_others(helper: Helper) -> None:
    answers: list[tuple[str, str]] = []

    def question(about: str, *, urgent: bool) -> Question:
        return Question(
            about, lambda _: None, lambda answer, why: answers.append((about, why)), urgent=urgent
        )

    helper._pumping = True
    helper.ask(question("a", urgent=False))
    helper.ask(question("b", urgent=True))
    helper._give_up("over")
    assert answers == [("b", "over"), ("a", "over")]
    helper.ask(question("c", urgent=True))
    assert answers[2:] == [("c", "over")]
    other = Helper()
    other._pumping = True
    other.ask(question("d", urgent=True))
    other.close()
    assert other.turn(time.monotonic() + LONG_S)
    assert len(answers) == 3
