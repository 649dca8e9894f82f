"""Both forms of each dashboard against Grafana's own schema, from the types that it publishes (tests/data)."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dashboards import classic, files, slo, v2
from dashboards.boards import BOARDS

SCHEMAS = Path(__file__).parents[1] / "data/grafana-schema"
RENDERED = files.render(slo.load())
CLASSIC = {name: json.loads(RENDERED[f"grafana/{name}.json"]) for name in BOARDS}
V2 = {name: json.loads(RENDERED[f"grafana-v2/{name}.json"]) for name in BOARDS}
EVERY_BOARD = pytest.mark.parametrize("name", BOARDS)

# The classic schema describes what all data sources share. These are the Prometheus plugin's own, which it reads
# from the annotation itself in every version; schema v2 has a place for them.
OF_THE_PLUGIN = {"expr", "step", "titleFormat", "textFormat", "useValueForTime"}


@cache
def schema(name: str) -> jsonschema.Draft7Validator:
    document = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(document)
    return jsonschema.Draft7Validator(document)


def faults(name: str, value: Any) -> list[str]:
    """What the schema has against ``value``, most telling part first."""
    return [
        f"{error.json_path}: {error.message[:300]}" for error in map(_deepest, schema(name).iter_errors(value))
    ]


def _deepest(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    return jsonschema.exceptions.best_match([error]) or error


def without_the_plugins_own(board: dict[str, Any]) -> dict[str, Any]:
    stripped = copy.deepcopy(board)
    for annotation in stripped["annotations"]["list"]:
        for key in OF_THE_PLUGIN:
            del annotation[key]
    return stripped


@EVERY_BOARD
def test_classic_dashboard_follows_the_schema_to_the_letter(name: str) -> None:
    assert faults("classic", without_the_plugins_own(CLASSIC[name])) == []
    assert CLASSIC[name]["schemaVersion"] == classic.SCHEMA_VERSION


@EVERY_BOARD
def test_v2_dashboard_follows_the_schema_to_the_letter(name: str) -> None:
    assert faults("v2", V2[name]["spec"]) == []
    assert {key: V2[name][key] for key in ("apiVersion", "kind", "metadata")} == {
        "apiVersion": v2.API_VERSION,
        "kind": "Dashboard",
        "metadata": {"name": f"phonic-{name}"},
    }


@EVERY_BOARD
def test_panels_set_only_options_that_their_plugin_has(name: str) -> None:
    for panel in CLASSIC[name]["panels"]:
        if panel["type"] != "row":
            assert faults(panel["type"], panel["options"]) == [], panel["title"]
            if "custom" in panel["fieldConfig"]["defaults"]:
                custom = panel["fieldConfig"]["defaults"]["custom"]
                assert faults(f"{panel['type']}-field", custom) == [], panel["title"]


@EVERY_BOARD
def test_both_forms_show_the_same_panels_in_the_same_places(name: str) -> None:
    spec = V2[name]["spec"]
    found = []
    top = 0
    for number, row in enumerate(spec["layout"]["spec"]["rows"]):
        top += number > 0  # the heading, which is a line of its own in the classic form
        items = [item["spec"] for item in row["spec"]["layout"]["spec"]["items"]]
        for item in items:
            element = spec["elements"][item["element"]["name"]]["spec"]
            queries = [query["spec"] for query in element["data"]["spec"]["queries"]]
            found.append(
                (
                    element["title"],
                    element["vizConfig"]["group"],
                    (item["x"], item["y"] + top, item["width"], item["height"]),
                    [(query["refId"], query["query"]["spec"]["expr"]) for query in queries],
                    element["vizConfig"]["spec"]["fieldConfig"],
                )
            )
        top += max(item["y"] + item["height"] for item in items)
    assert found == [
        (
            panel["title"],
            panel["type"],
            tuple(panel["gridPos"][side] for side in "xywh"),
            [(target["refId"], target["expr"]) for target in panel["targets"]],
            panel["fieldConfig"],
        )
        for panel in CLASSIC[name]["panels"]
        if panel["type"] != "row"
    ]


def test_a_key_that_grafana_does_not_know_is_found() -> None:
    board = without_the_plugins_own(CLASSIC["overview"])
    board["templating"]["list"][0]["auto_min"] = "10s"
    assert any("auto_min" in fault for fault in faults("classic", board))
    spec = copy.deepcopy(V2["overview"]["spec"])
    spec["cursorSync"] = "crosshair"
    assert any("crosshair" in fault for fault in faults("v2", spec))
    assert faults("stat", {**CLASSIC["overview"]["panels"][0]["options"], "graphmode": "none"}) != []


def test_schemas_keep_licence_and_origin() -> None:
    assert "Apache License" in (SCHEMAS / "LICENSE").read_text(encoding="utf-8")
    assert "@grafana/schema 13." in (SCHEMAS / "NOTICE").read_text(encoding="utf-8")
