"""Estimate, reserve, settle: the one path on which money is held and charged.

Both edges (`ext_proc` for Envoy, `api` for other services) come through here. The enforcer joins the rules of
`policyd.core` with the token counter, the price book, the store and a clock, and hands every finished exchange's record
to its observer.
"""

from policyd.enforcer.endings import RELEASED, Ended, Ending, reported_ending
from policyd.enforcer.enforcer import Enforcer
from policyd.enforcer.observer import Observer
from policyd.enforcer.verdict import Verdict

__all__ = ["RELEASED", "Ended", "Ending", "Enforcer", "Observer", "Verdict", "reported_ending"]
