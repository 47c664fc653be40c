"""Envoy's gRPC access log: how exchanges of the lean profile end, told by the Envoy that saw them.

    entry.py         what an entry says of an exchange, in plain types
    charging.py      an entry and the hold's record -> how the exchange ended and what it is charged
    settling.py      the entries of a message are settled, each once
    over_grpcio.py   the service on grpc.aio
    over_h2rpc.py    the same on h2rpc

An entry names its hold, and the store knows it. So it does not matter which process gets an entry, when, in which
order, or how often. While the store is away, or the hold waits in a journal, the entry waits here, for a quarter of an
hour in all, and while no more than 20,000 wait.
"""
