"""The cases: functions that take `Options` and return a `Report`."""
