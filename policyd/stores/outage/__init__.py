"""What becomes of requests and charges while the store is away.

    call --> time bound --> circuit breaker --> store
               |  no answer      |  open
               +-----------------+--> `failure_mode`    closed   `StoreUnavailable`: the edge answers 503
                                                        open     held and charged in the journal
                                                        degraded the same, within what is leased (`leases`)
    settle, release, what was used without a hold -------------> in every mode: the journal

**Bounds** (`guard`). A call of a decision or a settlement has `--store-timeout` (1 s) to be answered. After
`FAILURES_MAX` that failed or took half of that or longer, in a row, the breaker opens: calls fail at once, and a ping
in each `mend` (twice a second) finds out when the store is back. So an outage costs few requests the bound, and the
others nothing.

A defect of the store's own code is a call without an answer, too. It says nothing of the store, and does not open the
breaker; what it hits while the journal is drained is put aside.

**The journal** (`journal`). A file of this process's own under `--journal`, made when it is first needed. Each line has
its length and checksum (`frames`): a line that a crash cut short is told from one that was damaged. An event is written
before what it stands for is let through, so it survives `kill -9`; it is flushed to the disk within a second, which is
what a power cut may take. A file that has reached `--journal-max` takes no new holds, and the mode is `closed` then;
the ends of what was let through before are still written.
It holds what usage records hold: counts, names and money. A refusal costs nothing and is not in it.

**Draining** (`replay`). Once the store answers, events go to it in order: a hold is made past every cap, an end charges
it. All is by reservation id, so what was charged before a crash is not charged again; of what ended so long ago that
the store has forgotten its reservation, the usage records tell. A file whose process has died is drained by another
one with the same `--journal`, whichever gets its lock. What the store refuses for good, or what is damaged, is kept in
the file `unapplied`, counted and logged, and holds up nothing.

**Which window.** That of the request: accounts are written down with their windows. A charge that comes after its
window's account was forgotten makes the account anew, and the next sweep forgets both. A window of first use that the
process did not know is begun, or found, when the journal is drained, as of the request's time (`guesses`): the store is
not asked to hold anything in it before, and with `closed` and `degraded` only what was spent already counts in it.

A reservation that the store acknowledged and then lost (a failover of Redis) is charged when it is settled, like one of
the journal.
"""
