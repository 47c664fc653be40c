"""The Envoy that the tests run on, and what the older ones of those supported lack."""

from __future__ import annotations

import re
import subprocess
from functools import cache

import pytest

from policyd.up.binary import find_envoy

VERSION_SECONDS_MAX = 20


@cache
def envoy_version() -> tuple[int, int]:
    """Major and minor."""
    said = subprocess.run(
        [find_envoy(), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS_MAX, check=True
    ).stdout
    found = re.search(r"/(\d+)\.(\d+)\.\d+", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


SHOWS_ITS_OWN_REPLIES = pytest.mark.skipif(
    envoy_version() < (1, 37), reason="before 1.37 Envoy shows policyd no reply that it makes itself (413, 503)"
)
PREFIXES_CREDENTIALS = pytest.mark.skipif(
    envoy_version() < (1, 37), reason="before 1.37 Envoy puts nothing before a key that it takes from a file"
)
READS_STREAMS = pytest.mark.skipif(
    envoy_version() < (1, 38), reason="before 1.38 Envoy has no filter that reads streams, which the lean profile needs"
)
PASSES_EMPTY_REPLIES = envoy_version() >= (1, 40)
"""Before 1.40 a reply of unknown length that has no body, and ends with its headers, hangs."""
