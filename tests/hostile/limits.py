"""How long a test that tries any input may try."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

BOUNDED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
