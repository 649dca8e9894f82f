"""Pure: renders a board in Grafana's classic schema, version 42, which every Grafana imports."""

from .model import DATASOURCE, PLUGIN, Annotation, Board, Choice, Json, Panel, Query, Text, bottom, lines

SCHEMA_VERSION = 42
_REFRESH_ON_TIME_RANGE, _SORT_WITHOUT_CASE, _CROSSHAIR = 2, 5, 1


def render(board: Board) -> Json:
    """Return the dashboard for import or provisioning."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": list(board.tags),
        "timezone": "browser",
        "editable": False,
        "graphTooltip": _CROSSHAIR,
        "time": {"from": board.since, "to": "now"},
        "refresh": board.refresh,
        "links": links(board),
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Data source", "query": PLUGIN},
                *(_choice(each) for each in board.choices),
                *(_text(each) for each in board.texts),
            ]
        },
        "annotations": {"list": [_annotation(each) for each in board.annotations]},
        "panels": _panels(board),
    }


def links(board: Board) -> list[Json]:
    """Return the links to the other dashboards with the same tags, which are the same in both schemas."""
    return [
        {
            "title": "Phonic",
            "type": "dashboards",
            "icon": "",
            "tooltip": "",
            "tags": list(board.tags),
            "asDropdown": False,
            "targetBlank": False,
            "includeVars": True,
            "keepTime": True,
        }
    ]


def datasource() -> Json:
    """Return a reference to the data source selected at the top of the dashboard."""
    return {"type": PLUGIN, "uid": DATASOURCE}


def target(query: Query, ref: str) -> Json:
    """Return a query for the Prometheus plugin."""
    return {
        "refId": ref,
        "datasource": datasource(),
        **query_fields(query),
    }


def query_fields(query: Query) -> Json:
    """Return the Prometheus plugin's fields of a query, which are the same in both schemas."""
    return {
        "expr": query.expr,
        "legendFormat": query.legend,
        "instant": query.instant,
        "range": not query.instant,
        "exemplar": query.exemplar,
        **({"format": query.shape} if query.shape else {}),
        **({"interval": query.interval} if query.interval else {}),
    }


def _panels(board: Board) -> list[Json]:
    panels: list[Json] = []
    top = 0
    for number, row in enumerate(board.rows):
        if number:
            place = {"x": 0, "y": top, "w": 24, "h": 1}
            panels.append({"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place})
            top += 1
        panels += [_panel(panel, x, y) for panel, x, y in lines(row.panels, top)]
        top = bottom(row.panels, top)
    return [{"id": number, **panel} for number, panel in enumerate(panels, start=1)]


def _panel(panel: Panel, x: int, y: int) -> Json:
    changed = [{"id": name, "options": options} for name, options in panel.transformations]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [target(query, ref) for ref, query in zip(REFS, panel.queries, strict=False)],
        **({"transformations": changed} if changed else {}),
        "options": panel.options,
        "fieldConfig": {"defaults": panel.defaults, "overrides": list(panel.overrides)},
    }


REFS = "ABCDEFGHIJKL"


def _choice(choice: Choice) -> Json:
    return {
        "type": "query",
        "name": choice.name,
        "label": choice.label,
        "datasource": datasource(),
        "query": choice.query,
        "refresh": _REFRESH_ON_TIME_RANGE,
        "sort": _SORT_WITHOUT_CASE,
        "multi": True,
        "includeAll": True,
        "allValue": choice.every,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _text(text: Text) -> Json:
    return {
        "type": "textbox",
        "name": text.name,
        "label": text.label,
        "description": text.description,
        "query": "",
    }


def _annotation(annotation: Annotation) -> Json:
    # The last five fields belong to the Prometheus plugin, which reads them here in every version.
    return {
        "name": annotation.name,
        "enable": True,
        "hide": False,
        "iconColor": annotation.color,
        "datasource": datasource(),
        "expr": annotation.expr,
        "step": annotation.step,
        "titleFormat": annotation.title,
        "textFormat": annotation.text,
        "useValueForTime": annotation.at_value,
    }
