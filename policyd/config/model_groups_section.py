"""`model_groups:` in the policy file: models under one name, the attribute `model_group` of `match` and `per`."""

from collections.abc import Iterator, Sequence

from policyd.config import values
from policyd.config.matching import read_globs
from policyd.config.section import Section, unique_entries
from policyd.config.values import group_name
from policyd.core.grouping import ModelGroups

_EXAMPLE = '{frontier: ["gpt-5*", "claude-opus-*"]}'


def read_model_groups(section: Section) -> ModelGroups:
    tree = section.read("model_groups", values.mapping(_EXAMPLE), None)
    if tree is None:
        return ModelGroups()
    path, problems = section.path_of("model_groups"), section.problems
    groups: dict[str, tuple[str, ...]] = {}
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        problems.attempt(path, group_name, key, None)
        globs = read_globs(value, path=f"{path}.{key.text}", problems=problems)
        for other, others in groups.items():
            for glob, taken in _both_fit(globs, others):
                message = f'some model fits both "{glob}" and "{taken}" of {other}; a model is in one group at most'
                problems.add(value.at, f"{path}.{key.text}", message)
        groups[key.text] = globs
    return ModelGroups(groups)


def _both_fit(globs: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((glob, other) for glob in globs for other in others if globs_overlap(glob, other))


def globs_overlap(glob: str, other: str) -> bool:
    """Whether some text fits both shell-style patterns. A set (`[ab]`) counts as `?`: yes may be wrong, no never."""
    pieces, others = _pieces(glob), _pieces(other)
    # For every rest of `others`, from the whole to nothing: does it overlap with what of `pieces` was looked at?
    overlaps = [set(others[start:]) <= {"*"} for start in range(len(others) + 1)]
    for piece in reversed(pieces):
        following, overlaps = overlaps, [False] * (len(others) + 1)
        for start in reversed(range(len(others) + 1)):
            at_end = start == len(others)
            if piece == "*":
                overlaps[start] = following[start] or (not at_end and overlaps[start + 1])
            elif not at_end and others[start] == "*":
                overlaps[start] = following[start] or overlaps[start + 1]
            elif not at_end:
                overlaps[start] = following[start + 1] and (piece == others[start] or "?" in (piece, others[start]))
    return overlaps[0]


def _pieces(glob: str) -> list[str]:
    """One for each character, `?` for a set of them, `*`."""
    pieces, at = [], 0
    while at < len(glob):
        end = glob.find("]", at + 2) if glob[at] == "[" else -1
        pieces.append("?" if end >= 0 else glob[at])
        at = max(at, end) + 1
    return pieces
