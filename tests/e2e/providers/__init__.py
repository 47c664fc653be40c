"""Every provider's wire formats by its own SDK: what to ask, what the provider answers, and what has to come of it.

case.py        what a case is, and what a call of an SDK leaves behind
simulated.py   a provider that gives the answers of the cases
the others     the cases, a module a provider
"""
