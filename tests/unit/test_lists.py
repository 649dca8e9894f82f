"""Lists of conversations: reading any list ends, and other tasks run meanwhile."""

import attrs
import pytest
import trio
from trio.abc import Clock

from exporter.phonic.listing import ListedRow, ListPage
from tests.rest_double import HOUR, Call, FakeExporter, FakeRest, discovery, run_for, text_of


async def test_cursor_that_repeats_ends_the_list(autojump_clock: Clock) -> None:
    del autojump_clock

    class Circular(FakeRest):
        async def conversations(
            self, project_name: str, *, after: str | None = None, limit: int = 100
        ) -> ListPage:
            assert after in {None, "round"}
            page = await super().conversations(project_name, limit=limit)
            return attrs.evolve(page, next_cursor="round")

    rest = Circular([Call(id="c")], inflated=1)
    await run_for(10, discovery(rest, FakeExporter(rest)))
    assert rest.endless > 0
    assert sum(what == "conversations" for what, _ in rest.asked) <= 10


class Endless(FakeRest):
    """Its lists never end; ``next_page`` makes the rows of each page."""

    def next_page(self, at: int) -> list[ListedRow]:
        raise NotImplementedError

    async def conversations(
        self,
        project_name: str,
        *,
        after: str | None = None,
        limit: int = 100,  # noqa: ARG002
    ) -> ListPage:
        await trio.lowlevel.checkpoint()
        self._ask("conversations", project_name)
        at = int(after or 0)
        return ListPage(rows=self.next_page(at), next_cursor=str(at + 1), unusable=0)


class EmptyPages(Endless):
    def next_page(self, at: int) -> list[ListedRow]:  # noqa: ARG002
        return []


class SamePage(Endless):
    def next_page(self, at: int) -> list[ListedRow]:  # noqa: ARG002
        return [ListedRow(id="c", started_at=None, ended_at=None)]


class NewRows(Endless):
    def next_page(self, at: int) -> list[ListedRow]:
        return [ListedRow(id=f"c{at}", started_at=None, ended_at=text_of(-HOUR))]


@pytest.mark.parametrize("kind", [EmptyPages, SamePage, NewRows])
async def test_list_without_end_ends_and_the_first_round_completes(
    kind: type[Endless], autojump_clock: Clock
) -> None:
    del autojump_clock
    rest = kind(inflated=2)
    found = discovery(rest, FakeExporter(rest))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        assert found.first_round_done
        assert found.last_success is not None
        assert rest.endless == 1
        nursery.cancel_scope.cancel()


async def test_other_tasks_run_while_a_huge_page_is_handled(autojump_clock: Clock) -> None:
    del autojump_clock

    class Huge(Endless):
        def next_page(self, at: int) -> list[ListedRow]:
            size = 50_000 if at == 0 else 0
            return [ListedRow(id=f"c{each}", started_at=None, ended_at=None) for each in range(size)]

    rest = Huge(inflated=50_000)
    exporter = FakeExporter(rest, limit=10)
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await nursery.start(discovery(rest, exporter).run)
        nursery.cancel_scope.cancel()
    assert others >= 50_000 / 200
