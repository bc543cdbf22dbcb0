"""Importing numpy with little memory, few threads and a tuned garbage collector."""

import gc
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_NUMPY = 88 << 20  # bytes of address space it needs, as measured (2.4), 32 MiB for its BLAS
_YOUNG = 50_000  # net allocations before the collector searches them for cycles


def require_room() -> None:
    """Raise MemoryError where the address space limit is too low for numpy.

    Its BLAS would end the process without a reason (blas_memory_alloc, OpenBLAS).
    """
    try:
        mmap.mmap(-1, _NUMPY, mmap.MAP_PRIVATE, 0).close()  # PROT_NONE: no memory
    except OSError:
        raise MemoryError from None


@contextmanager
def imports_for_much_data() -> Iterator[None]:
    """A block in which to import numpy and the modules that use it, once.

    numpy's BLAS starts a thread for each CPU, and each spins for some 25 ms
    (`blas_thread_server`, OpenBLAS); nothing here multiplies matrices. The environment is
    restored. Imported objects stay, and those made of data have few cycles: the garbage
    collector has little to find, and runs seldom. Raises MemoryError.
    """
    require_room()
    chosen = os.environ.get(_BLAS_THREADS)
    if chosen is None:
        os.environ[_BLAS_THREADS] = "1"
    gc.disable()
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[_BLAS_THREADS]
        gc.freeze()
        gc.set_threshold(_YOUNG)
        gc.enable()
