"""What importing much costs besides its time."""

import gc
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_NUMPY = 88 << 20  # bytes of addresses that it takes, as measured (2.4), 32 MiB of them its BLAS's
_YOUNG = 50_000  # objects made and not freed before the collector looks for cycles among them


def require_room() -> None:
    """Raise MemoryError where there are no addresses for numpy.

    Its BLAS ends the process where it gets none, and says nothing of why
    (blas_memory_alloc, OpenBLAS).
    """
    try:
        mmap.mmap(-1, _NUMPY, mmap.MAP_PRIVATE, 0).close()  # PROT_NONE: no memory
    except OSError:
        raise MemoryError from None


@contextmanager
def imports_for_much_data() -> Iterator[None]:
    """Import numpy and what works on much data, once, in here.

    numpy's BLAS starts a thread for each processor, and each spins for some 25 ms
    (`blas_thread_server`, OpenBLAS); nothing here multiplies matrices. The environment is
    afterwards as it was. What is imported stays, and what is made of data has few cycles:
    the collector has little to find, and looks seldom. Raises MemoryError.
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
