"""A mapping with fixed keys: what every part of the policy file is made of."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from policyd.config.problems import Position, Problems, closest, one_of
from policyd.config.values import found
from policyd.config.yaml_tree import Kind, MappingTree, Scalar, Tree

Value = TypeVar("Value")
Default = TypeVar("Default")


class Section:
    """Reads one mapping key by key and reports what does not belong in it. `path` is how messages name it.

    A key that looks like a misspelling is reported as that alone, and not once more as the key that is missing.
    """

    def __init__(self, tree: MappingTree, *, path: str, keys: Collection[str], problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._at = tree.at
        self._values: dict[str, Tree] = {}
        self._keys: dict[str, Position] = {}
        self._misspelt: set[str] = set()
        for key, value in unique_entries(tree, path=path, problems=problems).items():
            if key.text in keys:
                self._values[key.text] = value
                self._keys[key.text] = key.at
            else:
                self._report_unknown(key, keys)

    def _report_unknown(self, key: Scalar, keys: Collection[str]) -> None:
        meant = closest(key.text, keys)
        hint = f'did you mean "{meant}"?' if meant else f"expected {one_of(tuple(keys))}"
        self.problems.add(key.at, self.path, f"unknown key {found(key)}; {hint}")
        if meant:
            self._misspelt.add(meant)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Tree:
        return self._values[key]

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def read(self, key: str, parse: Callable[[Tree], Value], default: Default) -> Value | Default:
        """The value of `key`; `default` where the key is absent or its value wrong."""
        if key not in self._values:
            return default
        return self.problems.attempt(self.path_of(key), parse, self._values[key], default)

    def require(
        self, key: str, parse: Callable[[Tree], Value], default: Default, *, expectation: str
    ) -> Value | Default:
        """Like `read`, and reports an absent key. `default` is never put to use."""
        if key not in self._values:
            self.report_missing(key, expectation)
        return self.read(key, parse, default)

    def report_missing(self, key: str, expectation: str) -> None:
        if key not in self._misspelt:
            self.problems.add(self._at, self.path, f'missing key "{key}", expected {expectation}')

    def reject(self, key: str, message: str) -> None:
        """Reports that `key` should not be there."""
        self.problems.add(self._keys[key], self.path_of(key), message)

    def exactly_one(self, keys: Sequence[str]) -> str | None:
        """The one of `keys` that is there; reports if there is none or more than one."""
        given = [key for key in self._values if key in keys]
        for key in given[1:]:
            self.reject(key, f'"{given[0]}" is given already, expected only {one_of(keys)}')
        if not given and self._misspelt.isdisjoint(keys):
            self.problems.add(self._at, self.path, f"missing key, expected exactly {one_of(keys)}")
        return given[0] if len(given) == 1 else None

    def within(self, key: str, tree: MappingTree, *, keys: Collection[str]) -> "Section":
        """The mapping `tree` under `key` as a section of its own."""
        return Section(tree, path=self.path_of(key), keys=keys, problems=self.problems)


def unique_entries(tree: MappingTree, *, path: str, problems: Problems) -> Mapping[Scalar, Tree]:
    """A mapping's entries whose keys are text; reports other keys, and one that was there before."""
    unique: dict[str, tuple[Scalar, Tree]] = {}
    for key, value in tree.entries:
        if key.kind is Kind.MERGE:
            problems.add(key.at, path, "merge keys (<<) are not supported; write the keys out")
        elif key.kind is not Kind.TEXT:
            problems.add(key.at, path, f"found the key {found(key)}, which YAML reads as {key.kind}; put it in quotes")
        elif key.text in unique:
            first = unique[key.text][0]
            problems.add(key.at, path, f"duplicate key {found(key)}, given on line {first.at.line} already")
        else:
            unique[key.text] = (key, value)
    return dict(unique.values())
