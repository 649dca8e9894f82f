"""Long tests with faults: whatever fails, the final totals must be those of the plan.

Simulator and exporter run as processes through a seeded schedule of faults, kills and clock steps (`schedule`,
`harness`). Then every counter and histogram on the page is compared with what follows from the plan alone
(`oracle`). ``python -m tests.soak`` is the long version, ``tests/e2e/test_soak.py`` the short one.

The comparison is exact although processes die at random moments, because:

- A conversation ends only after its last snapshot was sent to an observer (``--simulator.patient``). So the
exporter sees
  every conversation that it can observe to its end, however long faults disconnect it.
- Before the exporter is ended, the simulator holds ends until the exporter has counted all ended conversations
and,
  before a kill, until it has written two checkpoints after that. So the next process reads again what is lost with
  the killed one. Everything else continues: calls begin and go on, feeds and REST fail, records are read,
  checkpoints are written. The kill comes after a further random time, so that it hits any of these; some kills hit
  a process that is still starting.
- While the exporter is away (``/simulator/leave``), conversations can begin and end unobserved: those that begin
after
  the exporter has gone, and whose planned end is not after the call of ``hold``, which precedes the start of the
  next exporter. They must be counted from REST (all but timings and silent turns) and as lost with reason
  ``never_live``. Conversations that begin before or end after that time are observed to their end and count in
  full.
- Conversations that ended before the simulator started are history and must not count.

Not covered: handshakes refused with 401 and 403 (the exporter retries only after five minutes, by design), and
clock steps of a day or more (the exporter remembers ended conversations for 24 h by the clock).

`shards` is about several processes that share a PostgreSQL, where nothing is held before a fault.
"""
