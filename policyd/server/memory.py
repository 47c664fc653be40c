"""The memory of a process that has loaded what it serves by."""

from __future__ import annotations

import ctypes
import gc


def keep_what_is_loaded() -> None:
    """Gives back what loading used besides, and lets the garbage collector alone with the rest.

    The vocabularies and the price table stay: a full collection that walks them halts everything for 60 ms.
    """
    gc.collect()
    gc.freeze()
    # What was freed in between stays with the process otherwise, some ten megabytes. Not every C library has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
