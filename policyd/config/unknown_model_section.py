"""`unknown_model:` in the policy file: what a model without a price costs."""

from policyd.config import shapes, values
from policyd.config.section import Section
from policyd.config.shapes import Key, Keys
from policyd.config.yaml_tree import MappingTree
from policyd.core.policy import UnknownModel, UnknownModelAction

_EXAMPLE = "{price_as: gpt-4o}"
_WORDS = (UnknownModelAction.DENY, UnknownModelAction.FREE)
_KEYS: Keys = {UnknownModelAction.PRICE_AS: Key(shapes.TEXT, "A model that has a price.")}

UNKNOWN_MODEL_SHAPE = shapes.any_of(shapes.words(*_WORDS), shapes.record(_KEYS, required=tuple(_KEYS)))


def read_unknown_model(section: Section, default: UnknownModel) -> UnknownModel:
    if "unknown_model" not in section:
        return default
    tree = section["unknown_model"]
    if not isinstance(tree, MappingTree):
        word = values.word(_WORDS, others=(_EXAMPLE,))
        return UnknownModel(UnknownModelAction(section.read("unknown_model", word, UnknownModelAction.DENY)), None)
    expectation = "the name of a model that has a price"
    within = section.within("unknown_model", tree, keys=_KEYS)
    model = within.require(UnknownModelAction.PRICE_AS, values.printable, None, expectation=expectation)
    return UnknownModel(UnknownModelAction.PRICE_AS, model)
