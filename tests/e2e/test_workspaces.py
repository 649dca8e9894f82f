"""Several workspaces in one exporter: processes on loopback, with a simulated Phonic that plays all of them."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from exporter.simulator import server
from exporter.simulator.plan import plan
from exporter.simulator.scenario import Scenario
from exporter.simulator.settings import SimulatorSettings, others_of, scenario_of
from tests.e2e.pages import LOOK_AGAIN_SECONDS, Page, scrape, scrape_until
from tests.e2e.programs import ANY_PORT, Program, program
from tests.postgres import Database
from tests.soak.oracle import Totals, differences, expected

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("quiet_logs")]

NAMES = ("acme", "globex", "initech")
KEYS = {"acme": "ph_key", "globex": "ph_key-2", "initech": "ph_key-3"}
SECONDS = 180.0  # conversations that nobody watched wait for a sweep, which comes every 60 s


@attrs.frozen
class Phone:
    """The simulated Phonic. ``scenarios`` are what it plays by the names of the workspaces."""

    url: str
    scenarios: Mapping[str, Scenario]
    http: httpx.AsyncClient

    async def ask(self, name: str, method: str, action: str, content: object = None) -> Any:
        headers = {"Authorization": f"Bearer {KEYS[name]}"}
        asked = await self.http.request(
            method, f"{self.url}/simulator/{action}", headers=headers, content=json.dumps(content)
        )
        return asked.raise_for_status().json()

    async def post(self, action: str) -> None:
        for name in NAMES:
            await self.ask(name, "POST", action)

    async def faults(self, name: str, *faults: str) -> None:
        await self.ask(name, "PUT", "faults", faults)

    async def state(self, name: str) -> Any:
        return await self.ask(name, "GET", "state")

    async def planned(self, *names: str) -> Totals:
        """The totals of these workspaces at the end, by their plans alone."""
        wanted: Totals = {}
        for name in names:
            absences = (await self.state(name))["absences"]
            for (sample, labels), value in expected(plan(self.scenarios[name]), absences).items():
                own = labels if sample.startswith("phonic_exporter_") else labels | {("workspace", name)}
                wanted[sample, own] = wanted.get((sample, own), 0) + value
        return wanted


@contextlib.asynccontextmanager
async def phonic(http: httpx.AsyncClient, *, total: int | None = None) -> AsyncIterator[Phone]:
    settings = SimulatorSettings(
        api_key=KEYS["acme"],
        workspaces=len(NAMES),
        projects=2,
        agents=4,
        pace=0.02,
        warm_up=3.0,
        calls_per_minute=400.0,
        total=total,
    )
    scenario, faults = scenario_of(settings)
    others = others_of(settings, scenario)
    scenarios = dict(zip(NAMES, (scenario, *others.values()), strict=True))
    serve = partial(server.serve, scenario, api_key=settings.api_key, others=others, faults=faults, patient=True)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve)
        yield Phone(url, scenarios, http)
        nursery.cancel_scope.cancel()


def folder_of(path: Path, *names: str, **others: str) -> Path:
    path.mkdir()
    for name, key in {**{name: KEYS[name] for name in names}, **others}.items():
        (path / name).write_text(key)
    return path


@contextlib.asynccontextmanager
async def exporting(phone: Phone, folder: Path, *flags: str) -> AsyncIterator[tuple[Program, str]]:
    """Run the exporter as a process with these keys until the block ends. Yields it and its URL."""
    async with program(
        f"--phonic.base-url={phone.url}",
        f"--phonic.api-key-dir={folder}",
        "--phonic.requests-per-second=200",
        "--watch.interval=0.2",
        f"--web.listen-address={ANY_PORT}",
        *flags,
    ) as running:
        yield running, await running.url()


def totals(page: Page) -> Totals:
    """What must match the plans: counters and histograms of conversations, and lost conversations."""
    return {
        (
            sample.name,
            frozenset((key, repr(float(value)) if key == "le" else value) for key, value in sample.labels.items()),
        ): sample.value
        for family in page.families
        if family.type in ("counter", "histogram") and family.name.startswith("phonic_")
        and (not family.name.startswith("phonic_exporter_") or family.name == "phonic_exporter_conversations_lost")
        for sample in family.samples
    }  # fmt: skip


def ended(numbers: Totals) -> float:
    return sum(value for (name, _), value in numbers.items() if name == "phonic_conversations_ended_total")


def of_workspace(numbers: Totals, name: str) -> Totals:
    return {key: value for key, value in numbers.items() if ("workspace", name) in key[1]}


async def test_each_workspace_has_the_numbers_of_its_plan_through_a_kill(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    keys, state = folder_of(tmp_path / "keys", *NAMES), tmp_path / "exporter.db"
    flags = (f"--state.file={state}", "--state.interval=0.2")
    with trio.fail_after(SECONDS):
        async with phonic(http, total=60) as phone:
            async with exporting(phone, keys, *flags) as (running, url):
                await scrape_until(http, url, lambda page: ended(totals(page)) > 30)
                await phone.post("hold")

                async def live() -> set[str]:
                    """Those that go on, which become only more while ends are held."""
                    states = [(await phone.state(name))["conversations"] for name in NAMES]
                    return {each for state in states for each, known in state.items() if known["live"]}

                async def followed() -> set[str]:
                    shown = (await http.get(f"{url}/api/v1/conversations")).json()["conversations"]
                    return {each["conversation_id"] for each in shown if each["state"] != "finishing"}

                while await followed() - await live():  # noqa: ASYNC110  # of another process
                    await trio.sleep(LOOK_AGAIN_SECONDS)
                at = "phonic_exporter_checkpoint_last_success_timestamp_seconds"
                for _ in range(2):
                    before = (await scrape(http, url)).total(at)
                    await scrape_until(http, url, lambda page, before=before: page.total(at) != before)  # type: ignore[misc]
                shown = totals(await scrape(http, url))
                running.process.kill()
                await running.wait()
            await phone.post("leave")
            await phone.post("hold")
            async with exporting(phone, keys, *flags) as (_, url):
                again = totals(await scrape(http, url))
                assert all(again[key] >= value for key, value in shown.items()), "a counter fell"
                await phone.post("release")
                wanted = await phone.planned(*NAMES)
                page = await scrape_until(http, url, lambda page: ended(totals(page)) >= ended(wanted))
                wanted = await phone.planned(*NAMES)
                assert not differences(wanted, totals(page))
                assert all(ended(of_workspace(wanted, name)) > 0 for name in NAMES)
                projects = {name: page.values_of("phonic_conversations_total", "project") for name in NAMES}
                assert all("main" in each for each in projects.values()), "of the same name, and apart"


async def test_a_refused_key_harms_no_other_workspace_and_can_be_replaced(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    keys = folder_of(tmp_path / "keys", "acme", "globex", initech="ph_revoked")
    with trio.fail_after(SECONDS):
        async with phonic(http) as phone, exporting(phone, keys, "--state.file=") as (_, url):

            def works(page: Page, name: str) -> bool:
                return page.total("phonic_turns_total", workspace=name) > 20

            page = await scrape_until(http, url, lambda page: works(page, "acme") and works(page, "globex"))
            up = {each.labels["workspace"]: each.value for each in page.samples("phonic_up")}
            assert up == {"acme": 1, "globex": 1, "initech": 0}
            refused = page.samples("phonic_exporter_credential_refused")
            assert {each.labels["workspace"]: each.value for each in refused} == {
                **dict.fromkeys(up, 0),
                "initech": 1,
            }
            ready = await http.get(f"{url}/-/ready")
            assert (ready.status_code, ready.text) == (200, "ready\ninitech: API key refused (401)\n")
            assert not page.samples("phonic_conversations_total", workspace="initech")

            (keys / "initech").write_text(KEYS["initech"])
            page = await scrape_until(http, url, lambda page: works(page, "initech"))
            assert page.total("phonic_up") == 3
            assert not page.total("phonic_exporter_credential_refused")
            assert (await http.get(f"{url}/-/ready")).text == "ready\n"


async def test_requests_of_one_workspace_do_not_wait_for_those_of_another(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    keys = folder_of(tmp_path / "keys", *NAMES)
    with trio.fail_after(SECONDS):
        async with phonic(http, total=40) as phone:
            await phone.faults("globex", "rest-429=1")
            await phone.faults("initech", "rest-timeout=1")
            async with exporting(phone, keys, "--state.file=") as (_, url):
                wanted = await phone.planned("acme")
                page = await scrape_until(http, url, lambda page: ended(totals(page)) >= ended(wanted))
                assert not differences(await phone.planned("acme"), of_workspace(totals(page), "acme"))
                assert not page.total("phonic_conversations_total", workspace="globex")
                allowed = page.samples("phonic_exporter_requests_per_second_allowed")
                by_name = {each.labels["workspace"]: each.value for each in allowed}
                assert by_name["acme"] == 200
                assert by_name["globex"] < 200, "it alone was told to slow down"


async def test_shards_of_several_processes_keep_workspaces_apart_through_a_take_over(
    tmp_path: Path, http: httpx.AsyncClient, database: Database
) -> None:
    keys = folder_of(tmp_path / "keys", "acme", "globex")
    flags = (f"--state.url={database.url}", "--shard.count=2", "--shard.lease=2", "--state.interval=0.2")
    with trio.fail_after(SECONDS):
        async with contextlib.AsyncExitStack() as running:
            phone = await running.enter_async_context(phonic(http, total=40))
            programs = [await running.enter_async_context(exporting(phone, keys, *flags)) for _ in range(3)]
            urls = {url for _, url in programs}

            async def held() -> dict[str, str]:
                """The processes that hold a shard, by shard."""
                pages = {url: await scrape(http, url) for url in urls}
                return {
                    each.labels["shard"]: url
                    for url, page in pages.items()
                    for each in page.samples("phonic_exporter_shard_lease_epoch")
                }

            async def together() -> Totals:
                """The numbers of all shards."""
                sums: Totals = {}
                for url in urls:
                    for (name, labels), value in totals(await scrape(http, url)).items():
                        key = name, frozenset(each for each in labels if each[0] != "shard")
                        sums[key] = round(sums.get(key, 0) + value, 6)
                return sums

            async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
                while not await is_so():  # noqa: ASYNC110  # of other processes
                    await trio.sleep(LOOK_AGAIN_SECONDS)

            async def all_held() -> bool:
                return len(await held()) == 2

            async def some_ended() -> bool:
                return ended(await together()) > 20

            await until(all_held)
            await until(some_ended)
            await phone.post("hold")
            leaving = (await held())["0"]
            shown = await together()
            (stopped,) = [program for program, url in programs if url == leaving]
            stopped.signal(signal.SIGTERM)
            assert await stopped.wait() == 0
            urls.discard(leaving)
            await until(all_held)
            now = await together()
            assert all(now[key] >= value for key, value in shown.items()), "a counter fell"

            # What is assigned to a workspace without a key waits for it.
            (keys / "globex").unlink()
            for url in urls:
                await scrape_until(http, url, lambda page: not page.samples("phonic_up", workspace="globex"))
            (keys / "globex").write_text(KEYS["globex"])
            for url in urls:
                await scrape_until(http, url, lambda page: page.total("phonic_up", workspace="globex") == 1)
            await phone.post("release")
            wanted = await phone.planned("acme", "globex")

            async def all_ended() -> bool:
                return ended(await together()) >= ended(wanted)

            await until(all_ended)
            assert not differences(wanted, await together())
            listed = (await http.get(f"{urls.pop()}/api/v1/shards")).json()["shards"]
            assert [each["conversations"] for each in listed] == [0, 0]


class Mounted:
    """A folder of keys as Kubernetes mounts a Secret: ``..data`` is swapped as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = 0
        path.mkdir()

    def put(self, *names: str) -> None:
        self._versions += 1
        version = folder_of(self.path / f"..version_{self._versions}", *names)
        data = self.path / "..data"
        before = data.resolve() if data.exists() else None
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").rename(data)
        for name in names:
            if not os.path.lexists(self.path / name):
                (self.path / name).symlink_to(f"..data/{name}")
        for link in [each for each in self.path.iterdir() if not each.name.startswith("..")]:
            if link.name not in names:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)


