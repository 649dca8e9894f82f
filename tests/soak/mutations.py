"""Pure: defects that the comparison must detect, as Python code that runs before the exporter starts."""

# Pages show all counted numbers, whether or not the state file holds them.
SHOW_COUNTED = """
import exporter.metrics.publisher, trio
async def prepare(self, gives_up_after):
    self._store.release(trio.current_time())
    self._store.show_counted()
exporter.metrics.publisher.Publisher.prepare = prepare
"""
# New series start with their values, not with 0.
HOLD_NOTHING = """
import exporter.metrics.store
made = exporter.metrics.store.MetricStore.__init__
exporter.metrics.store.MetricStore.__init__ = lambda self, limits, hold=0.0, **others: made(self, limits, **others)
"""
ALL = {"show counted": SHOW_COUNTED, "hold nothing": HOLD_NOTHING}
# Writes succeed whoever holds the shard.
NO_EPOCH_CHECK = """
from exporter.state import statements
check = " AND epoch = %(epoch)s AND write_number < %(number)s"
for name, text in list(vars(statements).items()):
    if isinstance(text, str) and check in text:
        setattr(statements, name, text.replace(check, ""))
"""
