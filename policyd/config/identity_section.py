"""`identity:` in the policy file: where attributes are taken from."""

import re
import warnings
from collections.abc import Callable, Mapping

from policyd.config import shapes, values
from policyd.config.problems import Mistake, Problems
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key
from policyd.config.values import expected, found
from policyd.config.yaml_tree import MappingTree, Scalar, Tree
from policyd.core.api_keys import KEY_HEADERS, KEY_PARAMETER
from policyd.core.attributes import ATTRIBUTE_LENGTH_MAX, REQUEST_ATTRIBUTES, Identity, Place, Source, check_value
from policyd.core.errors import AttributeInvalid
from policyd.core.grouping import MODEL_GROUP

_PLACES = tuple(Place)
_STRIPPABLE = (Place.HEADER, Place.QUERY, Place.COOKIE, Place.BODY)
"""What is part of the request."""
_EXAMPLE_SOURCE = "{header: x-policyd-user}"

_ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
"""What makes a regular expression take exponential time."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110

_CLAIM_PATH = re.compile(r"[^\x00-\x20]{1,256}")
_METADATA_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_COOKIE_NAME = _HEADER_NAME
_BODY_PATH = re.compile(r"[^.]+(\.[^.]+)*")

_PEER = {
    "uri": "connection.uri_san_peer_certificate",
    "dns": "connection.dns_san_peer_certificate",
    "subject": "connection.subject_peer_certificate",
    "sha256": "connection.sha256_peer_certificate_digest",
}
"""What a certificate tells of whose it is, by Envoy's names: the first of its alternative names of a kind, its subject
as RFC 2253 writes it, its digest in hexadecimal."""

_ADDRESS = {"client": "source.address"}
"""The connection's, or what `x-forwarded-for` says where Envoy trusts it (`xff_num_trusted_hops`)."""

_CREDENTIALS = {
    Place.HEADER: {"authorization", "proxy-authorization", "cookie", *KEY_HEADERS},
    Place.QUERY: {KEY_PARAMETER, "api_key", "api-key", "access_token"},
}
"""Where the providers' clients put credentials: attributes are stored and logged, so these can be none."""
_NO_CREDENTIAL = {place: {"not": shapes.words(*sorted(names))} for place, names in _CREDENTIALS.items()}

_SOURCE_KEYS = {
    Place.HEADER: Key({**shapes.matching(_HEADER_NAME), **_NO_CREDENTIAL[Place.HEADER]}, "A header of the request."),
    Place.QUERY: Key({**shapes.PRINTABLE, **_NO_CREDENTIAL[Place.QUERY]}, "A parameter of the query."),
    Place.COOKIE: Key(shapes.matching(_COOKIE_NAME), "A cookie."),
    Place.BODY: Key(shapes.matching(_BODY_PATH), "A field of the body, or a dotted path such as metadata.user_id."),
    Place.CLAIM: Key(shapes.matching(_CLAIM_PATH), "A claim of a token that Envoy's jwt_authn has verified."),
    Place.PEER: Key(shapes.words(*_PEER), "What the client's certificate says."),
    Place.ROUTE: Key(shapes.matching(_METADATA_KEY), "A key of filter_metadata.policyd of Envoy's route."),
    Place.ADDRESS: Key(shapes.words(*_ADDRESS), "The client's IP address, as Envoy computes it."),
    Place.API_KEY: Key(shapes.matching(_ATTRIBUTE_NAME), "An attribute of an API key of policyd's own, or its name."),
    Place.DEFAULT: Key({**shapes.PRINTABLE, "maxLength": ATTRIBUTE_LENGTH_MAX}, "The same for all; the last source."),
    "strip": Key(shapes.BOOLEAN, "Whether it is taken out of the request before that goes upstream."),
    "pattern": Key(shapes.TEXT, "A regular expression that the whole value has to match."),
    "max_length": Key(shapes.whole_number(1, ATTRIBUTE_LENGTH_MAX), "The longest value, in characters."),
}
_STRIPPED = shapes.any_of(*({"required": [place]} for place in _STRIPPABLE))
_RESTRICTED = {"not": {"required": [Place.DEFAULT]}}
_SOURCE_SHAPE = shapes.record(
    _SOURCE_KEYS,
    **shapes.exactly_one(_PLACES),
    dependentSchemas={"strip": _STRIPPED, "pattern": _RESTRICTED, "max_length": _RESTRICTED},
)
IDENTITY_SHAPE = shapes.named(
    shapes.items(_SOURCE_SHAPE),
    names={**shapes.matching(_ATTRIBUTE_NAME), "not": shapes.words(*REQUEST_ATTRIBUTES, MODEL_GROUP)},
)

