"""The image, built from the Dockerfile as it stands and run by an OCI runtime as Docker and Kubernetes would.

The base is made by debootstrap, as Debian's own images are, under the name that the Dockerfile asks for: no
registry is needed. Needs root.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from tests.e2e.programs import STUCK_SECONDS, Program
from tests.e2e.prometheus import Release, needs
from tests.postgres import Database

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TOOLS = Release("installed", "Debian: apt install buildah debootstrap runc")
PATIENCE_SECONDS = 600
# Above the base, in bytes of content.
LARGEST = 60_000_000
# What `docker stop` gives by default; Kubernetes gives 30.
GRACE_SECONDS = 10
USER = 65532
LABELS = {"VERSION": "1.2.3", "REVISION": "0123456789abcdef", "SOURCE": "https://example.com/phonic-exporter"}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a program that must succeed. Bytecode is part of the image, so it may be written."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


@attrs.frozen
class Image:
    """A built image: its files, those of its base, and how it wants to be run."""

    root: Path
    base: Path
    config: dict[str, Any]


@attrs.frozen
class Base:
    """The files of a base image, and the name that the Dockerfile gives it."""

    root: Path
    name: str

    @property
    def suite(self) -> str:
        """Debian's name for the release."""
        return self.name.removeprefix("debian:").partition("-")[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """A minimal Debian that reaches the package index as this machine does."""
    debootstrap = needs("debootstrap", TOOLS)
    if os.geteuid() != 0:
        why = "building and running an image without a daemon needs root"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    work = tmp_path_factory.mktemp("base")
    [name] = re.findall(r"^ARG BASE=(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    made = Base(root=work / "root", name=name)
    try:
        targets = run(
            "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"
        )
        run(debootstrap, "--variant=minbase", made.suite, made.root, targets.split()[0])
        for cache in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(made.root / cache)
        _reach_the_index(made.root)
        yield made
    finally:
        shutil.rmtree(work)


def _reach_the_index(root: Path) -> None:
    """Give pip what it is told on this machine: whose certificates to trust, and where the index is."""
    told = run(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"^(?:global|:env:)\.(cert|index-url)='(.*)'$", told, re.MULTILINE))
    if "cert" in settings:
        shutil.copy(settings["cert"], root / "etc/machine-authorities.pem")
        settings["cert"] = "/etc/machine-authorities.pem"
    lines = (f"{name} = {value}\n" for name, value in settings.items())
    (root / "etc/pip.conf").write_text("".join(["[global]\n", *lines]), encoding="utf-8")


@pytest.fixture(scope="module")
def image(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    buildah, _ = (needs(name, TOOLS) for name in ("buildah", "runc"))
    work = tmp_path_factory.mktemp("image")
    storage = (buildah, "--root", work / "storage", "--runroot", work / "run", "--storage-driver", "vfs")
    try:
        scratch = run(*storage, "from", "scratch").strip()
        run("tar", "-C", base.root, "-cf", work / "base.tar", ".")
        run(*storage, "add", scratch, work / "base.tar", "/")
        run(*storage, "commit", "--rm", "--format", "docker", scratch, f"docker.io/library/{base.name}")
        (work / "base.tar").unlink()
        arguments = [part for label, value in LABELS.items() for part in ("--build-arg", f"{label}={value}")]
        how = ("bud", "--isolation", "chroot", "--pull-never", "--format", "docker")
        run(*storage, *how, *arguments, "--tag", "phonic-exporter", ROOT)
        inspected = json.loads(run(*storage, "inspect", "--type", "image", "localhost/phonic-exporter"))
        container = run(*storage, "from", "--pull-never", "localhost/phonic-exporter").strip()
        root = Path(run(*storage, "mount", container).strip())
        yield Image(root=root, base=base.root, config=inspected["Docker"]["config"])
    finally:
        shutil.rmtree(work)


@contextlib.asynccontextmanager
async def container(image: Image, bundle: Path, *argv: str) -> AsyncIterator[Program]:
    """The image's entry point with these arguments, as process 1 of a container.

    It has the image's user and variables, no capability, a read-only root without a /tmp, and the image's volume
    in ``bundle``. The network is this machine's.
    """
    state = _volume(image, bundle)
    (bundle / "config.json").unlink(missing_ok=True)
    run("runc", "spec", "--bundle", bundle)
    spec = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    uid, gid = map(int, image.config["User"].split(":"))
    spec["root"] = {"path": str(image.root), "readonly": True}
    spec["process"].update(
        terminal=False,
        args=[*image.config["Entrypoint"], *argv],
        env=image.config["Env"],
        user={"uid": uid, "gid": gid},
        capabilities={},
        noNewPrivileges=True,
    )
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]
    spec["mounts"] = [each for each in spec["mounts"] if not each["destination"].startswith("/sys")]
    [volume] = image.config["Volumes"]
    spec["mounts"].append(
        {"destination": volume, "type": "bind", "source": str(state), "options": ["rbind", "rw"]}
    )
    (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
    runc = ("runc", "--root", str(bundle / "runc"))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [*runc, "run", "--bundle", str(bundle), bundle.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        )
        started = Program(process)
        nursery.start_soon(started._read)
        try:
            yield started
        finally:
            with trio.CancelScope(shield=True):
                await trio.run_process([*runc, "delete", "--force", bundle.name], check=False, capture_stderr=True)


def _volume(image: Image, bundle: Path) -> Path:
    """The folder of the volume: made like that of the image, as an engine does, and kept from run to run."""
    [inside] = image.config["Volumes"]
    owner = (image.root / inside.lstrip("/")).stat()
    state = bundle / "state"
    if not state.exists():
        state.mkdir(mode=owner.st_mode & 0o777, parents=True)
        os.chown(state, owner.st_uid, owner.st_gid)
    return state


async def inside(bundle: Path, *command: str) -> tuple[int, str]:
    """Run a command in the container: exit code and output."""
    done = await trio.run_process(
        ["runc", "--root", str(bundle / "runc"), "exec", bundle.name, *command],
        check=False,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout.decode()


def content(folder: Path) -> int:
    """Bytes of all files, each once however many names it has."""
    sizes: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(Path(path, name))
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def test_base_is_a_release_of_debian_pinned_to_a_day(base: Base) -> None:
    assert re.fullmatch(r"debian:[a-z]+-20\d{6}-slim", base.name)
    assert f"VERSION_CODENAME={base.suite}\n" in (base.root / "etc/os-release").read_text(encoding="utf-8")


def test_image_is_small_and_holds_nothing_to_build_with(image: Image) -> None:
    assert content(image.root) - content(image.base) <= LARGEST
    programs = {
        path.name
        for folder in image.config["Env"][0].split("=")[1].split(":")
        for path in (image.root / folder.lstrip("/")).iterdir()
    }
    assert "phonic-exporter" in programs
    assert not {name for name in programs if re.match(r"pip|easy_install|gcc|g\+\+|cc$|make$|git$", name)}
    packages = [path.name for path in image.root.glob("opt/phonic-exporter/lib/python3*/site-packages/*")]
    assert not {"pip", "setuptools", "wheel", "pytest"} & set(packages)
    assert not list((image.root / "var/lib/apt/lists").glob("*"))


def test_image_starts_fast_with_a_read_only_root(image: Image) -> None:
    """Bytecode of what a start imports is there: it cannot be written later."""
    [package] = image.root.glob("opt/phonic-exporter/lib/python3*/site-packages/exporter")
    for source in package.rglob("*.py"):
        assert list(source.parent.glob(f"__pycache__/{source.stem}.*.pyc")), source


def test_image_says_what_it_is_and_runs_as_a_number(image: Image) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): text for name, text in image.config["Labels"].items()
    }
    assert {name: labels[name.lower()] for name in LABELS} == LABELS
    assert labels["title"] == "phonic-exporter"
    assert labels["licenses"] == "Apache-2.0"
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["Entrypoint"] == ["phonic-exporter"]
    assert image.config["Healthcheck"]["Test"] == ["CMD", "phonic-exporter", "healthcheck"]


async def test_demo_in_the_image_counts_on_through_a_restart(image: Image, tmp_path: Path) -> None:
    bundle = tmp_path / f"phonic-exporter-image-{os.getpid()}"  # the container's name, and its cgroup's
    demo = ("demo", "--web.listen-address=127.0.0.1:0", "--state.file=/var/lib/phonic-exporter/demo.db")
    async with container(image, bundle, *demo) as first:
        before = await turns(await first.url())
        assert before > 0
        assert await inside(bundle, "phonic-exporter", "healthcheck") == (0, "")
        assert await inside(bundle, "cat", "/proc/1/comm") == (0, "phonic-exporter\n")
        assert await inside(bundle, "id", "-u") == (0, f"{USER}\n")
        _, status = await inside(bundle, "cat", "/proc/1/status")
        assert re.findall(r"^(?:CapEff|CapBnd):\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 2
        code, refusal = await inside(bundle, "touch", "/opt/phonic-exporter/x")
        assert code != 0
        assert "Read-only file system" in refusal
        stopping = time.monotonic()
        await trio.run_process(["runc", "--root", str(bundle / "runc"), "kill", bundle.name, "TERM"])
        assert await first.wait() == 0
        assert time.monotonic() - stopping < GRACE_SECONDS
        assert "event=stopped" in first.text
    quiet = ("--simulator.warm-up=0", "--simulator.calls-per-minute=0.01")  # nothing new to count
    async with container(image, bundle, *demo, *quiet) as second:
        async with httpx.AsyncClient() as http:
            page = (await http.get(f"{await second.url()}/metrics")).text
        assert total(page) >= before
        second.signal(signal.SIGTERM)  # runc passes it on to process 1
        assert await second.wait() == 0


async def test_state_is_kept_in_a_volume_that_belongs_to_the_group_alone(image: Image, tmp_path: Path) -> None:
    """As Kubernetes makes volumes for ``fsGroup``."""
    bundle = tmp_path / f"phonic-exporter-group-{os.getpid()}"
    state = bundle / "state"
    state.mkdir(parents=True)
    os.chown(state, 0, USER)
    state.chmod(0o2775)
    demo = ("demo", "--web.listen-address=127.0.0.1:0", "--state.file=/var/lib/phonic-exporter/demo.db")
    async with container(image, bundle, *demo) as running:
        url = await running.url()
        async with httpx.AsyncClient() as http:
            assert "phonic_exporter_pages_committed 1.0" in (await http.get(f"{url}/metrics")).text
        assert (state / "demo.db").stat().st_uid == USER
        running.signal(signal.SIGTERM)
        assert await running.wait() == 0


async def test_image_keeps_its_state_in_postgresql(image: Image, tmp_path: Path, database: Database) -> None:
    """With Debian's libpq, and a password from a file."""
    bundle = tmp_path / f"phonic-exporter-postgres-{os.getpid()}"
    file = _volume(image, bundle) / "password"
    shutil.copy(database.password_file, file)
    os.chown(file, USER, USER)
    demo = (
        "demo",
        "--web.listen-address=127.0.0.1:0",
        f"--state.url={database.guarded_url}",
        "--state.password-file=/var/lib/phonic-exporter/password",
    )
    async with container(image, bundle, *demo) as running:
        url = await running.url()
        assert await turns(url) > 0
        async with httpx.AsyncClient() as http:
            assert "phonic_exporter_shard_held 1.0" in (await http.get(f"{url}/metrics")).text
        running.signal(signal.SIGTERM)
        assert await running.wait() == 0
    assert "shard released" in running.text


def total(page: str) -> float:
    return sum(float(value) for value in re.findall(r"^phonic_turns_total\{.*\} (\S+)$", page, re.MULTILINE))


async def turns(url: str) -> float:
    """Turns counted, once there are some."""
    with trio.fail_after(STUCK_SECONDS):
        async with httpx.AsyncClient() as http:
            while True:
                counted = total((await http.get(f"{url}/metrics")).text)
                if counted:
                    return counted
                await trio.sleep(0.1)  # a page cannot be waited for
