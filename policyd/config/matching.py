"""`match` and `per`: which requests a limit is for, and what it counts apart, by the attributes of requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from policyd.config import shapes, values
from policyd.config.problems import Mistake, Problems, did_you_mean, one_of
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key
from policyd.config.values import found
from policyd.config.yaml_tree import ListTree, Tree
from policyd.core.policy import Match

MATCH_KEY = Key(
    shapes.named(shapes.PATTERNS, names=shapes.TEXT),
    "Attributes, and the shell-style patterns that they have to fit; all of them, one pattern each.",
)
PER_KEY = Key(
    {**shapes.items(shapes.TEXT), "uniqueItems": True},
    "Attributes that are counted apart, for every combination; left out: everybody together.",
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of the attributes that requests have."""

    names: Sequence[str] | None
    """All that a request can have; `None` if that is not known."""
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By attribute all values that it can have, of those where these are known."""


def read_per(section: Section, attributes: Attributes) -> tuple[str, ...]:
    path = section.path_of("per")
    per: list[str] = []
    for index, tree in enumerate(section.read("per", values.items("[project]"), ())):
        item_path = f"{path}[{index}]"
        name = section.problems.attempt(item_path, lambda tree: _attribute(tree, attributes), tree, None)
        if name in per:
            section.problems.add(tree.at, item_path, f"{found(tree)} is listed twice")
        elif name is not None:
            per.append(name)
    return tuple(per)


def read_match(section: Section, attributes: Attributes) -> Match:
    tree = section.read("match", values.mapping("{tier: free}"), None)
    if tree is None:
        return Match()
    path, problems = section.path_of("match"), section.problems
    patterns = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        problems.attempt(path, lambda key: _attribute(key, attributes), key, None)
        known = attributes.values.get(key.text)
        patterns[key.text] = read_globs(value, path=f"{path}.{key.text}", problems=problems, known=known)
    return Match(patterns)


def read_globs(tree: Tree, *, path: str, problems: Problems, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """One pattern or a list of them; each has to fit one of the values that are `known`, where they are."""

    def glob(tree: Tree) -> str:
        pattern = values.printable(tree)
        if known is not None and not any(fnmatchcase(value, pattern) for value in known):
            hint = did_you_mean(pattern, known)
            raise Mistake(tree.at, f"{found(tree)} can never match, expected {one_of(known)}{hint}")
        return pattern

    if not isinstance(tree, ListTree):
        return (problems.attempt(path, glob, tree, ""),)
    trees = problems.attempt(path, values.items('["gpt-4o*", "o1*"]'), tree, ())
    return tuple(problems.attempt(f"{path}[{index}]", glob, item, "") for index, item in enumerate(trees))


def _attribute(tree: Tree, attributes: Attributes) -> str:
    name = values.text(tree)
    if attributes.names is not None and name not in attributes.names:
        hint = did_you_mean(name, attributes.names)
        raise Mistake(tree.at, f"nothing sets the attribute {found(tree)}, expected {one_of(attributes.names)}{hint}")
    return name
