"""Pure: the wire formats a page can be rendered in."""

import enum


class Format(enum.Enum):
    """A text format that Prometheus reads. The value is its media type and version."""

    TEXT_0_0_4 = "text/plain; version=0.0.4"
    TEXT_1_0_0 = "text/plain; version=1.0.0"
    OPENMETRICS_1_0_0 = "application/openmetrics-text; version=1.0.0"

    @property
    def content_type(self) -> str:
        """Value of the ``Content-Type`` header of a page in this format."""
        return f"{self.value}; charset=utf-8"
