"""The libraries only reports need, imported on demand."""

import importlib
import shlex
import sys
from typing import Any

from tracer.common.errors import Exit, TraceError

EXTRA = ("pyarrow", "matplotlib")  # the extra `report` of pyproject.toml


def library(name: str) -> Any:
    """The module `name`; raises TraceError(code=Exit.NO_LIBRARY) that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # it is there, but broken: its own message says more
        pip = f"{shlex.quote(sys.executable)} -m pip install {' '.join(EXTRA)}"
        raise TraceError(
            f"pagefault-report needs {top}, which is not installed for {sys.executable}",
            f"install it: {pip}",
            Exit.NO_LIBRARY,
        ) from None
