"""Which paths may keep whoever opens them waiting; with real mounts: live/test_stalled_files.py."""

import pytest

from tracer.files.served import is_served, may_stall
from tracer.procfs.maps import Mount

MOUNTS = [
    Mount(1, 1, "/", "ext4"),
    Mount(2, 2, "/mnt", "fuse.sshfs"),
    Mount(3, 3, "/mnt/local", "xfs"),
    Mount(4, 4, "/srv", "nfs4"),
    Mount(5, 5, "/srv", "tmpfs"),
]
NETWORK_ROOT = [Mount(1, 1, "/", "9p"), Mount(2, 2, "/tmp", "tmpfs")]


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/", False),
        ("/home/a", False),
        ("/mnt", True),
        ("/mnt/a", True),
        ("/mntx", False),
        ("/mnt/local/a", False),
        ("/srv/a", False),  # mounted over
    ],
)
def test_the_nearest_mount_counts(path: str, served: bool) -> None:
    assert is_served(MOUNTS, path) == served


def test_a_root_that_others_serve() -> None:
    assert not is_served(NETWORK_ROOT, "/")
    assert is_served(NETWORK_ROOT, "/home/a")
    assert not is_served(NETWORK_ROOT, "/tmp/a")


@pytest.mark.parametrize("path", ["", "/", "\0", "/no/such/file", "a" * 5000])
def test_odd_paths_are_left_to_whoever_opens_them(path: str) -> None:
    assert not may_stall(path)
