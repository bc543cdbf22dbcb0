"""The columns of the ledger: its state of each page."""

import numpy as np

COLUMNS: dict[str, type] = {
    "frame": np.uint64,  # physical address, NO_FRAME while not present
    "changed_ns": np.int64,  # when it last gained or released a frame
    "first_ns": np.int64,
    "first_frame": np.uint64,
    "first_fault": np.uint64,  # ROW.number
    "gains": np.uint32,
    "losses": np.uint32,
    "region": np.uint32,
    "first_source": np.uint8,
    "first_kind": np.uint8,
    "source": np.uint8,
    "last_loss": np.uint8,
    "confirmed": np.uint8,
    "doubt": np.uint8,  # a Loss: that call released the frame, or ran just before it
    "assumed": np.bool_,  # inherited by fork, by the parent's state; not yet seen
}
