"""ptdump's lines against the seed's, its choices, its watch, and its mistakes."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group
from rich.live import Live

from tracer.common.errors import Exit, TraceError
from tracer.common.pages import PAGE_SIZE
from tracer.procfs import stat
from tracer.procfs.entries import PRESENT, SWAPPED
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping
from tracer.ptdump import bulk, cli, dump, watch
from tracer.ptdump.dump import Choice, Dump, Row
from tracer.ptdump.screen import RichScreen
from tracer.ptdump.view import View, marked
from tracer.ptdump.watch import Gains

LD = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
HOME = "/home/vilr0i/Projects/repos/linux-experiments/demand_paging/singlemap"

# The seed's output, byte for byte.
SEED_HEADER = "virt addr              physical addr            size          perms        present        swapped       path"  # noqa: E501
SEED_LINES = f"""\
0x55d44a4f7000         0x226547000                4096        r--p         true           false         {HOME}
0x55d44a84f000         0x37c94c000              135168        rw-p         true           false         [heap]
0x7f348c547000         0x34d030000               12288        rw-p         true           false
0x7f348c570000         0x3bee76000             1396736        r-xp         true           false         /usr/lib/x86_64-linux-gnu/libc.so.6
0x7f348c6c5000                 0x0              339968        r--p        false           false         /usr/lib/x86_64-linux-gnu/libc.so.6
0x7f348c73e000         0x1f0a06000                4096        rwxp         true           false
0x7f348c741000         0x3bee36000                4096        r--p         true           false         {LD}
0x7ffde154e000                 0x0              135168        rw-p        false           false         [stack]
0x7ffde15f4000                 0x0               16384        r--p        false           false         [vvar]
0x7ffde15f8000         0x330a0b000                8192        r-xp         true           false         [vdso]
0x7f03141a2000                 0x0                4096        rwxp        false           false
0x7f03141a6000         0x28664d000                4096        rwxp         true           false
""".splitlines()  # noqa: E501
SEED_ROWS = [
    (0x55D44A4F7000, 0x226547000, 4096, "r--p", HOME),
    (0x55D44A84F000, 0x37C94C000, 135168, "rw-p", "[heap]"),
    (0x7F348C547000, 0x34D030000, 12288, "rw-p", ""),
    (0x7F348C570000, 0x3BEE76000, 1396736, "r-xp", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
    (0x7F348C6C5000, None, 339968, "r--p", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
    (0x7F348C73E000, 0x1F0A06000, 4096, "rwxp", ""),
    (0x7F348C741000, 0x3BEE36000, 4096, "r--p", LD),
    (0x7FFDE154E000, None, 135168, "rw-p", "[stack]"),
    (0x7FFDE15F4000, None, 16384, "r--p", "[vvar]"),
    (0x7FFDE15F8000, 0x330A0B000, 8192, "r-xp", "[vdso]"),
    (0x7F03141A2000, None, 4096, "rwxp", ""),
    (0x7F03141A6000, 0x28664D000, 4096, "rwxp", ""),
]


def row(
    address: int,
    frame: int | None = None,
    size: int = PAGE_SIZE,
    perms: str = "rwxp",
    path: str = "",
) -> Row:
    mapping = Mapping(address, address + size, perms, 0, 0, 0, path)
    return Row(mapping, address, 0 if frame is None else PRESENT | frame // PAGE_SIZE, size)


# --- the lines


def test_header_is_the_seeds() -> None:
    assert dump.HEADER == SEED_HEADER


@pytest.mark.parametrize(("values", "expected"), list(zip(SEED_ROWS, SEED_LINES, strict=True)))
def test_lines_are_the_seeds(values: tuple[int, int | None, int, str, str], expected: str) -> None:
    assert dump.line(row(*values), visible=True) == expected


def test_hidden_frames_are_called_so() -> None:
    shown = dump.line(row(0x7F03141A6000, 0), visible=False)
    assert shown.split() == ["0x7f03141a6000", "hidden", "4096", "rwxp", "true", "false"]
    assert shown.index("hidden") + len("hidden") == dump.FRAME_END
    absent = dump.line(row(0x7F03141A6000), visible=False)
    assert absent.split()[1] == "0x0"


def test_frame_zero_is_a_frame_where_frames_are_visible() -> None:
    assert dump.line(row(0x1000, 0), visible=True).split()[1:5] == ["0x0", "4096", "rwxp", "true"]


def test_swapped_page() -> None:
    mapping = Mapping(0x1000, 0x2000, "rw-p", 0, 0, 0, "")
    shown = dump.line(Row(mapping, 0x1000, SWAPPED | 0x1234, 4096), visible=True)
    assert shown.split() == ["0x1000", "0x0", "4096", "rw-p", "false", "true"]


def test_columns_hold_for_short_and_long_addresses() -> None:
    for address in (0x1000, 0x400000, 0x7F03141A6000, 0xFFFFFFFFFF600000):
        shown = dump.line(row(address, 0xFFFFFFFFFF000), visible=True)
        assert shown.startswith(f"{address:#x} ")
        assert shown[: dump.FRAME_END].endswith(" 0xffffffffff000")
        assert shown[dump.FRAME_END :] == SEED_LINES[-1][dump.FRAME_END :]


def test_hostile_path_cannot_reach_the_terminal() -> None:
    shown = dump.line(row(0x1000, path="/tmp/\x1b[31m\udcff\u202e"), visible=True)
    assert shown.endswith("/tmp/\\x1b[31m\\xff\\u202e")


ENTRY = st.builds(
    lambda state, pfn, other: state << 62 | other << 55 | (pfn if state else 0),
    st.integers(0, 3),
    st.one_of(st.integers(0, (1 << 40) - 1), st.integers(0, 1 << 20), st.integers(0, 20)),
    st.integers(0, 127),
)
STARTS = st.one_of(
    st.integers(0, 1 << 20),
    *(st.integers((1 << bits) - 30, 1 << bits) for bits in (12, 16, 20, 32)),
    st.just(0xFFFFFFFFFF600),
)


@given(
    snapshots=st.lists(st.tuples(STARTS, st.lists(ENTRY, min_size=1, max_size=40)), min_size=1),
    path=st.sampled_from(["", "[heap]", "/tmp/é", "/tmp/\udcff\x1b[2J\u202e"]),
    visible=st.booleans(),
    encoding=st.sampled_from(["utf-8", "ascii", "latin-1"]),
)
def test_bulk_lines_are_the_same_lines(
    snapshots: list[tuple[int, list[int]]], path: str, visible: bool, encoding: str
) -> None:
    """One matrix serves many ranges of pages, one after the other."""
    named = Mapping(0, 1 << 64, "rw-p", 0, 0, 0, path)
    lines = bulk.Lines(named, visible, DIGITS, encoding, "backslashreplace")
    for start, entries in snapshots:
        entries = entries[: 4096 - start % 4096]
        first = start * PAGE_SIZE
        few = dump.Endings().lines(named, first, entries, visible)
        raw = few.encode(encoding, "backslashreplace")
        if start >= 4096:
            assert bytes(lines.of(first, np.array(entries, np.uint64))) == raw
        assert few.splitlines() == [
            dump.line(Row(named, first + index * PAGE_SIZE, entry, PAGE_SIZE), visible)
            for index, entry in enumerate(entries)
        ]


DIGITS = bulk.Digits()


# --- choosing regions

MAPPINGS = [
    Mapping(0x1000, 0x4000, "r-xp", 0, 1, 1, "/usr/lib/libc.so.6"),
    Mapping(0x4000, 0x5000, "rw-p", 0, 0, 0, "[heap]"),
    Mapping(0x6000, 0x9000, "rwxp", 0, 0, 0, ""),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[heap]", [1]),
        ("[anon]", [2]),
        ("libc.so.6", [0]),
        ("/usr/lib/libc.so.6", [0]),
        ("libc", [0]),
        ("0x4000", [1]),
        ("0x3fff", [0]),
        ("0x5000", []),
        ("0x3000-0x7000", [0, 1, 2]),
        ("5000-6001", [2]),
        ("nothing", []),
    ],
)
def test_regions_by_name_address_and_range(text: str, expected: list[int]) -> None:
    choice = dump.parse_choice(text)
    assert dump.chosen(MAPPINGS, choice, False) == [MAPPINGS[index] for index in expected]


def test_pages_of_a_range_only() -> None:
    selected = dump.chosen(MAPPINGS, dump.parse_choice("0x3001-0x6001"), True)
    assert [(mapping.start, mapping.end) for mapping in selected] == [
        (0x3000, 0x4000),
        (0x4000, 0x5000),
        (0x6000, 0x7000),
    ]
    assert dump.chosen(MAPPINGS, dump.parse_choice("0x3001"), True) == [MAPPINGS[0]]


@pytest.mark.parametrize("text", ["", "0xzz", "5000-4000", "0x1000-0x1000", "0x"])
def test_nonsense_regions(text: str) -> None:
    with pytest.raises(TraceError) as caught:
        dump.parse_choice(text)
    assert caught.value.code is Exit.USAGE


# --- watching


def test_gains_are_pages_that_have_a_frame_they_did_not_have() -> None:
    gains = Gains(1.0)
    first = [row(0x1000, 0xA000), row(0x2000), row(0x3000, 0xC000)]
    assert gains.update(first, 0.0) == set()
    second = [row(0x1000, 0xB000), row(0x2000, 0xD000), row(0x3000, 0xC000), row(0x4000, 0xE000)]
    assert gains.update(second, 0.5) == {0x1000, 0x2000, 0x4000}
    assert gains.update(second, 1.4) == {0x1000, 0x2000, 0x4000}
    assert gains.update(second[1:], 1.4) == {0x2000, 0x4000}
    assert gains.update(second, 1.6) == {0x1000}
    assert gains.update([row(0x1000)], 1.7) == set()


def test_gains_ignore_other_bits() -> None:
    gains = Gains(1.0)
    page = row(0x1000, 0xA000)
    gains.update([page], 0.0)
    assert gains.update([page._replace(entry=page.entry | 1 << 56)], 0.1) == set()


@given(st.integers(0, 50), st.integers(1, 20), st.lists(st.one_of(st.none(), st.integers(0, 49))))
def test_view_always_shows_the_latest_gain(
    count: int, height: int, latest: list[int | None]
) -> None:
    view = View()
    for index in latest:
        if index is not None and index >= count:
            continue
        window = view.window(count, height, index)
        assert len(window) == min(count, height)
        assert index is None or index in window


def test_mark_does_not_move_the_columns() -> None:
    gained = row(0x7F03141A6000, 0x28664D000)
    plain, shown = dump.line(gained, True), marked(gained, True, True)
    assert shown == plain[:15] + "+" + plain[16:]
    assert marked(gained, True, False) == plain


class FakeDump:
    """A dump whose snapshots are given beforehand; then the process is gone."""

    pid, visible, each_page, choice = 7, True, True, None

    def __init__(self, snapshots: Sequence[list[Row]]) -> None:
        self._snapshots = iter(snapshots)
        self._rows: list[Row] = []

    def open(self) -> "FakeDump":
        try:
            self._rows = next(self._snapshots)
        except StopIteration:
            raise ProcessGone(7) from None
        return self

    def rows(self) -> list[Row]:
        return self._rows

    def __enter__(self) -> "FakeDump":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def as_dump(fake: FakeDump) -> Dump:
    return fake  # type: ignore[return-value]


def test_watch_in_a_pipe_marks_gains(capsys: pytest.CaptureFixture[str]) -> None:
    snapshots = [[row(0x1000), row(0x2000)], [row(0x1000), row(0x2000, 0xA000)]]
    slept: list[float] = []
    before = signal.getsignal(signal.SIGTERM)
    watch.watch(as_dump(FakeDump(snapshots)), 0.25, lambda: 0.0, slept.append)
    output = capsys.readouterr()
    first, second = output.out.split("\n\n")
    assert first.splitlines() == [SEED_HEADER, *(dump.line(r, True) for r in snapshots[0])]
    assert second.splitlines()[2] == marked(snapshots[1][1], True, True)
    assert second.splitlines()[2].split()[1] == "+"
    assert slept == [0.25, 0.25]
    assert output.err == "ptdump: process 7 has ended\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_ends_the_watch(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    watch.watch(as_dump(FakeDump([[row(0x1000)]])), 0.25, lambda: 0.0, interrupt)
    assert capsys.readouterr().err == ""


def picture(colour: bool, height: int, snapshots: list[list[Row]]) -> Console:
    console = Console(
        file=io.StringIO(),
        width=100,
        height=height,
        force_terminal=True,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    screen = RichScreen(console, Live(console=console, auto_refresh=False))
    gains = Gains(1.0)
    for number, rows in enumerate(snapshots):
        text = screen.picture(as_dump(FakeDump([])), rows, gains.update(rows, number * 0.1))
    console.print(Group(text))  # as Live does: not joined with other text
    return console


def test_screen_highlights_and_scrolls_to_the_gain() -> None:
    snapshots = [[row(page << 12) for page in range(1, 100)] for _ in range(2)]
    snapshots[1][70] = row(71 << 12, 0xA000)
    for colour in (True, False):
        shown = picture(colour, 12, snapshots).file.getvalue()  # type: ignore[attr-defined]
        assert len(shown.splitlines()) == 12
        (line,) = [line for line in shown.splitlines() if "0xa000" in line]
        assert ("\x1b[1;30;42m" in line) is colour
        assert (" + " in line) is not colour
        assert "66-75 of 99; select with --region" in shown


def test_screen_of_nothing() -> None:
    shown = picture(False, 12, [[]]).file.getvalue()  # type: ignore[attr-defined]
    assert shown.rstrip() == SEED_HEADER[:100].rstrip()


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ([], Exit.USAGE, "no PID given"),
        (["abc"], Exit.USAGE, "not a process id: 'abc'"),
        (["-5"], Exit.USAGE, "not a process id: '-5'"),
        (["\x1b[31m1"], Exit.USAGE, "\\x1b"),
        (["1", "2"], Exit.USAGE, "unrecognized"),
        (["--wat", "1", "--bogus"], Exit.USAGE, "--bogus"),
        (["999999999"], Exit.NO_TARGET, "no such process: 999999999"),
        (["0"], Exit.NO_TARGET, "no such process: 0"),
        (["9" * 5000], Exit.NO_TARGET, "no such process"),
        ([str(os.getpid()), "--region", "5-4"], Exit.USAGE, "empty region"),
        ([str(os.getpid()), "--region", "/no/such"], Exit.USAGE, "no region '/no/such'"),
        ([str(os.getpid()), "--watch", "0"], Exit.USAGE, "not a number of seconds"),
        ([str(os.getpid()), "--watch", "x"], Exit.USAGE, "not a number of seconds"),
        (["--watch", "999999999"], Exit.NO_TARGET, "no such process"),
    ],
)
def test_mistakes_take_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: Exit, word: str
) -> None:
    assert cli.main(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("ptdump: ")
    assert output.err.count("\n") == 1
    assert word in output.err


def test_kernel_thread(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stat, "is_kernel_thread", lambda pid: True)
    assert cli.main([str(os.getpid())]) == Exit.NO_TARGET
    assert "is a kernel thread" in capsys.readouterr().err


def test_zombie(capsys: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        assert cli.main([str(child)]) == Exit.NO_TARGET
        assert "has ended" in capsys.readouterr().err
    finally:
        os.waitpid(child, 0)


def test_too_many_pages_to_watch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_WATCH_PAGES", 10)
    assert cli.main(["-g", "--watch", "1", str(os.getpid())]) == Exit.USAGE
    assert "select some with --region" in capsys.readouterr().err


@pytest.mark.parametrize("visible", [True, False])
def test_own_dump(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, visible: bool
) -> None:
    monkeypatch.setattr(cli, "frames_visible", lambda: visible)
    assert cli.main([str(os.getpid()), "--region", "[stack]"]) == 0
    output = capsys.readouterr()
    header, stack = output.out.splitlines()
    assert header == SEED_HEADER
    assert stack.endswith("         [stack]")
    assert ("sudo" in output.err) is not visible


def run_ptdump(
    code: str, arguments: Sequence[str], stdout: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


RUN = "import sys; from tracer.ptdump.cli import main; sys.exit(main())"


def test_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run_ptdump(RUN, ["-g", str(os.getpid())], write)
    os.close(write)
    assert (done.returncode, done.stderr.replace(HINT, "")) == (141, "")


HINT = (
    "ptdump: the kernel hides physical addresses without CAP_SYS_ADMIN; "
    "run it as root, for example with sudo\n"
)


def test_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = run_ptdump(RUN, [str(os.getpid())], full)
    os.close(full)
    assert done.returncode == Exit.OUTPUT
    assert done.stderr == "ptdump: cannot write: No space left on device\n"


def test_closed_stdout() -> None:
    code = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = run_ptdump(code, ["-c", RUN, str(os.getpid())], subprocess.PIPE)
    assert done.returncode == Exit.OUTPUT
    assert done.stderr == "ptdump: stdout is closed; give it somewhere to write\n"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from tracer.ptdump.cli import main; main(); main(['-g', *sys.argv[1:]]); "
        "print({'numpy', 'rich', 'click', 'bcc', 'ctypes'} & set(sys.modules))"
    )
    done = run_ptdump(code, [str(os.getpid()), "--region", "[stack]"], subprocess.PIPE)
    assert done.stdout.splitlines()[-1] == "set()"


def test_names_the_terminal_cannot_show() -> None:
    code = (
        "import sys; from tracer.ptdump import cli, dump; from tracer.procfs.maps import Mapping\n"
        "dump.read_maps = lambda *_: [Mapping(0x1000, 0x2000, 'r--p', 0, 0, 0, '/tmp/\\xe9')]\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout.splitlines()[-1].endswith("/tmp/\\xe9")


def test_choice_is_a_plain_value() -> None:
    assert dump.parse_choice("[heap]") == Choice("[heap]", name="[heap]")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    parse: Callable[[list[str]], int] = cli.main
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("-g", "--region", "--watch", "PID", "hidden"))
