"""`model_groups:` in the policy file: models under one name, the attribute `model_group` of `match` and `per`."""

from collections.abc import Iterator, Sequence

from policyd.config import shapes, values
from policyd.config.coverage import covers
from policyd.config.matching import read_globs
from policyd.config.section import Section, unique_entries
from policyd.config.values import group_name
from policyd.core.grouping import ModelGroup, ModelGroups

MODEL_GROUPS_SHAPE = shapes.named(shapes.PATTERNS, names=shapes.GROUP)

_EXAMPLE = '{small: ["*-mini", claude-haiku-4-5], frontier: ["gpt-5*", "claude-opus-*"]}'


def read_model_groups(section: Section) -> ModelGroups:
    tree = section.read("model_groups", values.mapping(_EXAMPLE), None)
    if tree is None:
        return ModelGroups()
    path, problems = section.path_of("model_groups"), section.problems
    groups: list[ModelGroup] = []
    for key, value in unique_entries(tree, path=path, problems=problems).items():
        problems.attempt(path, group_name, key, None)
        globs = read_globs(value, path=f"{path}.{key.text}", problems=problems)
        for message in _unreachable(globs, groups):
            problems.add(value.at, f"{path}.{key.text}", message)
        groups.append(ModelGroup(key.text, globs))
    return ModelGroups(tuple(groups))


def _unreachable(globs: Sequence[str], before: Sequence[ModelGroup]) -> Iterator[str]:
    for glob in globs:
        taken = next(((group, other) for group in before for other in group.patterns if covers(other, glob)), None)
        if taken is not None:
            message = f'every model that fits "{glob}" is in {taken[0].name} already, by "{taken[1]}"'
            yield f"{message}; the first group that fits is a model's"
