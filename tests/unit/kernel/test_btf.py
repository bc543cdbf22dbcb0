"""Offsets out of BTF: a hand-made file with known answers, and the running kernel's own."""

import ctypes
import struct
from pathlib import Path

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.kernel import btf
from tracer.kernel.btf import Btf

INT, STRUCT, UNION, ENUM, TYPEDEF, CONST, FUNC, PROTO, ENUM64 = 1, 4, 5, 6, 8, 10, 12, 13, 19


class BtfWriter:
    """Writes the raw format of Documentation/bpf/btf.rst; type numbers count from 1."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self.strings)
        self.strings += text.encode() + b"\0"
        return offset

    def add(
        self, kind: int, name: str, size: int = 0, tail: bytes = b"", n: int = 0, flag: int = 0
    ) -> int:
        info = flag << 31 | kind << 24 | n
        self.types += struct.pack("<III", self.name(name), info, size) + tail
        self.count += 1
        return self.count

    def composite(
        self, kind: int, name: str, size: int, *members: tuple[str, int, int], flag: int = 0
    ) -> int:
        """Members are (name, type, bit offset)."""
        tail = b"".join(struct.pack("<III", self.name(m), t, bits) for m, t, bits in members)
        return self.add(kind, name, size, tail, len(members), flag)

    def write(self, path: Path) -> Path:
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        path.write_bytes(header + self.types + self.strings)
        return path


@pytest.fixture
def types(tmp_path: Path) -> Btf:
    w = BtfWriter()
    u64 = w.add(INT, "u64", 8, struct.pack("<I", 64))
    u32 = w.add(INT, "u32", 4, struct.pack("<I", 32))
    inner = w.composite(STRUCT, "", 16, ("deep", u64, 0), ("deeper", u64, 64))
    union = w.composite(UNION, "", 16, ("", inner, 0), ("flags", u64, 0))
    qstr = w.composite(STRUCT, "qstr", 16, ("len", u32, 32), ("name", u64, 64))
    alias = w.add(TYPEDEF, "qstr_t", w.add(CONST, "", qstr))
    w.composite(STRUCT, "outer", 48, ("first", u64, 0), ("", union, 64), ("d_name", alias, 192))
    # kind_flag: the top 8 bits of an offset are a bit-field's width
    w.composite(
        STRUCT, "bits", 16, ("one", u32, 1 << 24 | 3), ("", inner, 64), ("odd", u32, 9), flag=1
    )
    w.add(ENUM, "small", 4, struct.pack("<IiIi", w.name("A"), 7, w.name("TOP"), -1), 2)
    w.add(ENUM, "signed", 4, struct.pack("<Ii", w.name("MINUS"), -1), 1, 1)
    w.add(ENUM64, "wide", 8, struct.pack("<III", w.name("HUGE"), 5, 1), 1)
    w.add(FUNC, "handle_it", w.add(PROTO, "", 0))
    return Btf(w.write(tmp_path / "btf"))


def test_members_are_found_as_c_finds_them(types: Btf) -> None:
    known = {
        "outer.first": 0,
        "outer.deep": 8,
        "outer.deeper": 16,
        "outer.flags": 8,
        "outer.d_name": 24,
        "outer.d_name.len": 28,
        "outer.d_name.name": 32,
        "bits.deeper": 16,
    }
    assert types.offsets(known) == known
    assert types.struct_size("outer") == 48


@pytest.mark.parametrize(
    "path",
    ["outer.no", "no.first", "outer", "outer.first.x", "bits.one", "bits.odd", "u64.first", ""],
)
def test_what_is_not_there_is_absent(types: Btf, path: str) -> None:
    assert types.offsets([path]) == {}


def test_enums_and_functions(types: Btf) -> None:
    assert types.enum_value("small", "A") == 7
    assert types.enum_value("small", "TOP") == 0xFFFFFFFF
    assert types.enum_value("signed", "MINUS") == -1
    assert types.enum_value("wide", "HUGE") == (1 << 32) + 5
    assert types.enum_value("small", "B") is None
    assert types.enum_value("no", "A") is None
    assert types.function_id("handle_it")
    assert not types.function_id("small")
    assert types.struct_size("no") is None


def test_a_missing_file_is_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is not there.*CONFIG_DEBUG_INFO_BTF") as caught:
        Btf(tmp_path / "none")
    assert caught.value.code == Exit.UNSUPPORTED


def test_a_broken_file_is_a_clear_word(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x9f\xeb\x01\0" + b"\xff" * 40)
    with pytest.raises(TraceError, match="cannot be read as BTF"):
        Btf(broken)


def test_no_libbpf_is_a_clear_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(btf.ctypes, "CDLL", missing)  # type: ignore[attr-defined]
    with pytest.raises(TraceError, match="libbpf is missing") as caught:
        Btf()
    assert caught.value.code == Exit.UNSUPPORTED


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernel() -> None:
    with Btf() as kernel:
        found = kernel.offsets(
            [
                "rusage.ru_minflt",  # uapi: two timevals and four longs come before it
                "iovec.iov_len",
                "vm_area_struct.vm_start",
                "vm_area_struct.vm_end",
                "vm_area_struct.vm_flags",
                "vm_area_struct.vm_file",
                "vm_fault.address",
                "vm_fault.pte",
                "mm_struct.pgd",
                "task_struct.mm",
                "task_struct.active_mm",
                "task_struct.min_flt",
                "task_struct.maj_flt",
                "dentry.d_name",
                "dentry.d_name.name",
                "task_struct.no_such_member",
            ]
        )
        assert "task_struct.no_such_member" not in found
        assert len(found) == 15
        assert found["rusage.ru_minflt"] == 64
        assert found["iovec.iov_len"] == 8
        assert found["vm_area_struct.vm_end"] == found["vm_area_struct.vm_start"] + 8
        assert found["task_struct.active_mm"] == found["task_struct.mm"] + 8
        assert found["task_struct.maj_flt"] == found["task_struct.min_flt"] + 8
        assert found["dentry.d_name.name"] == found["dentry.d_name"] + 8
        assert kernel.struct_size("rusage") == 144
        assert kernel.function_id("handle_mm_fault")
        assert not kernel.function_id("no_such_function")
        assert kernel.enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF") == 27
    assert btf.offsets(["iovec.iov_len"]) == {"iovec.iov_len": 8}
    assert btf.enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF") == 27
