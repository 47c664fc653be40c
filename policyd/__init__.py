"""policyd keeps LLM spending inside its budget: a policy decision service and Envoy `ext_proc` filter."""

from importlib.metadata import version

__version__ = version("policyd")
