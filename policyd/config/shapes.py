"""What values of the policy file look like, as JSON Schema: the blocks that the schema for editors is made of.

Each mapping of the file has one table of its keys. What reads the mapping takes from it which keys there are, and the
schema what their values look like: a key stands in one place. A schema sees one value at a time and knows no other part
of the file, so it says less than `check-config` does; whatever it refuses, `check-config` refuses too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from policyd.config.values import COUNT_MAX, DURATION, GROUP_NAME, STABLE_NAME
from policyd.core.money import ACCOUNT_NANOS_MAX, NANOS_PER_USD, NUMBER

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping: what its value looks like, and what it is for."""

    schema: Schema
    told: str


Keys = Mapping[str, Key]


def record(keys: Keys, *, required: Sequence[str] = (), **more: Any) -> Schema:
    """A mapping with no keys but these; `more` is JSON Schema's own."""
    properties = {name: {**key.schema, "description": key.told} for name, key in keys.items()}
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needed, **more}


def named(value: Schema, *, names: Schema, **more: Any) -> Schema:
    """A mapping whose keys are names of the operator's."""
    return {"type": "object", "propertyNames": names, "additionalProperties": value, **more}


def items(item: Schema, *, least: int = 1) -> Schema:
    return {"type": "array", "items": item, **({"minItems": least} if least else {})}


def one_or_more(item: Schema) -> Schema:
    """One, or a list of them."""
    return any_of(item, items(item))


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def exactly_one(keys: Sequence[str]) -> Schema:
    """Of a mapping: one of these keys is there, and no second."""
    return {"oneOf": [{"required": [key]} for key in keys]}


def only_with(key: str, *values: str) -> Schema:
    """Of a mapping: what another key has to say where one is there."""
    return {"properties": {key: {"enum": list(values)}}, "required": [key]}


def without(*keys: str) -> Schema:
    """Of a mapping: none of these keys is there."""
    return {"not": any_of(*({"required": [key]} for key in keys))}


def words(*known: str) -> Schema:
    return {"enum": list(known)}


def choice(known: type[StrEnum]) -> Schema:
    return words(*known)


def whole_number(minimum: int, maximum: int = COUNT_MAX) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def matching(pattern: re.Pattern[str]) -> Schema:
    """Text of which all fits a regular expression."""
    return {"type": "string", "pattern": f"^({pattern.pattern})$"}


def decimal(maximum: float) -> Schema:
    """A number from 0 on, or the same in quotes; whether it is too fine only its text tells."""
    return any_of({"type": "number", "minimum": 0, "maximum": maximum}, matching(NUMBER))


BOOLEAN: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string", "minLength": 1}
PRINTABLE: Schema = {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]+$"}
NAME = matching(STABLE_NAME)
GROUP = matching(GROUP_NAME)
COUNT = whole_number(0)
USD = decimal(ACCOUNT_NANOS_MAX / NANOS_PER_USD)
SPAN = any_of(matching(DURATION), {"type": "integer", "minimum": 0})
PATTERNS = one_or_more(TEXT)
"""One shell-style pattern or several."""
