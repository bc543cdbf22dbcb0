"""The demos' words and steps, in a pipe and on a terminal, and how they end."""

import mmap
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tracer.common.pages import PAGE_SIZE
from tracer.demos import multimap, pages, singlemap
from tracer.procfs.entries import PRESENT, open_pagemap, read_entries

SINGLE = r"""pid: (?P<pid>\d+)

Allocated new map: (?P<page>0x[0-9a-f]+)

Writing data to (?P=page)

"""
MULTI = (
    r"pid: (?P<pid>\d+)\n\n"
    + "".join(rf"Allocated page at (?P<p{i}>0x[0-9a-f]+)\n" for i in range(5))
    + r"\n"
    + "".join(rf"data written to (?P=p{i})\n\n" for i in range(5))
)
STEPS = {"singlemap": 3, "multimap": 7}


def start(name: str, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"tracer.demos.{name}", *arguments]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command,
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | options,
        text=True,
    )


@pytest.mark.parametrize(("name", "words"), [("singlemap", SINGLE), ("multimap", MULTI)])
def test_words_and_order(name: str, words: str) -> None:
    demo = start(name)
    output, errors = demo.communicate("\n" * STEPS[name])
    match = re.fullmatch(words, output)
    assert match is not None, output
    assert int(match["pid"]) == demo.pid
    assert (demo.returncode, errors) == (0, "")


@pytest.mark.parametrize(("name", "words"), [("singlemap", SINGLE), ("multimap", MULTI)])
def test_auto_says_the_same(capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    main = {"singlemap": singlemap.main, "multimap": multimap.main}[name]
    assert main(["--auto", "--interval", "0"]) == 0
    assert re.fullmatch(words, capsys.readouterr().out)


@pytest.mark.parametrize(("name", "words"), [("singlemap", SINGLE), ("multimap", MULTI)])
def test_a_terminal_shows_the_same(name: str, words: str) -> None:
    """The terminal's echo of Enter is the blank line there."""
    ours, theirs = pty.openpty()
    demo = start(name, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    for number in range(STEPS[name]):
        # One Enter for each step that was shown, as a person does.
        while not _step_shown(shown, number):
            shown += os.read(ours, 4096)
        os.write(ours, b"\n")
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # EIO: the other side has closed
        pass
    os.close(ours)
    assert demo.wait() == 0
    assert re.fullmatch(words, shown.decode().replace("\r\n", "\n")), shown


def _step_shown(shown: bytes, number: int) -> bool:
    """Whether the step after `number` Enters is there in full."""
    if number == 1 and b"Allocated page" in shown:
        return shown.count(b"Allocated page") == 5 and shown.endswith(b"\n")
    blocks = shown.replace(b"\r\n", b"\n").split(b"\n\n")
    return len(blocks) == number + 1 and blocks[-1].endswith(b"\n")


def test_number_of_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert multimap.main(["--auto", "--interval", "0", "--pages", "17"]) == 0
    output = capsys.readouterr().out
    allocated = re.findall(r"Allocated page at (\S+)", output)
    assert len(set(allocated)) == 17
    assert re.findall(r"data written to (\S+)", output) == allocated

    assert singlemap.main(["--auto", "--interval", "0", "--pages", "3"]) == 0
    output = capsys.readouterr().out
    (first,) = re.findall(r"Allocated new map: (\S+)", output)
    written = re.findall(r"Writing data to (\S+)", output)
    assert [int(address, 16) - int(first, 16) for address in written] == [
        0,
        PAGE_SIZE,
        2 * PAGE_SIZE,
    ]


@pytest.mark.parametrize("name", ["singlemap", "multimap"])
def test_end_of_input_ends_it(name: str) -> None:
    demo = start(name)
    output, errors = demo.communicate("\n")
    assert (demo.returncode, errors) == (0, "")
    assert "Allocated" in output
    assert "data" not in output


def test_closed_stdin_ends_it() -> None:
    code = "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "-m", "tracer.demos.singlemap"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--auto", "--interval", "1000"]])
def test_ctrl_c_is_quiet(arguments: list[str]) -> None:
    demo = start("multimap", *arguments)
    assert demo.stdout is not None
    assert demo.stdout.readline().startswith("pid: ")
    demo.send_signal(signal.SIGINT)
    demo.wait()
    assert demo.stderr is not None
    assert (demo.returncode, demo.stderr.read()) == (130, "")
    demo.communicate()


def test_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    demo = start("multimap", "--auto", stdout=write)
    os.close(write)
    _, errors = demo.communicate()
    assert (demo.returncode, errors) == (141, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pages", "0"],
        ["--pages", "x"],
        ["--pages", "-1"],
        ["--auto", "--interval", "-1"],
        ["--auto", "--interval", "nan"],
        ["--interval", "1"],
        ["extra"],
    ],
)
def test_bad_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        multimap.main(arguments)
    assert caught.value.code == 2
    assert "multimap: error: " in capsys.readouterr().err


def test_more_memory_than_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert singlemap.main(["--auto", "--interval", "0", "--pages", str(1 << 50)]) == 1
    assert capsys.readouterr().err.startswith("singlemap: cannot go on: ")


def entry_of(area: mmap.mmap) -> int:
    descriptor = open_pagemap(os.getpid())
    try:
        return read_entries(descriptor, os.getpid(), pages.address_of(area), 1)[0]
    finally:
        os.close(descriptor)


def test_a_page_is_there_only_once_touched() -> None:
    area = pages.allocate(1)
    assert not entry_of(area) & PRESENT
    pages.touch(area)
    assert entry_of(area) & PRESENT
    line = _smaps_of(area)
    assert "rwxp" in line
    assert re.search(r"^VmFlags:.*\bnh\b", line, re.MULTILINE)  # MADV_NOHUGEPAGE
    assert re.search(r"^Rss:\s+4 kB", line, re.MULTILINE) or PAGE_SIZE != 4096


def _smaps_of(area: mmap.mmap) -> str:
    with open("/proc/self/smaps") as file:
        text = file.read()
    match = re.search(rf"^{pages.address_of(area):x}-.*?^VmFlags[^\n]*", text, re.M | re.S)
    assert match is not None
    return match[0]


ONE_FAULT = """
import resource
from tracer.demos import pages
for _ in range(2):  # the first time round the interpreter faults for itself, too
    areas = [pages.allocate(1) for _ in range(101)]
    before = resource.getrusage(resource.RUSAGE_THREAD)
    for area in areas:
        pages.touch(area)
    after = resource.getrusage(resource.RUSAGE_THREAD)
print(after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt)
"""


def test_a_touch_is_one_fault() -> None:
    """In a process of its own: one that has forked takes faults of its own on what it shares."""
    done = subprocess.run([sys.executable, "-c", ONE_FAULT], capture_output=True, text=True)
    assert done.stdout == "101 0\n"


def test_little_is_imported() -> None:
    code = (
        "import sys; from tracer.demos import multimap; multimap.main(['--auto', '--interval=0']);"
        "print({'numpy', 'rich', 'click', 'bcc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
