"""Which model a request to Bedrock names: in its path, as an id or an ARN, percent-encoded or not.

    /model/anthropic.claude-3-haiku-20240307-v1:0/invoke
    /model/us.anthropic.claude-3-haiku-20240307-v1%3A0/invoke
    /model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-3-haiku.../invoke

AWS's SDKs encode both signs that delimit the parts of a name, the colon and the slash; Anthropic's encodes the slash
alone. No other escape can stand in a name, and none of its parts is empty or begins with a dot, so that a path with
these escapes means the same to everyone who reads it.
"""

from __future__ import annotations

from urllib.parse import unquote

_WORD = "[A-Za-z0-9][A-Za-z0-9._-]*"
_DELIMITER = "(?:(?::|%3[Aa])+|%2[Ff])"

MODEL_PATTERN = f"/model/{_WORD}(?:{_DELIMITER}{_WORD})*"
"""The beginning of every path that names a model: a regular expression."""

_NAMING_RESOURCES = ("foundation-model", "inference-profile")
"""The kinds of resources whose ARN ends in a model's own name. The name of any other says nothing of its model."""


def model_in_path(path: str) -> str:
    """The model that a path of `MODEL_PATTERN` names."""
    return model_named(unquote(path.split("/")[2]))


def model_named(identifier: str) -> str:
    """The name that a model is priced by: out of an ARN where it says it, else the identifier as it is."""
    resource, slash, name = identifier.rpartition("/")
    return name if slash and resource.rpartition(":")[2] in _NAMING_RESOURCES else identifier


def names_model(identifier: str) -> bool:
    """Whether an identifier names a model, and not a resource of the account's behind which any model may be."""
    return not identifier.startswith("arn:")
