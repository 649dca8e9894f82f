"""Proof: whatever goes wrong on the way, the totals in the end are those of the plan.

Simulator and exporter run as processes of their own through a seeded schedule of faults, kills and clock steps
(`schedule`, `harness`); then every counter and histogram on the page is held against what the plan alone says
(`oracle`). ``python -m tests.soak`` is the long version, ``tests/e2e/test_soak.py`` the short one.

What makes the comparison exact, although processes die at random moments:

- A conversation ends only when its last snapshot was sent to an observer (``--simulator.patient``). So one that
  the exporter can see at all it sees to the end, however long faults keep it away.
- Before the exporter is ended, ends are held until it has counted all that was told to the end and, before a
  kill, until two checkpoints have been written since. So what is lost with the process comes again. All else goes
  on: calls begin and talk, feeds and REST fail, records are read, checkpoints are written. The kill itself comes
  after a further random time, so it hits any of these; some kills hit a process that is only just starting.
- While the exporter is away (``/simulator/leave``) conversations that begin and end meanwhile do so unseen. The
  rule for them: begun after the exporter was gone, planned end not after ``hold`` was called, which is before the
  next one is started. They must be counted from REST: all but timings and silent turns, and as lost with reason
  ``never_live``. Conversations that began before or end after are seen to the end, and count in full.
- What was over before the simulator started is history and must not count.

Kept out: handshakes refused with 401 and 403 (a live conversation is then retried after five minutes by design),
and clock steps of a day and more (finished conversations are remembered for 24 h by the clock).
"""