_ROUTE_METADATA = "xds.route_metadata.filter_metadata['policyd']['{}']"


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
    key = section.exactly_one(_PLACES)
    if key is None:
        return None
    place = Place(key)
    if place not in _STRIPPABLE and "strip" in section:
        section.reject("strip", f"a {place} is no part of the request, so there is nothing to strip")
    if place is Place.DEFAULT:
        for restriction in ("pattern", "max_length"):
            if restriction in section:
                section.reject(restriction, "a default is the operator's own, so there is nothing to restrict")
        return Source(place, section.read(key, _default, ""))
    return Source(
        place,
        section.read(key, _NAME_PARSERS[place], ""),
        strip=section.read("strip", values.boolean, place in _STRIPPABLE and place is not Place.BODY),
        pattern=section.read("pattern", _pattern, None),
        max_length=section.read("max_length", values.whole_number(1, ATTRIBUTE_LENGTH_MAX), ATTRIBUTE_LENGTH_MAX),
    )


def _pattern(tree: Tree) -> str:
    pattern = values.text(tree)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a pattern that a later Python reads in another way
            re.compile(pattern)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise Mistake(tree.at, f"found {found(tree)}, which is no regular expression: {error}") from None
    if _REPEATED_GROUP.search(pattern):
        raise Mistake(
            tree.at, f"found {found(tree)}, which repeats a group: a hostile value could keep it busy for ever"
        )
    return pattern


def _default(tree: Tree) -> str:
    try:
        return check_value("the default", values.text(tree))
    except AttributeInvalid as error:
        raise Mistake(tree.at, str(error)) from None


def _header_name(tree: Tree) -> str:
    name = values.text(tree)
    if not _HEADER_NAME.fullmatch(name):
        raise expected(tree, "the name of a header")
    return _not_credential(Place.HEADER, tree, name.lower())


def _query_name(tree: Tree) -> str:
    return _not_credential(Place.QUERY, tree, values.printable(tree))


def _cookie_name(tree: Tree) -> str:
    name = values.text(tree)
    if not _COOKIE_NAME.fullmatch(name):
        raise expected(tree, "the name of a cookie")
    return name


def _claim_path(tree: Tree) -> str:
    path = values.text(tree)
    if not _CLAIM_PATH.fullmatch(path):
        raise expected(tree, "a claim of a token, or a dotted path such as realm.team")
    return path


def _key_attribute(tree: Tree) -> str:
    name = values.text(tree)
    if not _ATTRIBUTE_NAME.fullmatch(name):
        raise expected(tree, "an attribute that keys are created with, or name")
    return name


def _route_metadata(tree: Tree) -> str:
    name = values.text(tree)
    if not _METADATA_KEY.fullmatch(name):
        raise expected(tree, "a key of the route's metadata: letters, digits, dots, dashes and _, 64 at most")
    return _ROUTE_METADATA.format(name)


def _word_for(words: Mapping[str, str]) -> Callable[[Tree], str]:
    """A parser for one of `words`, which Envoy has names of its own for."""
    return lambda tree: words[values.word(tuple(words))(tree)]


def _body_path(tree: Tree) -> str:
    path = values.printable(tree)
    if not _BODY_PATH.fullmatch(path):
        raise expected(tree, "a field of the body, or a dotted path such as metadata.user_id")
    return path


def _not_credential(place: Place, tree: Tree, name: str) -> str:
    if name in _CREDENTIALS[place]:
        raise Mistake(tree.at, f"{found(tree)} carries a credential, and attributes are stored and logged")
    return name


_NAME_PARSERS: Mapping[Place, Callable[[Tree], str]] = {
    Place.HEADER: _header_name,
    Place.QUERY: _query_name,
    Place.COOKIE: _cookie_name,
    Place.BODY: _body_path,
    Place.CLAIM: _claim_path,
    Place.API_KEY: _key_attribute,
    Place.PEER: _word_for(_PEER),
    Place.ROUTE: _route_metadata,
    Place.ADDRESS: _word_for(_ADDRESS),
}
