"""What policyd costs a request: `make bench`, half a minute with `make bench ARGS=--quick`.


The same Envoy stands before the same provider seven times: alone, with a server that decides nothing, and with policyd
on two stores, each on two transports. All of it runs on one machine at once and is measured in turns, so that what
disturbs one disturbs all; the ratios are what to go by. CPU time a request says more than requests a second where
clients, Envoy, servers and provider share a few CPUs.

    traffic.py        what is sent and answered
    upstream.py       the provider, a process of its own
    noop.py           the server that decides nothing, another; noop_on_h2rpc.py the same on the other transport
    processes.py      child processes and their CPU time
    arrangements.py   what is compared, running
    load.py           what a load generator reports
    http_load.py      a load of HTTP requests; wrk.py the same by wrk, if the machine has it
    grpc_load.py      a load of gRPC calls, which are in calls.py
    plan.py           how much is measured
    run.py            rounds of loads -> samples
    samples.py        samples -> medians and ratios
    tables.py         which of them are shown
    machine.py        where, and of what
    report.py         text and JSON

    soak.py           something else: whether memory stays flat, `make soak`
"""
