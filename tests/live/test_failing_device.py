"""A disk that fails while a trace is written to it: device-mapper's error target below ext4.

The kernel takes what is written, and finds out later that the disk does not.
"""

import subprocess
from pathlib import Path

import pytest

from tests.live import cli, failing, features
from tests.live.failing import CSV, META, PAGES
from tracer.common.errors import Exit
from tracer.probes.choose import Attached


@pytest.mark.guest("perf")  # once: what is asked of the kernel is the same in all
def test_a_disk_that_fails_while_a_trace_runs(attached: Attached, tmp_path: Path) -> None:
    """Each file is named, the summary is there, and what is on the disk is no finished trace."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with features.failing_device(folder) as device:
        with subprocess.Popen(cli.python(cli.TOUCHING)) as target:
            files = ("--pages-csv", folder / PAGES, "--probe", attached.probe.name)
            with (
                cli.nothing_left_attached(),
                cli.Attached(target.pid, folder / CSV, *files, "-q") as trace,
            ):
                subprocess.run(["sync", "-f", folder], check=True)
                device.fail()
                done = trace.end()
            assert target.poll() is None
            target.kill()
        assert done.status == Exit.OUTPUT
        assert failing.failed(done) == {CSV, META, PAGES}, done.err
        assert "books: " in done.out
        # What was not written back is seen no more.
        subprocess.run(["umount", folder], check=True)
        device.recover()
        subprocess.run(["mount", f"/dev/mapper/{device.name}", folder], check=True)
        assert cli.meta(folder / CSV)["state"] == "running"
        assert not (folder / PAGES).exists() or (folder / PAGES).read_text() == ""
        text = (folder / CSV).read_text()
        assert text == "" or text.endswith("\n")
