"""`reservations:` in the policy file: how long holds live, and how long their ends are remembered."""

from policyd.config import shapes, values
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.values import choice, duration_seconds
from policyd.core.policy import OnExpiry, Reservations

_KEYS = {
    "ttl": Key(shapes.SPAN, "How long a hold lives without a sign of life; the default is 120s."),
    "lean_ttl": Key(shapes.SPAN, "How long a hold of the lean profile lives; the default is 15m."),
    "grace": Key(shapes.SPAN, "And how much longer before it expires: more than clocks differ."),
    "on_expiry": Key(shapes.choice(OnExpiry), "What an abandoned hold is charged; the default is hold."),
    "ended_kept": Key(shapes.SPAN, "How long a repeated settle is recognised; the default is 1h."),
    "usage_kept": Key(shapes.SPAN, "How long usage records are kept, in whole days; the default is 90d."),
}
RESERVATIONS_SHAPE = shapes.record(_KEYS)


def read_reservations(section: Section, defaults: Reservations) -> Reservations:
    tree = section.read("reservations", values.mapping("{ttl: 120s}"), None)
    if tree is None:
        return defaults
    within = section.within("reservations", tree, keys=_KEYS)
    return Reservations(
        ttl_seconds=within.read("ttl", duration_seconds(minimum=1), defaults.ttl_seconds),
        lean_ttl_seconds=within.read("lean_ttl", duration_seconds(minimum=1), defaults.lean_ttl_seconds),
        grace_seconds=within.read("grace", duration_seconds(minimum=0), defaults.grace_seconds),
        on_expiry=within.read("on_expiry", choice(OnExpiry), defaults.on_expiry),
        ended_kept_seconds=within.read("ended_kept", duration_seconds(minimum=1), defaults.ended_kept_seconds),
        usage_kept_days=within.read("usage_kept", values.whole_days, defaults.usage_kept_days),
    )
