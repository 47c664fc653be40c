"""The policy in force."""

from collections.abc import Callable
from pathlib import Path

from policyd.config.file_source import FileSource
from policyd.config.policy_file import open_policy
from policyd.core.errors import ConfigError
from policyd.core.policy import Policy


class PolicySource(FileSource[Policy]):
    """Holds the policy of the file at `path`, or the default policy where there is no file."""

    def __init__(
        self,
        path: Path | None,
        *,
        on_change: Callable[[Policy], None],
        on_problem: Callable[[ConfigError], None],
        check: Callable[[Policy], None] = lambda _: None,
    ) -> None:
        super().__init__(path, load=open_policy, on_change=on_change, on_problem=on_problem, check=check)
