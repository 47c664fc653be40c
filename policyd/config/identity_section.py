"""`identity:` in the policy file: where attributes are taken from."""

import re

from policyd.config import values
from policyd.config.problems import Mistake, Problems
from policyd.config.section import Section, unique_entries
from policyd.config.values import expected, found
from policyd.config.yaml_tree import MappingTree, Scalar, Tree
from policyd.core.attributes import REQUEST_ATTRIBUTES, Identity, Place, Source, check_value
from policyd.core.errors import AttributeInvalid
from policyd.core.grouping import MODEL_GROUP

_SOURCE_KEYS = (*Place, "strip")
_EXAMPLE_SOURCE = "{header: x-policyd-user}"

_ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, in lower case

_CREDENTIALS = {
    Place.HEADER: {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"},
    Place.QUERY: {"key", "api_key", "api-key", "access_token"},
}
"""Where the providers' clients put credentials: attributes are stored and logged, so these can be none."""


def read_identity(tree: MappingTree, *, path: str, problems: Problems) -> Identity:
    """The identity sources.

    An attribute whose name is wrong stays in: a limit that refers to it is no second mistake.
    """
    sources = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        problems.attempt(path, _attribute_name, key, None)
        sources[key.text] = _sources(value, path=f"{path}.{key.text}", problems=problems)
    return Identity(sources)


def _attribute_name(key: Scalar) -> str:
    if key.text in (*REQUEST_ATTRIBUTES, MODEL_GROUP):
        raise Mistake(key.at, f"{found(key)} is set by the request itself and takes no sources")
    if not _ATTRIBUTE_NAME.fullmatch(key.text):
        raise expected(key, "a name that begins with a letter, of lower-case letters, digits and _, 64 at most")
    return key.text


def _sources(tree: Tree, *, path: str, problems: Problems) -> tuple[Source, ...]:
    trees = problems.attempt(path, values.items(f"[{_EXAMPLE_SOURCE}]"), tree, ())
    sources = [_source(item, path=f"{path}[{index}]", problems=problems) for index, item in enumerate(trees)]
    for index, source in enumerate(sources[:-1]):
        if source is not None and source.place is Place.DEFAULT:
            problems.add(
                trees[index].at, f"{path}[{index}]", "a default has to be last: no source after it is ever read"
            )
    return tuple(source for source in sources if source is not None)


def _source(tree: Tree, *, path: str, problems: Problems) -> Source | None:
    entries = problems.attempt(path, values.mapping(_EXAMPLE_SOURCE), tree, None)
    if entries is None:
        return None
    section = Section(entries, path=path, keys=_SOURCE_KEYS, problems=problems)
    key = section.exactly_one(tuple(Place))
    if key is None:
        return None
    place = Place(key)
    if place is Place.DEFAULT:
        if "strip" in section:
            section.reject("strip", "a default is no part of the request, so there is nothing to strip")
        return Source(place, section.read(key, _default, ""))
    stripped = section.read("strip", values.boolean, place is not Place.BODY)
    return Source(place, section.read(key, _NAME_PARSERS[place], ""), strip=stripped)


def _default(tree: Tree) -> str:
    try:
        return check_value("the default", values.text(tree))
    except AttributeInvalid as error:
        raise Mistake(tree.at, str(error)) from None


def _header_name(tree: Tree) -> str:
    name = values.text(tree).lower()
    if not _HEADER_NAME.fullmatch(name):
        raise expected(tree, "the name of a header")
    return _not_credential(Place.HEADER, tree, name)


def _query_name(tree: Tree) -> str:
    return _not_credential(Place.QUERY, tree, values.printable(tree))


def _body_path(tree: Tree) -> str:
    path = values.printable(tree)
    if not all(path.split(".")):
        raise expected(tree, "a field of the body, or a dotted path such as metadata.user_id")
    return path


def _not_credential(place: Place, tree: Tree, name: str) -> str:
    if name in _CREDENTIALS[place]:
        raise Mistake(tree.at, f"{found(tree)} carries a credential, and attributes are stored and logged")
    return name


_NAME_PARSERS = {Place.HEADER: _header_name, Place.QUERY: _query_name, Place.BODY: _body_path}
