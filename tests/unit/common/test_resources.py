"""tracer.common.resources: the BPF sources are found in a checkout and in a wheel."""

from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.common.resources import bpf_dir


def test_in_this_installation_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bpf_dir().is_absolute()
    assert (bpf_dir() / "shared.h").is_file()


def _bpf(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "shared.h").touch()
    return folder


def test_checkout(tmp_path: Path) -> None:
    bpf = _bpf(tmp_path / "bpf")
    assert bpf_dir(tmp_path / "tracer") == bpf


def test_wheel_comes_before_its_neighbours(tmp_path: Path) -> None:
    _bpf(tmp_path / "bpf")
    inside = _bpf(tmp_path / "tracer" / "bpf")
    assert bpf_dir(tmp_path / "tracer") == inside


def test_a_neighbour_called_bpf_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    with pytest.raises(TraceError, match="missing"):
        bpf_dir(tmp_path / "tracer")
