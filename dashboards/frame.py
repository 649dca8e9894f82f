"""Pure: the common part of all dashboards: variables, annotations, and the format of the JSON."""

import json
from collections.abc import Sequence

from exporter.metrics import catalog as c

from . import promql
from .model import Annotation, Board, Choice, Json, Row, Text

__all__ = ["Row", "board", "to_json"]

TAG = "phonic"

RESTARTS = f"process_start_time_seconds{{{promql.SELECTED}}} * 1000"
TAKE_OVERS = f"max by (shard) (changes({promql.series(c.SHARD_EPOCH)}[1m])) > 0"
VERSIONS = (
    f"max by (version) ({promql.series(c.BUILD_INFO)}) "
    f"unless max by (version) ({promql.series(c.BUILD_INFO)} offset 5m)"
)


def board(
    *,
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    since: str = "now-1h",
    refresh: str = "30s",
    texts: tuple[Text, ...] = (),
) -> Board:
    """Make a dashboard with the common variables and annotations."""
    return Board(
        uid=uid,
        title=title,
        description=description,
        tags=(TAG,),
        since=since,
        refresh=refresh,
        choices=_choices(),
        texts=texts,
        annotations=(
            Annotation(name="Restarts", expr=RESTARTS, color="orange", text="{{instance}}", at_value=True),
            Annotation(name="Take-overs", expr=TAKE_OVERS, color="purple", text="shard {{shard}}", at_value=False),
            Annotation(name="New versions", expr=VERSIONS, color="blue", text="{{version}}", at_value=False),
        ),
        rows=tuple(rows),
    )


def to_json(document: Json) -> str:
    """Format a document as JSON for Grafana. Deterministic."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _choices() -> tuple[Choice, ...]:
    conversations = c.CONVERSATIONS.sample_name
    return (
        Choice(name="job", label="Job", query=f"label_values({c.BUILD_INFO.name}, job)", every=".+"),
        Choice(
            name="instance",
            label="Instance",
            # With shards, also the names that the scrape rule gives to their series.
            query=f'label_values({{__name__=~"{c.BUILD_INFO.name}|{c.SHARD_EPOCH.name}",job=~"$job"}}, instance)',
            every=".+",
        ),
        # `.*` also selects series without the label: one workspace has no name, and --metrics.labels may omit
        # project or agent.
        Choice(
            name="workspace",
            label="Workspace",
            query=f"label_values({c.UP.name}{{{promql.SELECTED}}}, workspace)",
            every=".*",
        ),
        Choice(
            name="project",
            label="Project",
            query=f'label_values({conversations}{{{promql.SELECTED},workspace=~"$workspace"}}, project)',
            every=".*",
        ),
        Choice(
            name="agent",
            label="Agent",
            query=(
                f"label_values({conversations}"
                f'{{{promql.SELECTED},workspace=~"$workspace",project=~"$project"}}, agent)'
            ),
            every=".*",
        ),
    )
