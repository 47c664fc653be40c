"""Faults on real parts: `make test-faults` breaks one part of a running mesh under load, mends it, and does the sums.

    clients --> Envoy --> the simulated provider      each a process of its own
                  |
               policyd --> SQLite, or Redis (behind a proxy that can stop forwarding)

The provider writes a bill that survives `kill -9`, by a session that only one request has; the ledger keeps the same
session. So each request's charge is compared with what the provider served for it, and not only their sums.

faults.py      the table: what breaks, how it is mended, what may differ afterwards
stage.py       the parts, running
clients.py     clients beside the load
provider.py    the provider and its bill
partition.py   the proxy
audit.py       bill against ledger
running.py     one fault from beginning to end

`test_faults.py` plays the quickest of them in `make test`.
"""
