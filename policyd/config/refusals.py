"""What a refusal says in the operator's own words: its status, its message and more fields."""

from policyd.config import shapes, values
from policyd.config.problems import Mistake
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key
from policyd.config.values import expected, found
from policyd.config.yaml_tree import Tree
from policyd.core.policy import Refusal

REFUSAL_FIELDS_RESERVED = (
    "reason",
    "request_id",
    "limits",
    "rule",
    "limit_usd",
    "spent_usd",
    "remaining_usd",
    "estimated_cost_usd",
)
"""What a refusal's `policyd` object says by itself, and an operator's own field cannot."""


REFUSAL_KEYS = {
    "status": Key(shapes.whole_number(400, 499), "The HTTP status of a refusal."),
    "refusal": Key(
        shapes.named(shapes.TEXT, names={"not": shapes.words(*REFUSAL_FIELDS_RESERVED)}),
        "What a refusal says: its message, and fields of your own such as upgrade_url.",
    ),
}


def refusal_status(tree: Tree) -> int:
    try:
        return values.whole_number(400, 499)(tree)
    except Mistake:
        raise expected(tree, "402, 429 or another status from 400 to 499") from None


def read_refusal(section: Section) -> Refusal:
    tree = section.read("refusal", values.mapping('{message: "..."}'), None)
    if tree is None:
        return Refusal()
    path, problems = section.path_of("refusal"), section.problems
    said: dict[str, str] = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        if key.text in REFUSAL_FIELDS_RESERVED:
            problems.add(key.at, path, f"{found(key)} is a field that every refusal has, expected one of your own")
        said[key.text] = problems.attempt(f"{path}.{key.text}", values.text, value, "")
    return Refusal(said.pop("message", None), said)
