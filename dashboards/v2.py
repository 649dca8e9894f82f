"""Pure: renders a board as a resource of Grafana's dashboard API, schema v2, which Grafana 13 reads."""

from .classic import REFS, links, query_fields
from .model import DATASOURCE, PLUGIN, Annotation, Board, Choice, Json, Panel, Text, lines

API_VERSION = "dashboard.grafana.app/v2"
_REFRESHES = ["5s", "10s", "30s", "1m", "5m", "15m", "30m", "1h"]


def render(board: Board) -> Json:
    """Return the resource, for the API or for import."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Dashboard",
        "metadata": {"name": board.uid},
        "spec": _spec(board),
    }


def _spec(board: Board) -> Json:
    names = {panel.title: f"panel-{number}" for number, panel in enumerate(_panels(board), start=1)}
    return {
        "title": board.title,
        "description": board.description,
        "tags": list(board.tags),
        "cursorSync": "Crosshair",
        "editable": False,
        "preload": False,
        "timeSettings": {
            "timezone": "browser",
            "from": board.since,
            "to": "now",
            "autoRefresh": board.refresh,
            "autoRefreshIntervals": _REFRESHES,
            "hideTimepicker": False,
            "fiscalYearStartMonth": 0,
        },
        "links": links(board),
        "variables": [
            _datasource_variable(),
            *(_choice(each) for each in board.choices),
            *(_text(each) for each in board.texts),
        ],
        "annotations": [_annotation(each) for each in board.annotations],
        "elements": {
            names[panel.title]: _element(panel, number) for number, panel in enumerate(_panels(board), start=1)
        },
        "layout": {
            "kind": "RowsLayout",
            "spec": {
                "rows": [
                    {
                        "kind": "RowsLayoutRow",
                        "spec": {
                            "title": row.title,
                            "collapse": False,
                            "hideHeader": number == 0,
                            "layout": {
                                "kind": "GridLayout",
                                "spec": {
                                    "items": [
                                        _item(panel, x, y, names[panel.title]) for panel, x, y in lines(row.panels)
                                    ]
                                },
                            },
                        },
                    }
                    for number, row in enumerate(board.rows)
                ]
            },
        },
    }


def _panels(board: Board) -> list[Panel]:
    return [panel for row in board.rows for panel in row.panels]


def _item(panel: Panel, x: int, y: int, name: str) -> Json:
    return {
        "kind": "GridLayoutItem",
        "spec": {
            "x": x,
            "y": y,
            "width": panel.width,
            "height": panel.height,
            "element": {"kind": "ElementReference", "name": name},
        },
    }


def _element(panel: Panel, number: int) -> Json:
    return {
        "kind": "Panel",
        "spec": {
            "id": number,
            "title": panel.title,
            "description": panel.description,
            "links": [],
            "data": {
                "kind": "QueryGroup",
                "spec": {
                    "queries": [
                        {
                            "kind": "PanelQuery",
                            "spec": {"refId": ref, "hidden": False, "query": _query(query_fields(query))},
                        }
                        for ref, query in zip(REFS, panel.queries, strict=False)
                    ],
                    "transformations": [
                        {"kind": "Transformation", "group": name, "spec": {"options": options}}
                        for name, options in panel.transformations
                    ],
                    "queryOptions": {},
                },
            },
            "vizConfig": {
                "kind": "VizConfig",
                "group": panel.kind,
                "version": "",
                "spec": {
                    "options": panel.options,
                    "fieldConfig": {"defaults": panel.defaults, "overrides": list(panel.overrides)},
                },
            },
        },
    }


def _query(spec: Json) -> Json:
    return {
        "kind": "DataQuery",
        "group": PLUGIN,
        "version": "v0",
        "datasource": {"name": DATASOURCE},
        "spec": spec,
    }


def _datasource_variable() -> Json:
    return {
        "kind": "DatasourceVariable",
        "spec": {
            "name": "datasource",
            "label": "Data source",
            "pluginId": PLUGIN,
            "refresh": "onDashboardLoad",
            "regex": "",
            "current": {"text": "", "value": ""},
            "options": [],
            "multi": False,
            "includeAll": False,
            "hide": "dontHide",
            "skipUrlSync": False,
            "allowCustomValue": True,
        },
    }


def _choice(choice: Choice) -> Json:
    return {
        "kind": "QueryVariable",
        "spec": {
            "name": choice.name,
            "label": choice.label,
            "query": _query({"query": choice.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}),
            "definition": choice.query,
            "regex": "",
            "refresh": "onTimeRangeChanged",
            "sort": "alphabeticalCaseInsensitiveAsc",
            "multi": True,
            "includeAll": True,
            "allValue": choice.every,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "options": [],
            "hide": "dontHide",
            "skipUrlSync": False,
            "allowCustomValue": True,
        },
    }


def _text(text: Text) -> Json:
    return {
        "kind": "TextVariable",
        "spec": {
            "name": text.name,
            "label": text.label,
            "description": text.description,
            "query": "",
            "current": {"text": "", "value": ""},
            "hide": "dontHide",
            "skipUrlSync": False,
        },
    }


def _annotation(annotation: Annotation) -> Json:
    spec = {"expr": annotation.expr, "interval": annotation.step, "refId": "Anno"}
    return {
        "kind": "AnnotationQuery",
        "spec": {
            "name": annotation.name,
            "enable": True,
            "hide": False,
            "iconColor": annotation.color,
            "query": _query(spec),
            "legacyOptions": {
                "titleFormat": annotation.title,
                "textFormat": annotation.text,
                "useValueForTime": annotation.at_value,
            },
        },
    }
