"""The Lua files beside this module, one an atomic operation, each with `ledger.lua` before it.

Redis knows a script by the digest of its text, so replicas of different versions of policyd run each their own. A node
that does not know one yet (it is new, or was restarted) is sent the text, which it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files

_FOLDER = files("policyd.stores.redis") / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    digest: str
    """What EVALSHA calls it."""


@cache
def script(name: str) -> Script:
    """The script of `lua/NAME.lua`."""
    ledger, operation = ((_FOLDER / f"{file}.lua").read_text(encoding="utf-8") for file in ("ledger", name))
    text = f"{ledger}\n{operation}"
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
