"""The table of --check: laid out, judged, and readable without any right."""

from pathlib import Path

import pytest

from tracer.app import check
from tracer.app.check import Line, Tried
from tracer.common.errors import Exit
from tracer.probes.order import PROBES
from tracer.procfs import hugepages, rights
from tracer.procfs.rights import has_capability, in_initial_user_namespace

GROUPS = [
    ("one", [Line("short", "yes", "held"), Line("a long name", "no", "word " * 20, "do this")]),
    ("two", [Line("neither", "", "not needed")]),
]


def text(width: int) -> list[str]:
    return [line.plain for line in check.render(GROUPS, "The end. " * 12, width)]


def test_in_a_pipe_each_answer_is_a_line() -> None:
    lines = text(0)
    assert lines[2:5] == [
        "one",
        "  short        yes   held",
        "  a long name  no    " + ("word " * 20),
    ]
    assert lines[5] == "                     → do this"
    assert lines[8] == "  neither      -     not needed"


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminals_width_is_kept(width: int) -> None:
    lines = text(width)
    assert max(map(len, lines[1:])) <= width
    assert len(lines) > len(text(0))
    wrapped = [line for line in lines if line.lstrip().startswith("word")]
    assert all(line.startswith(" " * 21) for line in wrapped)


def judged(monkeypatch: pytest.MonkeyPatch, inexact: str, **refusals: str) -> str:
    monkeypatch.setattr(PROBES["fentry"], "inexact", lambda: inexact)
    names = ("fentry", "kprobe", "perf")
    return check.verdict({name: Tried(refusals.get(name, "")) for name in names})


def test_the_verdict_is_autos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact before cheap, as tracer.probes.choose has it."""
    assert "selects fentry, the cheapest, and exact here" in judged(monkeypatch, "")
    assert "selects kprobe: fentry would miss faults" in judged(monkeypatch, "preempted")
    only = judged(monkeypatch, "preempted", kprobe="no", perf="no")
    assert "selects fentry" in only
    third = judged(monkeypatch, "", fentry="no", kprobe="no")
    assert "selects perf: fentry does not work, kprobe does not work" in third
    assert "nothing can be traced" in judged(monkeypatch, "", fentry="a", kprobe="b", perf="c")


def test_without_rights_every_line_has_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rights, "has_capability", lambda number: False)
    monkeypatch.setattr(rights, "capabilities", lambda: 0)
    assert check.check() == Exit.NO_PROBE
    said = capfd.readouterr().out
    for line in said.splitlines():
        if line.startswith("  ") and line.strip():
            assert len(line.split()) >= 2
    assert said.count("not tried: needs root") == 3
    assert said.count("→ run it with sudo") >= 4


def test_huge_page_settings(tmp_path: Path) -> None:
    """A size that inherits has the general setting."""

    def setting(name: str, words: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(words + "\n")

    setting("enabled", "always [madvise] never")
    setting("hugepages-2048kB/enabled", "always [inherit] madvise never")
    setting("hugepages-64kB/enabled", "[always] inherit madvise never")
    setting("hugepages-16kB/enabled", "always inherit madvise [never]")
    assert hugepages.transparent(tmp_path) == "madvise"
    assert hugepages.transparent_shmem(tmp_path) == ""
    assert hugepages.folio_sizes(tmp_path) == {64: "always", 2048: "madvise"}
    setting("enabled", "always madvise [never]")
    assert hugepages.folio_sizes(tmp_path) == {64: "always"}
    assert hugepages.folio_sizes(tmp_path / "none") == {}


def test_reserved_huge_pages(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("HugePages_Total:       3\nHugepagesize:       2048 kB\n")
    assert hugepages.reserved(tmp_path / "meminfo") == (3, 2048)
    assert hugepages.reserved(tmp_path / "none") == (0, 0)


def test_rights_are_read() -> None:
    assert not has_capability(63)
    assert isinstance(in_initial_user_namespace(), bool)
