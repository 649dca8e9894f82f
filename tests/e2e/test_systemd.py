"""The systemd units: what systemd's own tools say of them, and a systemd that runs them.

That systemd is process 1 of a container whose files are those of this machine, with a layer of its own in memory
above them. Needs root, Debian's Python and a runtime for containers.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from tests.e2e.pages import scrape_until
from tests.e2e.programs import outcome, program
from tests.e2e.prometheus import Release, needs
from tests.postgres import Database

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy/systemd"
TOOLS = Release("installed", "Debian: apt install systemd runc")
PATIENCE_SECONDS = 120
# Tenths. Below 2 is what systemd calls safe; the network costs most of it.
MOST_EXPOSED = 15
KEY = "ph_simulated_key"
PYTHON = "/usr/bin/python3"
# Enough for systemd to make services out of processes, and nothing that reaches the machine outside.
CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP SYS_CHROOT SYS_PTRACE SYS_ADMIN
    MKNOD AUDIT_WRITE SETFCAP
""".split()


def run(*command: str | Path, expected: int | None = 0) -> str:
    """What a program has written; it must end with this code, if one is expected."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert expected is None or done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists."""
    shutil.copytree(UNITS, tmp_path / "units")
    service = tmp_path / "units/phonic-exporter.service"
    text = service.read_text(encoding="utf-8")
    service.write_text(text.replace("/opt/phonic-exporter/bin/phonic-exporter", "/bin/true"), encoding="utf-8")
    return tmp_path / "units"


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    analyze = needs("systemd-analyze", TOOLS)
    said = run(analyze, "verify", units / "phonic-exporter.service", units / "phonic-exporter.socket")
    assert "phonic-exporter" not in said  # it may have words for units of this machine


def test_service_is_exposed_to_little(units: Path) -> None:
    analyze = needs("systemd-analyze", TOOLS)
    limit = f"--threshold={MOST_EXPOSED}"
    run(analyze, "security", "--offline=yes", limit, units / "phonic-exporter.service")


async def test_example_of_a_configuration_file_loads_with_every_setting_in_force(tmp_path: Path) -> None:
    """But those that name files and folders, which would have to be there."""
    path = tmp_path / "phonic-exporter.toml"
    example = (UNITS / "phonic-exporter.toml").read_text(encoding="utf-8")
    in_force = re.sub(r"^#(?=[a-z])", "", example, flags=re.MULTILINE)
    without_files = re.sub(r'^[\w.-]*(?:file|dir) = ".*"\n', "", in_force, flags=re.MULTILINE)
    path.write_text(without_files.replace("systemd-socket = false", "systemd-socket = true"), encoding="utf-8")
    code, text = await outcome("check-config", f"--config.file={path}", "--state.file=", PHONIC_API_KEY=KEY)
    assert code == 0, text


