"""`degraded:` in the policy file: what is set aside for an outage of the store."""

from policyd.config import shapes, values
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.values import whole_number

_KEYS = {
    "share_percent": Key(
        shapes.whole_number(1, 100), "How much of each budget a process leases beforehand; the default is 1."
    ),
}
DEGRADED_SHAPE = shapes.record(_KEYS)


def read_lease_percent(section: Section, default: int) -> int:
    tree = section.read("degraded", values.mapping("{share_percent: 1}"), None)
    if tree is None:
        return default
    return section.within("degraded", tree, keys=_KEYS).read("share_percent", whole_number(1, 100), default)
