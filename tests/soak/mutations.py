"""Pure: defects that the comparison must find, as Python that runs in the exporter's process before it starts."""

# A page tells what is counted, whatever the state file holds.
SHOW_COUNTED = """
import exporter.publishing, trio
async def prepare(self, gives_up_after):
    self._ledger.release(trio.current_time())
    self._ledger.show_counted()
exporter.publishing.Publisher.prepare = prepare
"""
# New series are born with their numbers.
HOLD_NOTHING = """
import exporter.metrics.ledger
made = exporter.metrics.ledger.Ledger.__init__
exporter.metrics.ledger.Ledger.__init__ = lambda self, limits, hold=0.0: made(self, limits)
"""
ALL = {"show counted": SHOW_COUNTED, "hold nothing": HOLD_NOTHING}