async def test_workspaces_come_and_go_with_the_files_of_a_mounted_secret(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    mounted = Mounted(tmp_path / "keys")
    mounted.put("acme")
    with trio.fail_after(SECONDS):
        async with (
            phonic(http) as phone,
            exporting(phone, mounted.path, f"--state.file={tmp_path / 'db'}") as (_, url),
        ):

            def has_live(page: Page, name: str) -> bool:
                return bool(page.samples("phonic_conversation_live_info", workspace=name))

            await scrape_until(http, url, lambda page: has_live(page, "acme"))
            mounted.put("acme", "globex")
            await scrape_until(http, url, lambda page: has_live(page, "globex"))
            await phone.post("hold")  # so that what is live stays live
            mounted.put("globex")
            page = await scrape_until(http, url, lambda page: not page.samples("phonic_up", workspace="acme"))
            page = await scrape_until(http, url, lambda page: not has_live(page, "acme"))
            assert has_live(page, "globex")
            assert not page.total("phonic_conversations_live", workspace="acme")
            while (await phone.state("acme"))["open_sockets"]:  # noqa: ASYNC110  # no event tells
                await trio.sleep(LOOK_AGAIN_SECONDS)
            assert (await phone.state("globex"))["open_sockets"]
            kept = of_workspace(totals(page), "acme")
            assert kept["phonic_conversations_total", frozenset(_labels(page, "acme"))] > 0

            mounted.put("acme", "globex")
            page = await scrape_until(http, url, lambda page: has_live(page, "acme"))
            now = totals(page)
            assert all(now[key] >= value for key, value in kept.items()), "a counter fell"
            watched = (await http.get(f"{url}/api/v1/conversations")).json()["conversations"]
            assert {each["workspace"] for each in watched} == {"acme", "globex"}


def _labels(page: Page, name: str) -> list[tuple[str, str]]:
    """The labels of the workspace's label set with most conversations."""
    sets = page.samples("phonic_conversations_total", workspace=name)
    return list(max(sets, key=lambda each: each.value).labels.items())


async def test_pages_and_the_push_api_know_workspaces(tmp_path: Path, http: httpx.AsyncClient) -> None:
    keys = folder_of(tmp_path / "keys", "acme", "globex")
    flags = ("--web.enable-push-api", "--watch.no-discover", f"--state.file={tmp_path / 'db'}")
    with trio.fail_after(SECONDS):
        async with phonic(http) as phone, exporting(phone, keys, *flags) as (_, url):
            await phone.post("hold")
            live = next(
                each for each, known in (await phone.state("globex"))["conversations"].items() if known["live"]
            )
            at = f"{url}/api/v1/conversations/{live}"
            unnamed = await http.put(at)
            assert (unnamed.status_code, "?workspace=NAME" in unnamed.text) == (400, True)
            assert (await http.put(f"{at}?workspace=initech")).status_code == 404
            assert (await http.put(f"{at}?workspace=globex")).status_code == 201
            assert (await http.put(at)).status_code == 200, "it is watched already"
            await scrape_until(
                http, url, lambda page: page.total("phonic_conversations_live", workspace="globex") > 0
            )
            listed = (await http.get(f"{url}/api/v1/conversations")).json()["conversations"]
            assert [each["workspace"] for each in listed] == ["globex"]
            for page in ("/", "/conversations", "/conversations?q=globex", f"/conversations/{live}"):
                assert "globex" in (await http.get(f"{url}{page}")).text
            assert live not in (await http.get(f"{url}/conversations?q=acme")).text
            await phone.post("release")
            await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") > 0)
            await scrape_until(http, url, lambda page: not page.total("phonic_exporter_watchers"))
            over = (await http.get(f"{url}/conversations?q=globex/")).text
            assert live in over, "the workspace is part of what a list of the past shows and searches"
            assert (await http.get(f"{url}/api/v1/conversations/{live}")).json()["workspace"] == "globex"


async def test_calls_of_a_key_file_that_is_renamed_are_finished_and_counted_once_among_shards(
    tmp_path: Path, http: httpx.AsyncClient, database: Database
) -> None:
    keys = folder_of(tmp_path / "keys", "acme", "globex")
    flags = (f"--state.url={database.url}", "--shard.lease=2", "--state.interval=0.2")
    with trio.fail_after(SECONDS):
        async with phonic(http, total=30) as phone, exporting(phone, keys, *flags) as (_, url):
            await scrape_until(http, url, lambda page: ended(totals(page)) > 5)
            (keys / "acme").rename(keys / "acme-eu")
            wanted = ended(await phone.planned("acme", "globex"))
            page = await scrape_until(http, url, lambda page: ended(totals(page)) >= wanted)
            assert ended(totals(page)) == wanted
            assert page.values_of("phonic_conversations_ended_total", "workspace") >= {"acme", "globex"}
            with database.connect() as connection:
                while connection.execute(  # noqa: ASYNC110  # the next write marks the last one
                    "SELECT FROM phonic_assignment WHERE ended_at IS NULL"
                ).fetchall():
                    await trio.sleep(LOOK_AGAIN_SECONDS)


async def test_a_process_that_stands_by_tells_what_is_wrong_with_its_keys_and_the_holder_which_are_refused(
    tmp_path: Path, http: httpx.AsyncClient, database: Database
) -> None:
    keys = folder_of(tmp_path / "keys", "acme")
    (keys / "revoked").write_text("ph_revoked")
    broken = folder_of(tmp_path / "broken")
    (broken / "acme").write_text("")
    flags = (f"--state.url={database.url}",)
    with trio.fail_after(SECONDS):
        async with phonic(http) as phone, exporting(phone, keys, *flags) as (_, url):

            async def says(url: str) -> str:
                return (await http.get(f"{url}/-/ready")).text

            while await says(url) != "ready\nrevoked: API key refused (401)\n":  # noqa: ASYNC110  # only a page tells
                await trio.sleep(LOOK_AGAIN_SECONDS)
            async with exporting(phone, broken, *flags) as (standby, other):
                await standby.line("API key unusable", "file=acme", "the credential is empty")
                assert "no workspace: the folder of API keys holds none" in await says(other)
                name = "phonic_exporter_config_last_reload_successful"
                await scrape_until(http, other, lambda page: page.samples(name) != [])
                assert (await scrape(http, other)).total(name, file="api_key_dir") == 0
