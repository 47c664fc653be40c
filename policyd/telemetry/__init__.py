"""Metrics and the log line, both fed by the one record that an exchange ends with."""

from policyd.telemetry.line_writer import LineWriter
from policyd.telemetry.log_line import log_line, usage_fields
from policyd.telemetry.metrics import LABEL_LENGTH_MAX, LABEL_VALUES_MAX, UNSERVED_MODELS_MAX, Telemetry

__all__ = [
    "LABEL_LENGTH_MAX",
    "LABEL_VALUES_MAX",
    "UNSERVED_MODELS_MAX",
    "LineWriter",
    "Telemetry",
    "log_line",
    "usage_fields",
]
