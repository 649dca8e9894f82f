"""Pure: defects that the comparison must find, as Python that runs in the exporter's process before it starts."""

# A page tells what is counted, whatever the state file holds.
SHOW_COUNTED = """
import exporter.metrics.publisher, trio
async def prepare(self, gives_up_after):
    self._store.release(trio.current_time())
    self._store.show_counted()
exporter.metrics.publisher.Publisher.prepare = prepare
"""
# New series are born with their numbers.
HOLD_NOTHING = """
import exporter.metrics.store
made = exporter.metrics.store.MetricStore.__init__
exporter.metrics.store.MetricStore.__init__ = lambda self, limits, hold=0.0: made(self, limits)
"""
ALL = {"show counted": SHOW_COUNTED, "hold nothing": HOLD_NOTHING}
