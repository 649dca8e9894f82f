"""Wiring: the parts of one exporter, put together from settings: what is counted, watched, and shown."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from .api import exported
from .conversations import Conversations
from .gauges import ShardView, gauges
from .metrics import catalog
from .metrics.catalog import Family
from .metrics.loop_lag import LoopLag
from .metrics.page import Page
from .metrics.process import process_metrics
from .metrics.publisher import Publisher
from .metrics.store import LabelLimits, MetricStore
from .people import People
from .settings import HistorySettings, Settings
from .state.keeper import StateKeeper
from .state.rows import HistoryLimits
from .web.endpoints import Exported
from .web.reload import ReloadedConfig
from .workspaces import Workspaces

TAKE_INTERVAL: Final = 60.0
"""Seconds."""


@attrs.frozen(kw_only=True)
class Exporter:
    """The parts of one exporter. ``state`` is None without a state file.

    ``hides``: whether a page of this moment is without a family.
    """

    settings: Settings
    conversations: Conversations
    workspaces: Workspaces
    state: StateKeeper | None
    publisher: Publisher
    web_config: ReloadedConfig
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    shards: ShardView | None = None
    hides: Callable[[Family], bool] = lambda _: False

    def offered(self) -> Exported:
        """What is served over HTTP: the page of all metrics, and what people see."""
        settings = self.settings
        sources = gauges(
            conversations=self.conversations,
            workspaces=self.workspaces,
            keeper=self.state,
            publisher=self.publisher,
            web_config=self.web_config if settings.web.config_file else None,
            slo_response=settings.metrics.slo_response,
            loop_lag=self.loop_lag,
            shards=self.shards,
        )
        people = People(
            conversations=self.conversations,
            workspaces=self.workspaces,
            publisher=self.publisher,
            state=self.state,
            objective=settings.metrics.slo_response,
            history=settings.history.conversations > 0,
        )
        return exported(
            settings,
            page=Page(self.conversations.store, sources, process_metrics(), hides=self.hides),
            publisher=self.publisher,
            conversations=self.conversations,
            workspaces=self.workspaces,
            people=people,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks but the web server, the writing of the state, and the measuring of the loop."""
        if self.state is None:
            nursery.start_soon(_take_regularly, self.publisher)
        await nursery.start(self.workspaces.run, self.settings.watch.conversation)


def new_conversations(given: Settings, *, shard: str = "", earlier: MetricStore | None = None) -> Conversations:
    """Return conversations without any. ``shard``, ``earlier``: see `LabelLimits` and `MetricStore`."""
    settings = given.metrics
    limits = LabelLimits(
        names=given.label_names,
        values=settings.label_limit,
        sets=settings.label_set_limit,
        tools=settings.tool_limit,
        shard=shard,
    )
    return Conversations(
        MetricStore(limits, hold=settings.hold_new_series, earlier=earlier),
        live_limit=settings.per_conversation_limit,
        now=time.time,
        objective=settings.slo_response,
    )


def history_limits(settings: HistorySettings) -> HistoryLimits:
    return HistoryLimits(conversations=settings.conversations, seconds=settings.hours * 3600)


def report_writes(keeper: StateKeeper, store: MetricStore) -> Callable[[], None]:
    """Have the writes of a keeper measured. Returns what counts an error."""
    keeper.on_write = partial(_observe_write, store)
    return partial(store.count, catalog.CHECKPOINT_ERRORS)


def _observe_write(store: MetricStore, seconds: float) -> None:
    store.observe(catalog.STATE_WRITE, value=seconds)


async def _take_regularly(publisher: Publisher) -> None:
    """Without a state file: do what a write does, so that changes do not pile up while no scrape takes them."""
    while True:
        await trio.sleep(TAKE_INTERVAL)
        publisher.take_all()
