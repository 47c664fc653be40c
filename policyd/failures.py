"""What counts as a failure of policyd's own, and what is told of one."""

from __future__ import annotations

import asyncio
import logging
import traceback

from policyd.core.errors import PolicydError, StoreUnavailable

log = logging.getLogger(__name__)

NOT_FAILURES = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What ends a task or the process. Any other exception is a failure: a panic in a library of Rust is no `Exception`."""


def name_of(error: BaseException) -> str:
    """An error's name for the log and the record, without content that could be a client's."""
    return str(error) if isinstance(error, PolicydError) else type(error).__name__


def log_failure(what: str, error: BaseException) -> None:
    """Logs where an error came from. Not what it says: the message of an unforeseen one could quote a prompt."""
    if isinstance(error, StoreUnavailable):  # foreseen, and met by every request of an outage
        log.warning("%s: %s", what, error)
        return
    log.error("%s: %s\n%s", what, name_of(error), "".join(traceback.format_tb(error.__traceback__)))
