"""YAML as a tree of texts that know where they stand.

The tree keeps what a careful reader needs and YAML's own loaders drop: every value's line, a scalar's very text (money
never passes through a float), keys that are given twice. Nothing is constructed, so no tag can run anything; the tree's
size is bounded with its aliases expanded, so no short file can stand for a huge one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import yaml
from yaml.nodes import Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from policyd.config.problems import Mistake, Position

FILE_BYTES_MAX = 1024 * 1024
"""The largest policy file; one with a thousand limits has a tenth of this."""

DEPTH_MAX = 20
VALUES_MAX = 100_000
"""How deep lists and mappings may nest, and how many values there may be: far more than a sensible file has."""


class Kind(StrEnum):
    """What YAML takes an unquoted scalar for. A quoted one is always `TEXT`."""

    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "a boolean"
    DATE = "a date"
    NOTHING = "nothing"
    MERGE = "a merge key"


@dataclass(frozen=True, slots=True)
class Scalar:
    at: Position
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class ListTree:
    at: Position
    items: "tuple[Tree, ...]"


@dataclass(frozen=True, slots=True)
class MappingTree:
    at: Position
    entries: "tuple[tuple[Scalar, Tree], ...]"
    """As written: a key may come twice."""


Tree = Scalar | ListTree | MappingTree


def parse_yaml(content: str | bytes) -> Tree | None:
    """The one document in `content`, `None` if there is nothing in it. Raises `Mistake`."""
    text = _decode(content)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except ReaderError as error:
        raise Mistake(_position_in(text, error.position), "a control character, which YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_mistake(text, error) from None
    return _TreeBuilder().build(root) if root is not None else None


def _decode(content: str | bytes) -> str:
    if len(content) > FILE_BYTES_MAX:
        raise Mistake(Position(1, 1), f"the file is larger than {FILE_BYTES_MAX} bytes")
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Mistake(Position(line, 1), f"byte {content[error.start]:#04x} is not UTF-8") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, with a bound on its recursion and no errors but those of YAML."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self._depth > DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise Mistake(Position(mark.line + 1, mark.column + 1), f"nested deeper than {DEPTH_MAX} levels")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def fetch_more_tokens(self) -> None:
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError):
            # It converts the numbers of directives and escapes unchecked.
            message = "not YAML: a directive or an escape with a number out of range"
            raise Mistake(Position(self.line + 1, self.column + 1), message) from None


def _syntax_mistake(text: str, error: yaml.MarkedYAMLError) -> Mistake:
    mark = error.problem_mark
    if mark is None:
        return Mistake(Position(1, 1), f"not YAML: {error.problem}")
    at = Position(mark.line + 1, mark.column + 1)
    if text[mark.index : mark.index + 1] == "\t":
        return Mistake(at, "a tab, where YAML takes only spaces")
    began = error.context_mark
    context = f"{error.context} (begun on line {began.line + 1}), " if error.context and began else ""
    return Mistake(at, f"not YAML: {context}{error.problem}")


def _position_in(text: str, index: int) -> Position:
    line_start = text.rfind("\n", 0, index) + 1
    return Position(text.count("\n", 0, index) + 1, index - line_start + 1)


_PREFIX = "tag:yaml.org,2002:"
_SCALAR_KINDS: Mapping[str, Kind] = {
    f"{_PREFIX}str": Kind.TEXT,
    f"{_PREFIX}value": Kind.TEXT,
    f"{_PREFIX}int": Kind.NUMBER,
    f"{_PREFIX}float": Kind.NUMBER,
    f"{_PREFIX}bool": Kind.BOOLEAN,
    f"{_PREFIX}timestamp": Kind.DATE,
    f"{_PREFIX}null": Kind.NOTHING,
    f"{_PREFIX}merge": Kind.MERGE,
}
_COLLECTION_TAGS = (f"{_PREFIX}seq", f"{_PREFIX}map")


class _TreeBuilder:
    """Turns PyYAML's nodes into a tree. An alias shares its anchor's tree, and counts with all that is in it."""

    def __init__(self) -> None:
        self._built: dict[int, tuple[Tree, int]] = {}
        self._open: set[int] = set()

    def build(self, node: Node) -> Tree:
        return self._sized(node)[0]

    def _sized(self, node: Node) -> tuple[Tree, int]:
        """A node's tree and the number of values in it."""
        identity = id(node)
        if identity not in self._built:
            at = Position(node.start_mark.line + 1, node.start_mark.column + 1)
            if identity in self._open:
                raise Mistake(at, "an alias stands inside the value that it is an alias of")
            self._open.add(identity)
            tree, size = self._build(node, at)
            self._open.remove(identity)
            if size > VALUES_MAX:
                raise Mistake(at, f"more than {VALUES_MAX} values, aliases counted in full")
            self._built[identity] = tree, size
        return self._built[identity]

    def _build(self, node: Node, at: Position) -> tuple[Tree, int]:
        if isinstance(node, ScalarNode):
            return _scalar(node, at), 1
        if node.tag not in _COLLECTION_TAGS:
            raise Mistake(at, f"the tag {_shown_tag(node)} is not supported")
        if isinstance(node, SequenceNode):
            items = [self._sized(item) for item in node.value]
            return ListTree(at, tuple(tree for tree, _ in items)), 1 + sum(size for _, size in items)
        entries = [(self._key(key), self._sized(value)) for key, value in node.value]
        return MappingTree(at, tuple((key, tree) for key, (tree, _) in entries)), 1 + sum(s for _, (_, s) in entries)

    def _key(self, node: Node) -> Scalar:
        key = self.build(node)
        if not isinstance(key, Scalar):
            raise Mistake(key.at, "a list or mapping as a key, expected text")
        return key


def _scalar(node: ScalarNode, at: Position) -> Scalar:
    kind = _SCALAR_KINDS.get(node.tag)
    if kind is None:
        raise Mistake(at, f"the tag {_shown_tag(node)} is not supported")
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise Mistake(at, "half a surrogate pair, which is not a character")
    return Scalar(at, node.value, kind)


def _shown_tag(node: Node) -> str:
    return f"!!{node.tag.removeprefix(_PREFIX)}" if node.tag.startswith(_PREFIX) else str(node.tag)
