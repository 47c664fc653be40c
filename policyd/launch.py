"""Becomes another program, which does not outlive its parent: launch.py PARENT_PID SIGNAL PROGRAM ARGUMENT...

The kernel is asked to signal the program when its parent ends, however that ends; and since the request survives
`execve`, the program need not know of it. Asking in a `preexec_fn` would run Python between fork and exec in a process
that has threads, which may never come back; so this small script does it, run by its path and with the standard library
only.

Strictly, the signal comes when the thread ends that started the program: start it from a thread that stays.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launched(*command: str, with_parent: signal.Signals) -> tuple[str, ...]:
    """The command line that starts `command` as a child, which gets the signal `with_parent` when this process ends."""
    return (sys.executable, "-IS", __file__, str(os.getpid()), str(int(with_parent)), *command)


def main() -> None:
    parent_pid, number, program, *arguments = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number)) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # It may have ended before the kernel was asked.
    if os.getppid() != int(parent_pid):
        sys.exit("the parent has ended")
    try:
        os.execv(program, [program, *arguments])  # noqa: S606 (becoming the program is what this is for)
    except OSError as error:
        sys.exit(f"{program}: {error.strerror}")


if __name__ == "__main__":
    main()
