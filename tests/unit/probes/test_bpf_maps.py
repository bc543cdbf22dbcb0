"""Changes of many elements of BPF maps, by a kernel that stops at the first it cannot change."""

import ctypes
import errno
import os

import pytest

from tracer.probes import bpf

UPDATE, DELETE = 26, 27  # bpf(2): BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH


class FakeKernel:
    """A hash map of keys of 8 bytes, and values of 4."""

    def __init__(self, *keys: int) -> None:
        self.values = dict.fromkeys(keys, 0)
        self.calls = 0

    def bpf(self, command: int, attr: "ctypes.Array[ctypes.c_char]") -> int:
        self.calls += 1
        first, second, keys, values, count, fd, flags, more = bpf._BATCH.unpack(attr.raw)
        assert (first, second, fd, flags, more) == (0, 0, 3, 0, 0)
        for at in range(count):
            key = int.from_bytes(ctypes.string_at(keys + 8 * at, 8), "little")
            if command == UPDATE:
                value = ctypes.string_at(values + 4 * at, 4)
                self.values[key] = int.from_bytes(value, "little")
                continue
            assert (command, values) == (DELETE, 0)
            if key not in self.values:
                attr.raw = bpf._BATCH.pack(0, 0, keys, 0, at, fd, 0, 0)
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            del self.values[key]
        return 0


def packed(*numbers: int, size: int = 8) -> bytes:
    return b"".join(number.to_bytes(size, "little") for number in numbers)


@pytest.mark.parametrize(
    ("removed", "calls"),
    [
        ([], 0),
        ([1, 2, 3], 1),
        ([9, 1, 2, 3], 2),
        ([1, 9, 2, 3, 8], 2),
        ([9, 8, 1, 7, 2, 3], 4),
        ([1, 2, 3, 3, 2, 1], 3),  # each only once
    ],
)
def test_keys_that_are_not_there_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, removed: list[int], calls: int
) -> None:
    kernel = FakeKernel(1, 2, 3, 4)
    monkeypatch.setattr(bpf, "_bpf_into", kernel.bpf)
    bpf.Map(3, 8, 4).remove_many(packed(*removed))
    assert set(kernel.values) == ({1, 2, 3, 4} - set(removed))
    assert kernel.calls == calls


def test_many_are_set_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(1)
    monkeypatch.setattr(bpf, "_bpf_into", kernel.bpf)
    bpf.Map(3, 8, 4).update_many(packed(1, 2), packed(5, 6, size=4))
    assert (kernel.values, kernel.calls) == ({1: 5, 2: 6}, 1)


def test_any_other_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: int, attr: object) -> int:
        raise PermissionError

    monkeypatch.setattr(bpf, "_bpf_into", refused)
    with pytest.raises(PermissionError):
        bpf.Map(3, 8, 4).remove_many(packed(1, 2))


@pytest.mark.parametrize("only_existing", [False, True])
def test_one_may_be_set_only_if_it_is_there(
    monkeypatch: pytest.MonkeyPatch, only_existing: bool
) -> None:
    flags = []

    def update(command: int, attr: "ctypes.Array[ctypes.c_char]") -> int:
        flags.append((command, bpf._ELEMENT.unpack(attr.raw)[-1]))
        return 0

    monkeypatch.setattr(bpf, "_bpf_into", update)
    bpf.Map(3, 8, 4).update(packed(1), packed(5, size=4), only_existing=only_existing)
    assert flags == [(2, 2 if only_existing else 0)]  # BPF_MAP_UPDATE_ELEM; BPF_EXIST
