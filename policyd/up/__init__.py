"""`policyd up`: the server and a real Envoy in front of it, with one command.

binary.py    finds Envoy
admin.py     Envoy's admin interface
process.py   Envoy as a child process
run.py       server and Envoy together
"""

from policyd.up.binary import find_envoy
from policyd.up.process import EnvoyFailed, EnvoyProcess
from policyd.up.run import Mesh, Server, running

__all__ = ["EnvoyFailed", "EnvoyProcess", "Mesh", "Server", "find_envoy", "running"]
