"""The folder of the BPF sources: beside the package in a checkout, inside it when installed."""

from pathlib import Path

from tracer.common.errors import Exit, TraceError

_MARKER = "shared.h"  # a folder called bpf without it is an unrelated one


def bpf_dir(package: Path | None = None) -> Path:
    """The absolute folder that holds `pagefault.c`, `shared.h` and `compat/`.

    `package` is the folder of the `tracer` package (by default, this one).
    Raises TraceError when the installation lacks the folder.
    """
    package = (package or Path(__file__).parents[1]).resolve()
    # Inside the package first: a wheel's neighbour in site-packages may be called bpf, too.
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / _MARKER).is_file():
            return folder
    raise TraceError(
        f"the BPF sources are missing from {package}",
        "the installation is damaged: install pagefault-trace again",
        Exit.TRACER_FAILED,
    )
