"""Paths below the roots of processes, and the mounts on the way."""

import os
from pathlib import Path

import pytest

from tracer.procfs import roots
from tracer.procfs.roots import OURS, Roots


def read(handle: int) -> str:
    with os.fdopen(os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)) as file:
        os.close(handle)
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of process 1, which has a link that leads out of it, if it is taken for ours."""
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_text("inside")
    (root / "folder").symlink_to("/real")
    (root / "link").symlink_to("/real/file")
    (root / "out").symlink_to("../../../../../etc")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "root").symlink_to(root)
    return root


def test_links(root: Path) -> None:
    """None is followed, or those of folders, and always within the root."""
    roots = Roots(str(root.parent))
    assert read(roots.open(1, "/real/file")) == "inside"
    assert read(roots.open(1, "/../real/file")) == "inside"
    assert read(roots.open(1, "/folder/file", links=True)) == "inside"
    for path in ("/folder/file", "/out/passwd"):
        with pytest.raises(OSError, match="symbolic links"):
            roots.open(1, path)
    with pytest.raises(FileNotFoundError):
        roots.open(1, "/out/passwd", links=True)
    handle = roots.open(1, "/link", links=True)
    assert os.readlink(f"/proc/self/fd/{handle}") == str(root / "link")  # not what it leads to
    os.close(handle)
    with pytest.raises(FileNotFoundError):
        roots.open(1, "real/file")


def test_links_into_fuse(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roots, "by_fuse", lambda self, handle, whose: True)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Roots(str(root.parent)).open(1, "/folder/file", links=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_our_mounts_are_read_when_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Roots()
    handle = ours.open(OURS, "/proc/self/maps".replace("self", str(os.getpid())))
    mount = ours.mount(handle, OURS)
    assert mount is not None
    assert mount.kind == "proc"
    monkeypatch.setattr(roots, "parse_mounts", lambda text: pytest.fail("nothing has changed"))
    assert ours.mount(handle, OURS) == mount
    assert not ours.by_fuse(handle, OURS)
    os.close(handle)
