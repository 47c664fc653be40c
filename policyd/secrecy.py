"""Keeps what is in this process's memory from the disk and from its neighbours: provider keys pass through it."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_core_dumps() -> None:
    """No core dump of this process, and no reading of its memory by other processes of its user.

    The limit is inherited by what it starts; but a system that pipes core dumps to a program (core(5)) goes by the
    other flag alone.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
