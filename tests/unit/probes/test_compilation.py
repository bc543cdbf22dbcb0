"""The compiling process: what it hands over, how it ends, what is reported when it dies."""

import json
import os
import signal
import struct
import sys
from pathlib import Path

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.probes import bpf, compilation
from tracer.probes.compilation import Compilation
from tracer.probes.compiled import Answer, Function, MapSpec, decode, encode
from tracer.probes.compiler import _uses


def pretend(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let the process run `script` instead of compiling."""
    monkeypatch.setattr(compilation, "_START", script)


def test_an_answer_survives_the_way() -> None:
    answer = Answer(
        "0.26",
        "/usr/lib/bcc",
        "perf",
        ["fentry: refused"],
        [MapSpec("targets", 1, 4, 16, 65536, 0)],
        [Function("raw_tracepoint__x", bytes(range(256)), [(0, "targets")])],
        {"handle_mm_fault": 7},
        {"compile": 1.5},
    )
    assert decode(json.loads(encode(answer))) == answer


def test_descriptors_are_found_and_put_in() -> None:
    """BPF_LD_IMM64 with BPF_PSEUDO_MAP_FD takes two instructions; others stay as they are."""
    plain = struct.pack("<BBhi", 0xB7, 0, 0, 11)
    load = struct.pack("<BBhi", 0x18, 0x11, 0, 11) + bytes(8)
    number = struct.pack("<BBhi", 0x18, 0x01, 0, 11) + bytes(8)  # a plain 64-bit constant
    code = plain + load + number
    assert list(_uses(code, {11: "events"})) == [(1, "events")]
    patched = bpf.patched(code, [(1, 300)])
    assert struct.unpack_from("<BBhi", patched, 8) == (0x18, 0x11, 0, 300)
    assert patched[:8] + patched[16:] == code[:8] + code[16:]


def test_a_maps_value_is_found_by_its_number() -> None:
    """BPF_PSEUDO_MAP_VALUE: what is compiled has a number of ours in place of the descriptor."""
    code = struct.pack("<BBhi", 0x18, 0x26, 0, 2) + bytes(8)
    assert list(_uses(code, {2: "events"})) == [(0, "slots")]


def test_calls_of_kernel_functions_are_put_in() -> None:
    """BPF_PSEUDO_KFUNC_CALL and the function's BTF id; helpers' calls stay as they are."""
    helper, ours = struct.pack("<BBhi", 0x85, 0, 0, 5), struct.pack("<BBhi", 0x85, 0, 0, 77)
    same = struct.pack("<BBhi", 0xB7, 0, 0, 77)  # no call
    found = bpf.with_kernel_calls(helper + ours + same, 77, 65500)
    assert found == helper + struct.pack("<BBhi", 0x85, 0x20, 0, 65500) + same


def test_its_error_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, """print('{"error": ["no bcc", "install it", 5]}')""")
    with Compilation("auto", Path("/none")) as under_way, pytest.raises(TraceError) as caught:
        under_way.answer()
    assert (str(caught.value), caught.value.code) == ("no bcc; install it", Exit.NO_BCC)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "was ended by signal 11"),
        ("import sys; sys.exit('out of\\x1b[31m memory')", "ended with status 1: out of"),
    ],
)
def test_it_dies(monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    pretend(monkeypatch, script)
    with Compilation("auto", Path("/none")) as under_way, pytest.raises(TraceError) as caught:
        under_way.answer()
    assert said in caught.value.message
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "script",
    [
        "import sys; sys.exit('LLVM ERROR: out of memory')",
        "import os; os.write(2, b'terminate called after ... std::bad_alloc'); os.abort()",
        "raise MemoryError",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_it_dies_of_too_little_memory(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """By its last words or, where a limit is set, by how it ended."""
    pretend(monkeypatch, script)
    limits = [(300 << 20, "of address space (ulimit -v)")]
    for where in ("tracer.common.shortage.limits_set", "tracer.probes.compilation.limits_set"):
        monkeypatch.setattr(where, lambda: limits)
    with Compilation("auto", Path("/none")) as under_way, pytest.raises(TraceError) as caught:
        under_way.answer()
    assert caught.value.message.startswith("there is not enough memory to compile the probe (bcc's")
    assert caught.value.message.endswith("the limit is 300 MiB of address space (ulimit -v)")
    assert caught.value.code == Exit.TRACER_FAILED


def test_nobody_waits_for_one_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import signal; signal.pause()")
    before = os.listdir("/proc/self/fd")
    under_way = Compilation("auto", Path("/none"))
    under_way.close()
    under_way.close()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_it_searches_where_we_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("class BPF: pass\n__version__ = '9'\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with Compilation("", tmp_path) as under_way:
        found = under_way.answer()
    assert (found.bcc_version, found.bcc_folder) == ("9", str(tmp_path / "bcc"))


def test_the_terminal_does_not_interrupt_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C is ours to handle: bcc kills itself with SIGINT here, and the answer comes."""
    (tmp_path / "bcc").mkdir()
    script = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nclass BPF: pass\n"
    (tmp_path / "bcc" / "__init__.py").write_text(script)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with Compilation("", tmp_path) as under_way:
        assert under_way.answer().bcc_folder == str(tmp_path / "bcc")
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
