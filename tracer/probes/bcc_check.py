"""Importing bcc, with a clear error where it is missing or an unrelated package.

bcc's Python module comes with the distribution (python3-bpfcc and the like),
for the distribution's own interpreter. The package called `bcc` on PyPI has
nothing to do with BPF; `pip install bcc` is an easy mistake to make.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tracer.common.errors import Exit, TraceError
from tracer.common.shortage import is_short, short
from tracer.common.text import printable

PACKAGES = (
    "python3-bpfcc on Debian and Ubuntu, python3-bcc on Fedora and openSUSE, python-bcc on Arch"
)


def import_bcc(
    importer: Callable[[str], ModuleType] = importlib.import_module,
    finder: Callable[[str], ModuleSpec | None] = importlib.util.find_spec,
) -> ModuleType:
    """The `bcc` module of the BPF Compiler Collection.

    Called by tracer/probes alone, with BCC_KERNEL_SOURCE already set. Raises
    TraceError (Exit.NO_BCC) when bcc is missing, does not load, or is
    another package of that name; the message names the folder it was found in.
    """
    try:
        module = importer("bcc")
    except Exception as error:  # an unrelated package may fail in any way it likes
        raise _failed(error, finder("bcc")) from error
    if not isinstance(getattr(module, "BPF", None), type):
        raise _unrelated(_folder(module.__spec__))
    return module


def installed_bcc(
    finder: Callable[[str], ModuleSpec | None] = importlib.util.find_spec,
) -> str | None:
    """Folder and version of the installed bcc, without loading it; None where that is unclear."""
    folder = _folder(finder("bcc"))
    try:
        # Every bcc since 2015 has libbcc.py beside __init__.py; PyPI's has not.
        if folder is None or not (folder / "libbcc.py").is_file():
            return None
        return f"{folder} {(folder / 'version.py').read_text()}"
    except OSError:
        return None


def _failed(error: Exception, spec: ModuleSpec | None) -> TraceError:
    if spec is None:
        return _missing()
    folder = _folder(spec)
    # Every bcc since 2015 has libbcc.py beside __init__.py; PyPI's has not.
    if folder is None or not (folder / "libbcc.py").is_file():
        return _unrelated(folder)
    if is_short(error):
        return short("to load bcc")
    return TraceError(
        f"bcc in {_shown(folder)} does not load: {printable(str(error))}",
        f"install the distribution's package again ({PACKAGES})",
        Exit.NO_BCC,
    )


def _missing() -> TraceError:
    return TraceError(
        f"bcc, the BPF Compiler Collection, is not installed for {printable(sys.executable)}",
        f"install the distribution's package ({PACKAGES}; not PyPI's bcc, which is unrelated) "
        "and run under the distribution's python3: tools/bootstrap does both",
        Exit.NO_BCC,
    )


def _unrelated(folder: Path | None) -> TraceError:
    return TraceError(
        f"the bcc in {_shown(folder)} is not the BPF Compiler Collection: it has no BPF class "
        "(the package called bcc on PyPI is an unrelated one)",
        f"remove it (pip uninstall bcc) and install the distribution's package ({PACKAGES})",
        Exit.NO_BCC,
    )


def _folder(spec: ModuleSpec | None) -> Path | None:
    """The folder a module was found in; the first one of a namespace package."""
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    if places:
        return Path(places[0])
    return Path(spec.origin).parent if spec.origin else None


def _shown(folder: Path | None) -> str:
    return printable(str(folder)) if folder else "an unknown place"
