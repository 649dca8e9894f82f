"""Pure: the generated parts of ``metrics.md``, from the metric catalog and the examples."""

from collections.abc import Iterator

from exporter.enums import Origin
from exporter.metrics.catalog import CATALOG, STATE_VALUES, Family, Scope

from .examples import SECTIONS, Example
from .markdown import prose, slug, table, wrapped

# Labels whose values no enum closes.
_OPEN_LABELS = {
    "project": "name of the project",
    "agent": "name of the agent",
    "agent_id": "Phonic's id of the agent",
    "conversation_id": "Phonic's id of the conversation",
    "shard": "number of the shard",
    "tool": "name of the tool, `unknown` where the record lacks it",
    "version": "version of the exporter",
    "pythonversion": "version of Python",
}
# Label values that come from an enum although their families do not list them.
_CLOSED_LABELS = {"origin": tuple(word.value for word in Origin)}
_LABEL_NOTES = {"role": "; `other` appears with the first turn of another role"}


def parts() -> dict[str, str]:
    """The generated parts of the page by the names of their markers.

    Raises ValueError where catalog and examples do not name the same families.
    """
    named = [name for section in SECTIONS for name in section.examples]
    known = {family.name: family for family in CATALOG}
    if sorted(named) != sorted(known):
        unlike = sorted(set(named) ^ set(known)) or sorted({name for name in named if named.count(name) > 1})
        raise ValueError(f"docs/examples.py and the catalog must name the same families, each once: {unlike}")
    return {"index": _index(known), "metrics": "".join(_sections(known))}


def _index(known: dict[str, Family]) -> str:
    rows = [
        (
            f"[{section.title}](#{slug(section.title)})",
            " ".join(f"[`{known[name].sample_name}`](#{known[name].sample_name})" for name in section.examples),
        )
        for section in SECTIONS
    ]
    return table(("section", "metrics"), rows)


def _sections(known: dict[str, Family]) -> Iterator[str]:
    for section in SECTIONS:
        yield f"## {section.title}\n\n{wrapped(section.about)}\n\n"
        for name, example in section.examples.items():
            yield _entry(known[name], example)


def _entry(family: Family, example: Example) -> str:
    facts = [f"- type: {family.kind.value}, {example.stability.value}", *_labels(family)]
    if family.buckets:
        facts.append(f"- buckets: {', '.join(f'{bound:g}' for bound in family.buckets)}")
    facts.append(f"- derived from: {family.derived}")
    return (
        f"### `{family.sample_name}`\n\n{wrapped(prose(family.help))}\n\n"
        + "".join(f"{fact}\n" for fact in facts)
        + f"\n{example.answers}\n\n```promql\n{example.query}\n```\n\n"
    )


def _labels(family: Family) -> Iterator[str]:
    if family.scope is Scope.CONVERSATIONS:
        yield "- [chosen labels](#labels)"
    elif family.by_workspace:
        yield "- label `workspace`, [with several workspaces](#labels)"
    values = dict(zip(family.labels, family.values, strict=False))
    if family.name in STATE_VALUES:
        values[family.labels[0]] = STATE_VALUES[family.name]
    for label in family.labels:
        closed = values.get(label) or _CLOSED_LABELS.get(label)
        if closed is None:
            yield f"- label `{label}`: {_OPEN_LABELS[label]}"
        else:
            yield f"- label `{label}`: {', '.join(f'`{value}`' for value in closed)}{_LABEL_NOTES.get(label, '')}"
