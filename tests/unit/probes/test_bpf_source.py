"""bpf/pagefault.c and its parts as one text: whole, and each line known by its part."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.probes import compiler
from tracer.probes.bcc_check import installed_bcc
from tracer.probes.compiler import Build
from tracer.probes.source import MAIN, joined

ROOT = Path(__file__).parents[3]
BPF = ROOT / "bpf"


def test_every_part_is_in_it_once() -> None:
    text = joined(BPF)
    names = re.findall(r'^#line 1 "bpf/(.+\.h)"$|^#include "(.+)"$', text, re.MULTILINE)
    found = sorted(part or header for part, header in names)
    assert found == sorted(path.name for path in BPF.glob("*.h"))


def test_each_line_keeps_its_name_and_number(tmp_path: Path) -> None:
    (tmp_path / MAIN).write_text('int a;\n#include <x.h>\n#include "b.bpf.h"\nint d;\n')
    (tmp_path / "b.bpf.h").write_text("int b;\nint c;\n")
    assert joined(tmp_path).splitlines() == [
        *('#line 1 "bpf/pagefault.c"', "int a;", "#include <x.h>"),
        *('#line 1 "bpf/b.bpf.h"', "int b;", "int c;"),
        *('#line 4 "bpf/pagefault.c"', "int d;"),
    ]


def test_what_is_made_of_the_parts_is_in_the_cache_s_key(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(("-DPROBE_PERF",), 0)
    before = build.key(BPF, "bcc")
    assert build.key(BPF, "bcc") == before
    monkeypatch.setattr(compiler, "joined", lambda folder: "int other;")
    assert build.key(BPF, "bcc") != before


def test_a_missing_part_is_a_damaged_installation(tmp_path: Path) -> None:
    (tmp_path / MAIN).write_text('#include "b.bpf.h"\n')
    with pytest.raises(TraceError, match=r"b\.bpf\.h.*install pagefault-trace again"):
        joined(tmp_path)


def test_the_sources_are_utf_8_in_any_locale() -> None:
    """Python opens text by the locale, which may be one without our characters."""
    code = (
        "import locale, pathlib, sys\n"
        "from tracer.probes.source import joined\n"
        "from tracer.wire.records import load_layout\n"
        "assert locale.getpreferredencoding(False) != 'UTF-8'\n"
        "joined(pathlib.Path(sys.argv[1])), load_layout(pathlib.Path(sys.argv[1]))\n"
    )
    ascii_ = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    env = {**os.environ, **ascii_}
    subprocess.run([sys.executable, "-c", code, BPF], check=True, cwd=ROOT, env=env)


COMPILE = """
import sys
from pathlib import Path
from tracer.common.errors import TraceError
from tracer.probes.compiler import _OFFSETS, Build
flags = "-DPROBE_PERF", "-DLEVELS=4", *(f"-D{name}=0" for name in _OFFSETS)
try:
    Build(flags, 0).compile(Path(sys.argv[1]))
except TraceError as error:
    print(error.message)
"""


@pytest.mark.skipif(installed_bcc() is None, reason="bcc is not installed")
@pytest.mark.parametrize("name", ["ring.bpf.h", "hooks_lifecycle.bpf.h", "walk.h", MAIN])
def test_clang_names_the_part_and_the_line(tmp_path: Path, name: str) -> None:
    """Whatever part it is in, before or after others."""
    folder = tmp_path / "bpf"
    shutil.copytree(BPF, folder)
    lines = (folder / name).read_text().splitlines()
    # The first line that is no comment: nothing before it is wrong, whatever comes after.
    at = next(number for number, line in enumerate(lines) if line == " */") + 1
    lines.insert(at, "@")
    (folder / name).write_text("\n".join(lines))
    # A process of its own: clang stays in memory, and libbcc is told that there are no symbols.
    command = [sys.executable, "-c", COMPILE, str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert re.match(rf"(.*/)?bpf/{name}:{at + 1}:1: error: ", said), said
