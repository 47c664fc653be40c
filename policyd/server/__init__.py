"""policyd as one process: everything put together, started in order, and stopped without losing a charge.

server.py        the process: what there is, from its start to its end
sources.py       the files it goes by, each in force until a better one replaces it
opened_store.py  the store, with a journal for when it is away
memory.py        what loading leaves behind
listeners.py     where Envoy and other services are answered
chores.py        what has to be done again and again
"""

from policyd.server.server import Server

__all__ = ["Server"]
