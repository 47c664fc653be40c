"""Every command that the page for operators shows is run, in its order."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from policyd.cli import app
from policyd.stores.url import open_store

PAGE = Path(__file__).parents[2] / "policyd/control/README.md"


def test_every_command_runs_under_the_default_policy(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/policyd.db"
    asyncio.run(open_store(store).close())
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 10
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "policyd"
        ran = CliRunner().invoke(app, [*arguments, "--store", store], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
