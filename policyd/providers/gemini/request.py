"""Reading what a request to Google says, wherever it says it: in the path, in the query, in either spelling of a field.

Google's APIs take protobuf's JSON: every field may be written in `camelCase` or in `snake_case`, a whole number may be
written as `5`, `5.0` or `"5"`, and a single message may stand where a list of them is expected. The model is in the
path. Every function that refuses raises `BodyUnreadable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from policyd.core.errors import BodyUnreadable
from policyd.providers.request_body import Json

QUERIES_MAX = 10
"""The most searches that are held for where each query is charged: the stated allowance; three is the most that was
recorded."""

_QUERY_PARAMETERS_MAX = 100
_ENCODINGS = ("json", "sse")
_STANDARD_TIERS = ("", "standard", "unspecified")
_CAPITAL = re.compile(r"[A-Z]")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}")


def snake_case(name: str) -> str:
    return _CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", name)


def spellings(names: Iterable[str]) -> tuple[str, ...]:
    """The fields `names`, which are in camel case, in both spellings."""
    return tuple(dict.fromkeys(spelling for name in names for spelling in (name, snake_case(name))))


def split_path(path: str) -> tuple[str, str]:
    """The model's name and the verb of a path that ends in `{model}:{verb}`."""
    model, _, verb = path.rpartition("/")[2].rpartition(":")
    if not model:
        raise BodyUnreadable("the path names no model")
    return model, verb


def check_query(query: str) -> None:
    """Refuses what would have the reply leave out its usage, or come in a form that cannot be read.

    `fields` picks parts of a reply; `alt` may ask for protobuf. A leading `$` means the same.
    """
    try:
        parameters = parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_PARAMETERS_MAX)
    except ValueError:
        raise BodyUnreadable("the query has too many parameters") from None
    for name, value in parameters:
        plain = name.removeprefix("$")
        if plain == "alt" and value.partition(";")[0] not in _ENCODINGS:
            raise BodyUnreadable(f"the query's {name}: expected json or sse")
        if plain == "fields":
            raise BodyUnreadable(f"the query's {name}: expected nothing, because a partial reply hides its usage")


def field(document: Json, name: str, *, inside: str = "") -> Any:
    """The field `name`, in whichever spelling it is given; `None` where it is absent.

    `inside` says which object of the body `document` is (`generationConfig.`).
    """
    other = snake_case(name)
    value = document.get(name)
    if other == name:
        return value
    if value is not None and document.get(other) is not None:
        raise BodyUnreadable(f"{inside}{other}: given twice, as {name} too")
    return value if value is not None else document.get(other)


def object_field(document: Json, name: str) -> Json:
    """The object; an empty one where it is absent."""
    value = field(document, name)
    if value is not None and not isinstance(value, dict):
        raise BodyUnreadable(f"{name}: expected an object")
    return value or {}


def objects_field(document: Json, name: str) -> list[Json]:
    """The objects, of which a single one may stand by itself; none where the field is absent."""
    value = field(document, name)
    items = value if isinstance(value, list) else [] if value is None else [value]
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise BodyUnreadable(f"{name}[{index}]: expected an object")
    return items


def whole_number_field(document: Json, name: str, *, minimum: int, maximum: int, inside: str = "") -> int | None:
    """`inside` says which object of the body `document` is (`generationConfig.`)."""
    value = field(document, name, inside=inside)
    if value is None:
        return None
    number = _whole_number(value)
    if number is None or not minimum <= number <= maximum:
        raise BodyUnreadable(f"{inside}{name}: expected an integer from {minimum} to {maximum}")
    return number


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def service_tier(document: Json) -> dict[str, str]:
    """The term of the price that a request asks for; nothing for the standard one."""
    tier = field(document, "serviceTier")
    if tier is not None and not isinstance(tier, str):
        raise BodyUnreadable("serviceTier: expected a text")
    name = (tier or "").lower().removeprefix("service_tier_")
    return {"service_tier": name} if name not in _STANDARD_TIERS else {}
