"""Array types by element type, and the page shift as a uint64."""

import numpy as np
import numpy.typing as npt

from tracer.common.pages import PAGE_SHIFT

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]  # of any width
Structs = npt.NDArray[np.void]  # records of a structured dtype
Ids = U32  # numbers of address spaces, regions, stacks

PAGE_BITS = np.uint64(PAGE_SHIFT)  # from an array of addresses to one of page numbers
