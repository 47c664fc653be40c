"""The store in Redis 6.2 or newer, or Valkey: for any number of replicas of policyd.

    redis://user:password@host:6379/0                   one server
    redis+sentinel://host:26379,host:26379/master/0     the master that sentinels name, found again after a failover
    redis+cluster://host:6379,host:6379                 a cluster; some of its nodes, the rest is learnt from them

`rediss`, `rediss+sentinel` and `rediss+cluster` speak TLS. Options stand behind a `?`, with `&` between:

    timeout=500ms           how long one call may take; a decision takes one, in a cluster a few
    connect_timeout=500ms   how long connecting may take, for each sentinel anew
    tls_ca=/path/ca.pem     who signs the servers' certificates, instead of the system's authorities
    prefix=policyd:         what every key begins with: several policyds can share a Redis
    partition=org           cluster only: which attribute's accounts are kept together
    sentinel_password=...   where the sentinels want one too

**What survives.** A call returns once Redis has answered. What Redis may lose after that is Redis's to set: with
`appendfsync always` nothing on that server; with `everysec` the last second before its process or machine dies (up to
two on a slow disk); without an append-only file all since the last snapshot. A failover loses what the new master had
not received yet, for replication does not wait. What is lost are whole calls: a lost reserve is a hold that nobody
counts, and settling it is `ReservationNotFound`, upon which the process that made it charges its exchange all the same
(`policyd.stores.outage`); a lost settle is a hold that expires and is charged as such. Set `appendonly yes`,
`maxmemory-policy noeviction` (a budget that is evicted starts again at nothing), and for failovers
`min-replicas-to-write 1`.

**Errors.** `StoreUnavailable` if the call was never carried out: no connection, or Redis says so. `StoreError` if it
was sent and no answer came. A `reserve`, `settle`, `release` or `renew` may be repeated: it has its effect once. While
Redis does not answer, calls fail at once, but for one in each pause that tries again (`link`).

**Speed.** Calls of one turn of the event loop go out as one write (`connection`). With 16 and more at once a call costs
21 us of CPU, with redis-py's client and one call each 72 us: 0.30 of it (`python -m tests.bench.redis_store`).

**One step.** Each call is one Lua script (`lua/`), except in a cluster, where accounts of one request may be on several
nodes. There `reserve` holds one shard after the other, at last the reservation's own; if one refuses, the others are
given back (`holding`). An account never holds too little; for a moment it may hold too much, and then refuse a request
that would have fitted. `settle` and `release` are decided by the reservation's own shard; a shard that cannot follow at
once is brought up by a sweep once its part is due (`ending`). So after a crash between two shards nothing is charged
twice and no hold stays. `balances`, listings and sweeps see each shard at its own moment. With `partition=org` all
accounts whose scope has an `org` lie in that org's shard. It cannot be changed later, nor can the prefix.
While a slot is being moved to another node its shard is refused. A cluster answers a ping, and policyd is ready, while
any of its shards does: requests on the others fail, and at another replica they would too.

**Clocks.** No script asks for the time. Clocks of replicas may differ by the policy's `grace` (5 s): a sweep that much
ahead expires no hold that another replica keeps alive.

**Usage records** stand in the stream `policyd:usage`, one entry an exchange with the field `record`: the JSON of
`policyd.core.record.Record`, as `policyd.stores.codec` writes it. A warehouse drains it with XREAD or a consumer group,
and takes the last one of a `request_id`: an expiry that was corrected comes again. A cluster has a stream in each of
its shards (`policyd:{*}:usage`). Records are deleted when they are older than the policy's `usage_kept` (90 days).

**Rights.** A user needs no more than this, and `policyd:` is the prefix:

    ACL SETUSER policyd on >PASSWORD ~policyd:* +@read +@write +@scripting +@connection +cluster|slots +role

Amounts are exact: Redis's Lua counts in doubles, so no account may pass 2^53 - 1 (9 million USD). A call that would
make one is refused without effect.
"""
