"""One target under atheris, until its time is up or it fails: `python -m tests.fuzz.worker NAME [OPTION]...`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["policyd"]):
    from tests.builders import COUNTER, published_prices
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    COUNTER.preload()
    published_prices()
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
