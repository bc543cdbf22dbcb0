"""Joins bpf/pagefault.c and its parts into the one text that bcc compiles.

bcc rewrites operations on maps in the main file alone, and makes each of its functions
always_inline (BTypeVisitor, src/cc/frontends/clang/b_frontend_action.cc). So parts that use
maps, X.bpf.h, are inserted into it; other headers are left to clang.
"""

import re
from pathlib import Path

from tracer.common.errors import Exit, TraceError

MAIN = "pagefault.c"
_PART = re.compile(r'#include "(\w+\.bpf\.h)"')


def joined(bpf_dir: Path) -> str:
    """The main file with each part in place of the line that includes it.

    clang's errors have the part's own name and line. Raises TraceError where a part is missing.
    """
    try:
        return _joined(bpf_dir)
    except OSError as error:
        raise TraceError(
            f"the BPF sources in {bpf_dir} cannot be read: {error.strerror} ({error.filename})",
            "the installation is damaged: install pagefault-trace again",
            Exit.TRACER_FAILED,
        ) from error


def _joined(bpf_dir: Path) -> str:
    text = []
    for number, line in enumerate((bpf_dir / MAIN).read_text(encoding="utf-8").splitlines(), 1):
        part = _PART.fullmatch(line)
        if part is None:
            text.append(line)
            continue
        text.append(f'#line 1 "bpf/{part[1]}"')
        text.append((bpf_dir / part[1]).read_text(encoding="utf-8").rstrip("\n"))
        text.append(f'#line {number + 1} "bpf/{MAIN}"')
    return "\n".join([f'#line 1 "bpf/{MAIN}"', *text, ""])
