"""What operators set and look at while policyd runs: budgets, blocks, freezes, API keys; sessions and events.

desk.py            the store, the policy and the moment that a command works with
reading.py         what the arguments of a command mean
budgets.py         amounts that go before the policy's, fresh starts, and how budgets stand
blocks.py          who is refused whatever the budgets
keys.py            API keys of policyd's own
events.py          what rules and anomalies have told
tables.py          all of these as text and as JSON
commands.py        the commands themselves
key_commands.py    those of keys
event_commands.py  those of events

The commands act on the store directly, and what they set holds for the next request of every server that shares it.
"""
