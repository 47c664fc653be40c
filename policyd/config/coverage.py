"""What follows from what among conditions and patterns, to find what can never be reached.

`implies` is sound and not complete: it says so only where it is certain, because what it finds is told as a mistake.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from policyd.core.policy import Match
from policyd.core.rules import AllOf, AnyOf, Condition, EstimateReaches, Matches, Not, UsageAbsolute, UsagePercent

Name = TypeVar("Name", bound=str)


def implies(first: Condition, second: Condition) -> bool:
    """Whether `second` holds for every request for which `first` does."""
    return all(_follows(each, first) for each in _conjuncts(second))


def _conjuncts(condition: Condition) -> Sequence[Condition]:
    """The conditions that all have to hold."""
    match condition:
        case AllOf(parts):
            return [each for part in parts for each in _conjuncts(part)]
        case Matches(match):
            return [Matches(Match({name: globs})) for name, globs in match.patterns.items()]
        case _:
            return [condition]


def _follows(wanted: Condition, given: Condition) -> bool:
    match given, wanted:
        case _ if given == wanted:
            return True
        case AnyOf(parts), _:
            return all(_follows(wanted, part) for part in parts)
        case _, AnyOf(alternatives) if any(implies(given, each) for each in alternatives):
            return True
        case AllOf(parts), _:
            return any(_follows(wanted, part) for part in parts)
        case Not(excluded), Not(less):
            return implies(less, excluded)
        case _:
            return _is_stricter(given, wanted)


def _is_stricter(given: Condition, wanted: Condition) -> bool:
    """Of two conditions that have none within."""
    match given, wanted:
        case Matches(some), Matches(fewer):
            return all(_all_fit(some, name, globs) for name, globs in fewer.patterns.items())
        case EstimateReaches(more), EstimateReaches(least):
            return _reaches(more, least)
        case UsagePercent(percents), UsagePercent(percents_least):
            return _reaches(percents, percents_least)
        case UsageAbsolute(amounts), UsageAbsolute(amounts_least):
            return _reaches(amounts, amounts_least)
        case _:
            return False


def _all_fit(given: Match, name: str, globs: Sequence[str]) -> bool:
    patterns = given.patterns.get(name)
    return patterns is not None and all(any(covers(glob, each) for glob in globs) for each in patterns)


def _reaches(given: Mapping[Name, int], least: Mapping[Name, int]) -> bool:
    return all(name in given and given[name] >= amount for name, amount in least.items())


def covers(glob: str, other: str) -> bool:
    """Whether whatever fits the pattern `other` fits `glob` too, as two samples of it tell. A pattern with a set of
    characters is known to cover itself alone."""
    if glob == other:
        return True
    if "[" in glob + other:
        return False
    some = other.replace("?", "\0")
    return fnmatchcase(some.replace("*", ""), glob) and fnmatchcase(some.replace("*", "\0\0"), glob)
