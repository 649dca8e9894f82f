"""The servers under test, and the results of their tools with the generated rule tests."""

import faulthandler
import subprocess
from functools import cache
from pathlib import Path

import attrs

from dashboards import files
from tests.e2e.prometheus import INSTALLED, NEXT, Release, needs

TESTS = Path(files.__file__).parent / "prometheus/tests"
STEMS = sorted(path.stem for path in TESTS.glob("*.yml"))


@attrs.frozen
class Server:
    """A server: its name in the table, its program, and the tool that runs rule tests with its semantics."""

    name: str
    program: str
    tool: tuple[str, ...]
    release: Release

    def test(self, stem: str) -> str:
        """Run a test file; return the errors, or an empty string if it passes."""
        program, *arguments = self.tool
        path = TESTS / f"{stem}.yml"
        argv = [needs(program, self.release), *(part.replace("FILE", str(path)) for part in arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
        return "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


_PROMTOOL = ("promtool", "test", "rules", "FILE")
_VMALERT_TOOL = ("vmalert-tool", "unittest", "--disableAlertgroupLabel", "--files=FILE")
TWO = Server("Prometheus 2", "prometheus", _PROMTOOL, INSTALLED)
THREE = Server("Prometheus 3", "prometheus", _PROMTOOL, NEXT)
VICTORIA = Server("VictoriaMetrics 1", "victoria-metrics", _VMALERT_TOOL, NEXT)
SERVERS = (TWO, THREE, VICTORIA)

# Test files that do not apply to a server. VictoriaMetrics computes an increase from the last sample before the
# window, so the share in the text of that alert differs.
NOT_FOR = {("VictoriaMetrics 1", "pages")}
TRIED = [(server, stem) for server in SERVERS for stem in STEMS if (server.name, stem) not in NOT_FOR]


def verdict(server: Server, stem: str) -> str:
    """Return the result of `Server.test`, which runs once."""
    needs(server.tool[0], server.release)
    faulthandler.cancel_dump_traceback_later()  # minutes on a busy machine, bounded by `Server.test`
    return _tested(server, stem)


@cache
def _tested(server: Server, stem: str) -> str:
    return server.test(stem)
