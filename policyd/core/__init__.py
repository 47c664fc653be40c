"""The rules of money and time.

Pure: no I/O, no clock, no gRPC, no store driver, nothing beside the standard library. Time comes in as `now_ms`
(integer milliseconds since the epoch, UTC); money is integer nano-USD.
"""
