"""Command-line options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Policy file. [POLICYD_CONFIG]")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE, redis://HOST:PORT/DB or memory://. [POLICYD_STORE]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