@attrs.frozen
class Machine:
    """A booted systemd: its files, and commands that run in it."""

    root: Path
    inside: tuple[str, ...]

    def run(self, *command: str, expected: int | None = 0) -> str:
        return run(*self.inside, *command, expected=expected)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def log_until(self, *fragments: str, since: str = "") -> str:
        """The first line of the service with all these fragments, as soon as it is written."""
        command = ["journalctl", "--unit=phonic-exporter", "--follow", "--output=cat", "--lines=all"]
        with subprocess.Popen(
            [
                *self.inside,
                "timeout",
                str(PATIENCE_SECONDS),
                *command,
                *([f"--after-cursor={since}"] if since else []),
            ],
            stdout=subprocess.PIPE,
            text=True,
        ) as reading:
            assert reading.stdout
            seen = []
            for line in reading.stdout:
                seen.append(line)
                if all(fragment in line for fragment in fragments):
                    reading.terminate()
                    return line
        raise AssertionError("".join(seen))

    def cursor(self) -> str:
        """The end of the journal."""
        return self.run("journalctl", "--lines=0", "--show-cursor", "--quiet").partition("cursor: ")[2].strip()

    def shown(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", "phonic-exporter").strip()

    def url(self, since: str = "") -> str:
        line = self.log_until("event=serving", since=since)
        return line.partition("landing_page=")[2].split()[0].rstrip("/")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    runc = needs("runc", TOOLS)
    needs("systemd-analyze", TOOLS)
    if os.geteuid() != 0 or not Path(PYTHON).exists():
        why = "booting a systemd needs root and Debian's Python"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    work = tmp_path_factory.mktemp("systemd")
    layer, root = work / "layer", work / "root"
    for folder in (layer, root):
        folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", layer)
    try:
        for name in ("upper", "work"):
            (layer / name).mkdir()
        options = f"lowerdir=/,upperdir={layer / 'upper'},workdir={layer / 'work'}"
        run("mount", "-t", "overlay", "-o", options, "overlay", root)
        try:
            _install(root, work)
            bundle = work / "bundle"
            _describe(runc, bundle, root)
            runtime = (runc, "--root", str(work / "runc"))
            name = f"phonic-exporter-systemd-{os.getpid()}"  # its cgroup has that name too
            with subprocess.Popen([*runtime, "run", "--bundle", str(bundle), name]) as process:
                try:
                    booted = Machine(root=root, inside=(*runtime, "exec", name))
                    _await_boot(booted, process)
                    yield booted
                finally:
                    run(*runtime, "delete", "--force", name, expected=None)
        finally:
            run("umount", "--lazy", root)
    finally:
        run("umount", "--lazy", layer)


def _await_boot(machine: Machine, process: "subprocess.Popen[bytes]") -> None:
    """Until there is a container, and in it a systemd to talk to."""
    while not re.search(
        r"running|degraded", machine.run("systemctl", "is-system-running", "--wait", expected=None)
    ):
        assert process.poll() is None, "the container has ended"


def _install(root: Path, work: Path) -> None:
    """The exporter as deploy/README.md has it; of the machine's own services none is started."""
    source = work / "source"
    for name in ("exporter", "dashboards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    library = root / "opt/phonic-exporter/lib"
    pip = (sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", "--target", library, f"{source}[postgres]")
    script = root / "opt/phonic-exporter/bin/phonic-exporter"
    script.parent.mkdir()
    script.write_text(
        f"#!{PYTHON}\nimport sys\nsys.path.insert(0, '/opt/phonic-exporter/lib')\n"
        "from exporter.__main__ import main\nmain()\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    system = root / "etc/systemd/system"
    for wanted in system.glob("*.wants"):
        shutil.rmtree(wanted)
    for name in ("phonic-exporter.service", "phonic-exporter.socket"):
        shutil.copy(UNITS / name, system)
    settings = root / "etc/phonic-exporter"
    settings.mkdir()
    shutil.copy(UNITS / "phonic-exporter.toml", settings)
    (settings / "api-key").touch(mode=0o600)
    (settings / "api-key").write_text(KEY, encoding="utf-8")


def _describe(runc: str, bundle: Path, root: Path) -> None:
    """A container that systemd can boot in: it writes cgroups, and mounts spread. The network is the machine's."""
    bundle.mkdir()
    run(runc, "spec", "--bundle", bundle)
    spec = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    spec["root"] = {"path": str(root), "readonly": False}
    spec["process"].update(
        terminal=False,
        args=[
            "sh",
            "-c",
            "mount --make-rshared / && exec /lib/systemd/systemd --unit=basic.target --show-status=0",
        ],
        env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=oci"],
        capabilities={
            kind: [f"CAP_{name}" for name in CAPABILITIES] for kind in ("bounding", "effective", "permitted")
        },
        noNewPrivileges=False,
        rlimits=[],
    )
    spec["linux"]["maskedPaths"] = []  # /proc is mounted anew for the service
    spec["linux"]["namespaces"] = [
        *(each for each in spec["linux"]["namespaces"] if each["type"] not in ("network", "cgroup")),
        {"type": "cgroup"},
    ]
    for mount in spec["mounts"]:
        if mount["destination"] == "/sys/fs/cgroup":
            mount["options"] = ["nosuid", "noexec", "nodev", "rw"]
    for path in ("/run", "/tmp", "/var/log/journal"):  # noqa: S108  # in the container
        spec["mounts"].append(
            {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=755"]}
        )
    (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def turns(http: httpx.AsyncClient, url: str) -> float:
    """The turns counted, once Phonic's API has answered."""
    with trio.fail_after(PATIENCE_SECONDS):
        page = await scrape_until(http, url, lambda page: page.total("phonic_up") == 1)
    return page.total("phonic_turns_total")


async def test_service_counts_as_a_user_of_its_own_and_on_through_a_kill(
    machine: Machine, http: httpx.AsyncClient
) -> None:
    async with program("simulate", "--simulator.listen-address=127.0.0.1:0") as simulator:
        base_url = (await simulator.line("event=simulating")).partition("base_url=")[2].split()[0]
        machine.write(
            "/etc/default/phonic-exporter",
            f"PHONIC_BASE_URL={base_url}\nPHONIC_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:0\n"
            "PHONIC_EXPORTER_METRICS_HOLD_NEW_SERIES=0\n",
        )
        machine.run("systemctl", "start", "phonic-exporter")
        url = machine.url()
        machine.log_until("conversation seen")
        before = await turns(http, url)
        pid = machine.shown("MainPID")
        assert int(machine.run("stat", "--format=%u", f"/proc/{pid}")) >= 61184  # systemd's range of dynamic users
        assert KEY not in machine.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
        assert "phonic-exporter.db" in machine.run("ls", "/var/lib/private/phonic-exporter")
        limits = machine.run("cat", f"/proc/{pid}/limits")
        assert re.search(r"Max open files +8192 +8192", limits)
        cursor = machine.cursor()
        machine.run("systemctl", "reload", "phonic-exporter")
        machine.log_until("SIGHUP", since=cursor)
        machine.run("kill", "-KILL", pid)
        assert await turns(http, machine.url(since=cursor)) >= before > 0
        assert machine.shown("NRestarts") == "1"
        machine.run("systemctl", "stop", "phonic-exporter")
        machine.log_until("event=stopped", since=cursor)
        assert machine.shown("Result") == "success"


async def test_service_keeps_its_state_in_postgresql_with_a_password_that_only_it_can_read(
    machine: Machine, http: httpx.AsyncClient, database: Database
) -> None:
    drop_in = "phonic-exporter.service.d/shards.conf"
    async with program("simulate", "--simulator.listen-address=127.0.0.1:0") as simulator:
        base_url = (await simulator.line("event=simulating")).partition("base_url=")[2].split()[0]
        machine.write(
            "/etc/default/phonic-exporter",
            f"PHONIC_BASE_URL={base_url}\nPHONIC_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:0\n"
            f"PHONIC_EXPORTER_METRICS_HOLD_NEW_SERIES=0\nPHONIC_EXPORTER_STATE_URL={database.guarded_url}\n",
        )
        password = database.password_file.read_text(encoding="utf-8")
        machine.write("/etc/phonic-exporter/database-password", password, mode=0o600)
        machine.write(f"/etc/systemd/system/{drop_in}", (UNITS / drop_in).read_text(encoding="utf-8"))
        cursor = machine.cursor()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "phonic-exporter")
        url = machine.url(since=cursor)
        machine.log_until("conversation seen", since=cursor)
        assert "phonic_exporter_shard_held 1.0" in (await http.get(f"{url}/metrics")).text
        assert await turns(http, url) > 0
        machine.run("systemctl", "stop", "phonic-exporter")
        machine.log_until("shard released", since=cursor)
    machine.run("rm", f"/etc/systemd/system/{drop_in}")
    machine.run("systemctl", "daemon-reload")


def test_service_with_wrong_settings_is_not_started_again(machine: Machine) -> None:
    machine.write("/etc/default/phonic-exporter", "PHONIC_EXPORTER_WATCH_LIMIT=none\n")
    machine.run("systemctl", "start", "phonic-exporter", expected=None)
    machine.log_until("--watch.limit")
    machine.run("sh", "-c", "until systemctl is-failed --quiet phonic-exporter; do sleep 0.1; done")
    assert machine.shown("ExecMainStatus") == "2"
    assert machine.shown("NRestarts") == "0"
    machine.run("systemctl", "reset-failed", "phonic-exporter")


async def test_socket_starts_the_service_and_keeps_scrapes_waiting_while_it_restarts(
    machine: Machine, http: httpx.AsyncClient, unused_port: int
) -> None:
    async with program("simulate", "--simulator.listen-address=127.0.0.1:0") as simulator:
        base_url = (await simulator.line("event=simulating")).partition("base_url=")[2].split()[0]
        machine.write("/etc/default/phonic-exporter", f"PHONIC_BASE_URL={base_url}\n")
        drop_in = "phonic-exporter.service.d/socket.conf"
        machine.write(f"/etc/systemd/system/{drop_in}", (UNITS / drop_in).read_text(encoding="utf-8"))
        machine.write(
            "/etc/systemd/system/phonic-exporter.socket.d/port.conf",
            f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{unused_port}\n",
        )
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "phonic-exporter.socket")
        assert machine.shown("ActiveState") == "inactive"
        page = f"http://127.0.0.1:{unused_port}/metrics"
        first = await http.get(page, timeout=PATIENCE_SECONDS, headers={"Connection": "close"})
        assert first.status_code == 200
        assert machine.shown("ActiveState") == "active"
        machine.run("systemctl", "restart", "--no-block", "phonic-exporter")
        # A connection each: one that is kept may be closed at the moment in which its client sends.
        for _ in range(20):
            answer = await http.get(page, timeout=PATIENCE_SECONDS, headers={"Connection": "close"})
            assert answer.status_code == 200
        machine.run("systemctl", "stop", "phonic-exporter.socket", "phonic-exporter")
