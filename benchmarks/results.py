"""Edge: writes the folder of results: a page, numbers and plots for each case, and an overview."""

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from .report import GOAL_COLUMNS, Goal, Plot, Report, Table


def write(report: Report, machine: Mapping[str, str], folder: Path) -> None:
    """Write or replace the files of a case, and update the overview."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw_all(report, folder)
    (folder / f"{report.name}.md").write_text(report.markdown(machine, pictures))
    content = {
        "title": report.title,
        "machine": dict(machine),
        "goals": [attrs.asdict(goal) for goal in report.goals],
        "data": report.data,
    }
    (folder / f"{report.name}.json").write_text(json.dumps(content, indent=1, default=attrs.asdict) + "\n")
    (folder / "README.md").write_text(_overview(folder))


def _overview(folder: Path) -> str:
    lines = ["# Results of the benchmarks\n", "Written by `make bench`; each page has its method and machine.\n"]
    goals: list[Goal] = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        lines.append(f"- [{content['title']}]({path.stem}.md), {content['machine']['date']}")
        goals += [Goal(**goal) for goal in content["goals"]]
    return "\n".join(
        (*lines, "", str(Table(title="Goals", columns=GOAL_COLUMNS, rows=[each.row for each in goals])))
    )


def _draw_all(report: Report, folder: Path) -> list[str]:
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'phonic-exporter[bench]')")
        return []
    matplotlib.use("agg")
    names = []
    for at, plot in enumerate(report.plots, 1):
        names.append(f"{report.name}-{at}.png")
        _draw(plot, folder / names[-1])
    return names


def _draw(plot: Plot, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, points in plot.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    for name, found in plot.bars.items():
        error = [[found.median - found.low], [found.high - found.median]]
        bar = axes.bar(name, found.median, yerr=error, capsize=4)
        axes.bar_label(bar, fmt="%.3g", label_type="center")
    if plot.is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    axes.grid(visible=True, axis="y", alpha=0.3)
    if plot.lines:
        axes.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
