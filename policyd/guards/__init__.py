"""What stands before whoever connects: TLS, certificates of clients, and bearer tokens.

guards.py  all of them, as the settings say
tls.py     certificates, and how to serve with them
access.py  bearer tokens
"""

from policyd.guards.guards import Guards, worker_pages

__all__ = ["Guards", "worker_pages"]
