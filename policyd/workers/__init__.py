"""Several processes that serve as one: `policyd serve --workers N`.

    supervisor  ---starts, restarts, signals--->  N workers, each a server of its own
        |                                           ext_proc      an address each, listed as Envoy's endpoints
        |                                           PolicyService one port, shared by SO_REUSEPORT
        '-- /metrics, /healthz, /readyz of all      log lines     passed on by the supervisor, whole

worker.py      one worker, whichever process it is at the moment
supervisor.py  all of them
pages.py       their metrics as one page
ports.py       the ports, kept while a worker is restarted
"""

from policyd.workers.supervisor import Supervisor
from policyd.workers.worker import TOKEN_VARIABLE

__all__ = ["TOKEN_VARIABLE", "Supervisor"]
