"""What policyd costs: `make bench`, in under ten minutes, or three with `make bench ARGS=--quick`.

The same Envoy stands before the same provider again and again: alone, with a server that decides nothing, and with
policyd on each store and transport. All of it runs on one machine at once and is measured in turns, so that what
disturbs one disturbs all; the ratios are what to go by. CPU time a request says more than requests a second where
clients, Envoy, servers and provider share a few CPUs.

    plan.py           how much is measured
    parts/            what is measured, a module a part: its workloads, its tables, its targets
    part.py           what a part is, and what it measures with
    arrangements.py   what is compared, running
    run.py            parts -> samples
    samples.py        samples -> medians and ratios
    tables.py         which of them are shown
    targets.py        what they should be
    report.py         a run as text and JSON; readme.py as the README's tables; machine.py where, and of what
    baseline.py       whether ratios got worse: `make bench-check`

    processes.py      child processes, their CPU time and memory
    traffic.py        what is sent and answered
    upstream.py       the provider, a process of its own
    noop.py           the server that decides nothing, another; noop_on_h2rpc.py the same on the other transport
    deciding.py       an enforcer without sockets, another
    litellm.py        a peer, another
    load.py           what a load generator reports
    http_load.py      a load of HTTP requests; wrk.py the same by wrk, if the machine has it
    grpc_load.py      a load of gRPC calls, which are in calls.py

    hot_path.py       something else: what an exchange costs, message by message, of envoy_messages.py
    decisions.py      something else: what deciding costs, call by call, without processes
    hot_path.py       the same of whole exchanges, of the bytes in envoy_messages.py
    soak.py           and something else: whether memory stays flat, `make soak`
"""
