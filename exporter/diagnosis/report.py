"""Pure: from what was seen to a report in plain words: what is right, what is wrong, and what to do about it."""

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import attrs

from .. import __version__
from ..enums import Request, RestError
from .examine import Examined
from .seen import FeedSeen
from .words import UNQUOTED

WRONG_CLOCK: Final = 2.0
"""Seconds between the two clocks from which waiting times are wrong."""
SHORTEST_FOR_A_RATE: Final = 1.0
"""Seconds of observation."""


class Verdict(StrEnum):
    """What a finding means for the exporter."""

    RIGHT = "right"
    WRONG = "wrong"
    DIFFERS = "differs"  # from Phonic's documents; the exporter copes, its maintainers want to know
    UNSEEN = "not seen"


@attrs.frozen
class Finding:
    """One thing that was looked at. ``advice``: what to do, for a wrong one."""

    verdict: Verdict
    about: str
    text: str
    advice: str = ""


@attrs.frozen
class Answer:
    """What was seen of a question that Phonic's documents leave open."""

    question: str
    text: str


@attrs.frozen
class Report:
    """Findings and answers, without a word, id, number or key of any person or company."""

    findings: list[Finding]
    answers: list[Answer]

    @property
    def is_well(self) -> bool:
        return not any(each.verdict is Verdict.WRONG for each in self.findings)

    def as_text(self) -> str:
        """Lines for a terminal."""
        width = max(len(each.verdict) for each in self.findings)
        lines = [f"phonic-exporter {__version__}: doctor", ""]
        for each in self.findings:
            lines.append(f"{each.verdict.upper():<{width}}  {each.about}: {each.text}")
            if each.advice:
                lines.append(f"{'':<{width}}  -> {each.advice}")
        lines += ["", "Questions that Phonic's documents leave open:", ""]
        lines += [f"- {each.question}\n  {each.text}" for each in self.answers]
        wrong = sum(each.verdict is Verdict.WRONG for each in self.findings)
        lines += [
            "",
            "Nothing is wrong." if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong.",
        ]
        lines.append("This report holds no id, name, text, number or key, and can be sent to a maintainer.")
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """One JSON object: ``version``, ``well``, ``findings`` and ``answers``."""
        return json.dumps(
            {
                "version": __version__,
                "well": self.is_well,
                "findings": [{**attrs.asdict(each), "verdict": each.verdict.value} for each in self.findings],
                "answers": [attrs.asdict(each) for each in self.answers],
            },
            indent=2,
        )


def report(found: Examined) -> Report:
    """Judge what was seen."""
    return Report(
        [*_rest(found), *_feed(found), *_vocabulary(found)],
        [Answer(question, text) for question, text in _answers(found)],
    )


_ADVICE: Final = {
    RestError.DNS: "check the host in --phonic.base-url, and the name servers of this machine",
    RestError.CONNECT: "a firewall or a proxy may be in the way: set HTTPS_PROXY, or allow port 443 to the host",
    RestError.REFUSED: "no server listens at this address: check --phonic.base-url",
    RestError.TLS: "a proxy that inspects TLS may be in the way: give its authority with --phonic.ca-file",
    RestError.PROXY: "check HTTPS_PROXY: the proxy did not answer, or refuses the way to Phonic",
    RestError.TIMEOUT: "the server did not answer in time: try again, then look at https://status.phonic.ai",
    RestError.HTTP_401: "Phonic does not accept the API key: create one in the workspace's settings, and check "
    "that the file or variable holds exactly it",
    RestError.HTTP_403: "the API key may not do this: use a key of the workspace with read access",
    RestError.HTTP_404: "there is no Phonic API at this address: check --phonic.base-url",
    RestError.HTTP_429: "the workspace's request budget is used up: find what else asks, or lower "
    "--phonic.requests-per-second",
    RestError.HTTP_5XX: "Phonic has trouble: look at https://status.phonic.ai",
    RestError.NOT_JSON: "another server than Phonic answers at this address (a login page of a proxy?)",
    RestError.WRONG_SHAPE: "the reply is not as documented: send this report to the maintainers",
}
_ASKED: Final = {
    Request.PROJECTS: "list of projects",
    Request.WORKSPACE: "workspace and its limits",
    Request.AGENTS: "list of agents",
    Request.CONVERSATIONS: "list of conversations",
}


def _rest(found: Examined) -> Iterator[Finding]:
    if not found.has_api_key:
        yield Finding(
            Verdict.UNSEEN,
            "credential",
            "a session token reads single conversations only: no discovery, no names, no records of ended calls; "
            "an API key gives all of them",
        )
        return
    refused = found.failures.get(Request.PROJECTS)
    if refused is None:
        way = "through a proxy" if found.through_proxy else "directly"
        text = f"REST answers {way}{', over TLS' if found.is_encrypted else ''}, and accepts the API key"
        yield Finding(Verdict.RIGHT, "connection", text)
    else:
        yield _failed("connection", "REST cannot be used", refused)
        return
    for request, about in _ASKED.items():
        if request in found.failures and request is not Request.PROJECTS:
            yield _failed(about, "REST does not give it", found.failures[request])
    if found.record_failure is not None:
        yield _failed("record of an ended conversation", "REST does not give it", found.record_failure)
    yield from _clock(found)
    if not found.projects:
        yield Finding(
            Verdict.WRONG,
            "projects",
            "the key sees no project",
            "check that the key belongs to the workspace whose conversations you want to watch",
        )
    else:
        yield Finding(
            Verdict.RIGHT,
            "projects",
            f"{found.projects} found, with {found.agents} agents in the {found.projects_listed} looked at",
        )
    if found.workspace_limit is not None:
        is_full = (found.workspace_active or 0) >= found.workspace_limit
        text = f"{found.workspace_active} active conversations of {found.workspace_limit} allowed"
        advice = "callers are turned away: ask Phonic for a higher limit" if is_full else ""
        yield Finding(Verdict.WRONG if is_full else Verdict.RIGHT, "limits", text, advice)
    yield from _lists(found)


def _lists(found: Examined) -> Iterator[Finding]:
    rest = found.rest
    if rest.unusable:
        yield Finding(Verdict.DIFFERS, "list of conversations", f"{rest.unusable} rows are no objects")
    if found.active and not rest.running and Request.CONVERSATIONS not in found.failures:
        yield Finding(
            Verdict.WRONG,
            "discovery",
            f"Phonic counts {found.active} active conversations, and its lists show none that goes on",
            "the exporter cannot find conversations here: name them with --watch.conversation, --watch.file or "
            "the push API, and send this report to the maintainers",
        )
    elif rest.running:
        text = f"lists show {rest.running} conversations without an end, Phonic counts {found.active} active"
        yield Finding(Verdict.RIGHT, "discovery", text)
    if rest.records and not rest.records_without["ended_by"] and not rest.records_without["analysis"]:
        yield Finding(Verdict.RIGHT, "record of an ended conversation", "complete, with ended_by and analysis")
    elif rest.records:
        without = [field for field, count in sorted(rest.records_without.items()) if count]
        yield Finding(
            Verdict.DIFFERS, "record of an ended conversation", f"without {', '.join(without)} when it was read"
        )


def _clock(found: Examined) -> Iterator[Finding]:
    offset = found.clock_offset
    if offset is None:
        yield Finding(Verdict.UNSEEN, "clock", "Phonic's replies tell no time")
    elif abs(offset) > WRONG_CLOCK:
        way = "ahead of" if offset > 0 else "behind"
        text = f"this machine's clock is {abs(offset):.1f} s {way} Phonic's"
        yield Finding(
            Verdict.WRONG, "clock", text, "synchronise it (NTP): ages of waiting callers are wrong otherwise"
        )
    else:
        yield Finding(Verdict.RIGHT, "clock", f"within {max(abs(offset), 0.1):.1f} s of Phonic's")


def _failed(about: str, what: str, reason: RestError) -> Finding:
    advice = _ADVICE.get(reason, "look at https://status.phonic.ai, then send this report to the maintainers")
    return Finding(Verdict.WRONG, about, f"{what} ({reason.value})", advice)


def _feed(found: Examined) -> Iterator[Finding]:
    feed = found.feed
    if feed is None:
        if found.has_api_key and Request.PROJECTS in found.failures:
            return
        why = (
            "no conversation is going on; start a call and run this again, or name one with --conversation"
            if found.has_api_key
            else "a session token cannot list conversations; name one with --conversation"
        )
        yield Finding(Verdict.UNSEEN, "live feed", why)
        return
    if found.feeds_silent:
        which = f"{found.feeds_silent} of {found.feeds_tried} tried"
        yield Finding(
            Verdict.WRONG,
            "live feed",
            f"{which} accepted, and sent no snapshot in {found.seconds:g} s",
            "Phonic sends one at once, so a proxy may hold it back; if there is none, send this report to the "
            "maintainers",
        )
    trouble = found.feed_trouble
    if feed.opened_after is None and feed.refused_with is None:
        trouble = trouble or feed.broke_by or RestError.TIMEOUT.value
    if trouble:
        yield Finding(
            Verdict.WRONG,
            "live feed",
            f"no connection for WebSockets ({trouble})",
            "REST and the feed take the same way; a proxy or firewall may refuse WebSockets only"
            if found.has_api_key
            else "check --phonic.base-url; a proxy or firewall may be in the way, or refuse WebSockets",
        )
    elif feed.refused_with is not None:
        yield _handshake(found, feed.refused_with)
    elif feed.updates:
        yield from _messages(found, feed)
    elif not feed.is_silent and not feed.broke:
        said = _ending(feed)
        yield Finding(
            Verdict.WRONG if found.was_named else Verdict.UNSEEN,
            "live feed",
            f"{found.feeds_tried} tried, none sent a snapshot; the last one: {said}",
            "the conversation is over or not yours" if found.was_named else "",
        )
    if feed.broke:
        yield Finding(
            Verdict.WRONG,
            "live feed",
            f"broken off after {_observed(found, feed):.1f} s and {feed.updates} snapshots: {_ending(feed)}",
            _advice_for_broken(feed),
        )


def _handshake(found: Examined, status: int) -> Finding:
    text = f"Phonic refuses the WebSocket with HTTP {status}"
    if status in (404, 410):
        text += ": the conversation is unknown or over"
        return Finding(Verdict.WRONG if found.was_named else Verdict.UNSEEN, "live feed", text)
    advice = {
        401: "REST accepts the key and the feed does not: send this report to the maintainers"
        if found.has_api_key
        else "Phonic does not accept the session token: it lives for an hour at most, so get a new one",
        403: "the key or token may not observe live conversations: ask Phonic for access to the live WebSocket "
        "(preview)",
        426: "a proxy on the way does not pass WebSockets on",
        429: "too many feeds are being opened: run this again later",
    }.get(status, "a proxy may be in the way, or Phonic has trouble: look at https://status.phonic.ai")
    return Finding(Verdict.WRONG, "live feed", text, advice)


def _advice_for_broken(feed: FeedSeen) -> str:
    if feed.close_code == 1008:
        return "the conversation is not yours, or the credential may not observe live conversations: ask Phonic"
    if feed.close_code is not None:
        return "Phonic or a proxy closes it early: run this again, then look at https://status.phonic.ai"
    if feed.broke_by == "cut off":
        return "a proxy, a firewall or the network cuts connections that live long: run this again"
    return "a proxy may change what passes; if there is none, send this report to the maintainers"


def _observed(found: Examined, feed: FeedSeen) -> float:
    """Seconds from the handshake to the end of the feed, or of the observation."""
    return (found.seconds if feed.ended_after is None else feed.ended_after) - (feed.opened_after or 0.0)


def _messages(found: Examined, feed: FeedSeen) -> Iterator[Finding]:
    text = (
        f"{feed.updates} snapshots in {_observed(found, feed):.0f} s, the first after "
        f"{feed.first_update_after or 0:.2f} s, {len(feed.turns)} turns, "
        f"the largest message {feed.largest} characters"
    )
    yield Finding(Verdict.RIGHT, "live feed", text)
    if feed.not_json or feed.binary:
        text = f"{feed.not_json} messages are no JSON objects, {feed.binary} are binary"
        yield Finding(Verdict.WRONG, "live feed", text, "send this report to the maintainers")
    if feed.shrunk:
        yield Finding(Verdict.DIFFERS, "turns", f"{feed.shrunk} snapshots had fewer turns than the one before")
    if feed.odd_ids:
        yield Finding(
            Verdict.DIFFERS, "turns", f"{feed.odd_ids} ids are not the conversation's with the index behind it"
        )
    changed = sum(turn.changes_after_settled for turn in feed.turns.values())
    if changed:
        yield Finding(
            Verdict.DIFFERS, "turns", f"{changed} times a turn's duration changed after a later turn had begun"
        )
    when = feed.timings()
    if when and not when["with the turn"] and not when["later"]:
        yield Finding(
            Verdict.WRONG,
            "timings",
            f"{when['never']} turns of the assistant were settled without timings",
            "the latency of model and audio cannot be measured here: send this report to the maintainers"
            if found.has_api_key
            else "use an API key: a session token may be given a reduced conversation",
        )
    elif when:
        yield Finding(Verdict.RIGHT, "timings", _counted(when))
    else:
        yield Finding(Verdict.UNSEEN, "timings", "no turn of the assistant began and ended meanwhile")


def _vocabulary(found: Examined) -> Iterator[Finding]:
    looked = [found.rest.vocabulary, *(each.vocabulary for each in (found.feed,) if each)]
    fields = sorted({name for each in looked for name in each.fields})
    values = sorted({name for each in looked for name in each.values})
    types = [name for name in found.feed.types if name not in _KNOWN_TYPES] if found.feed else []
    if fields:
        yield Finding(Verdict.DIFFERS, "fields that Phonic's documents do not name", ", ".join(fields))
    if values:
        yield Finding(Verdict.DIFFERS, "words that Phonic's documents do not name", ", ".join(values))
    if types:
        yield Finding(Verdict.DIFFERS, "messages that Phonic's documents do not name", ", ".join(sorted(types)))
    if not (fields or values or types) and (
        (found.feed and found.feed.types) or found.rest.running or found.rest.ended
    ):
        yield Finding(Verdict.RIGHT, "fields and words", "all are known")
    if any(UNQUOTED in each for each in (*fields, *values, *types)):
        text = f"{UNQUOTED} stands for what could be a customer's data"
        yield Finding(Verdict.UNSEEN, "fields and words", text)


_KNOWN_TYPES: Final = frozenset(
    "conversation-updated conversation-ended conversation-saved conversation-audio error".split()
)
_NOT_SEEN: Final = "not seen"


def _answers(found: Examined) -> Iterator[tuple[str, str]]:
    rest, feed = found.rest, found.feed
    running = _NOT_SEEN
    if rest.running:
        given = ", ".join(f"{field} in {count}" for field, count in sorted(rest.running_with.items()))
        running = f"yes: {rest.running} rows, of which not null: {given}"
    yield "Do running conversations appear in lists, and with which fields?", running
    yield "How is the feed of an unknown conversation refused?", _ending(found.unknown)
    yield "What does the feed of an ended conversation do?", _ending(found.over)
    yield (
        "Are conversation-ended and conversation-saved both sent, and in which order?",
        " then ".join(feed.terminal) + f", then {_close(feed)}" if feed and feed.terminal else _NOT_SEEN,
    )
    last = _NOT_SEEN
    if feed and feed.updates and feed.ended_normally:
        last = ", ".join(f"{field}: {'yes' if said else 'no'}" for field, said in feed.last_update_says.items())
    yield "Does the last snapshot say how and when the conversation ended?", last
    yield "When do the timings of a turn come?", _counted(feed.timings()) if feed and feed.timings() else _NOT_SEEN
    welcome = feed.timings(welcome=True) if feed else None
    yield "Does the welcome message have timings?", _counted(welcome) if welcome else _NOT_SEEN
    audio = bool(feed and feed.types["conversation-audio"])
    yield (
        "Is conversation-audio sent to this credential?",
        ("yes" if audio else "not in this time") if feed and feed.updates else _NOT_SEEN,
    )
    yield "Does the server ping, and how often are snapshots sent?", _rhythm(found)
    yield (
        "How are messages framed?",
        f"{feed.fragmented} in several frames, the largest {feed.largest} characters"
        if feed and feed.updates
        else _NOT_SEEN,
    )
    same = rest.same_ids
    yield (
        "Does a REST item have the id of the live one?",
        f"yes in {same[True]}, no in {same[False]}" if same else _NOT_SEEN,
    )
    yield (
        "Does a REST item have timings?",
        f"in {rest.items_with_timings} of {rest.items}" if rest.items else _NOT_SEEN,
    )


def _rhythm(found: Examined) -> str:
    feed = found.feed
    if feed is None or not feed.updates:
        return _NOT_SEEN
    lasted = _observed(found, feed)
    if lasted < SHORTEST_FOR_A_RATE:
        return f"{feed.pings} pings and {feed.updates} snapshots, in too short a time for a rate"
    return f"{feed.pings} pings, {feed.updates / lasted:.2f} snapshots a second"


def _ending(feed: FeedSeen | None) -> str:
    """How a feed that should not go on ended."""
    if feed is None:
        return _NOT_SEEN
    if feed.refused_with is not None:
        return f"HTTP {feed.refused_with}"
    if feed.opened_after is None:
        return "no connection"
    said = [*(f"{count} x {name}" for name, count in sorted(feed.types.items())), _close(feed)]
    return "accepted, " + ", ".join(said)


def _close(feed: FeedSeen) -> str:
    if feed.ended_after is None:
        return "still open"
    return feed.broke_by or f"close {feed.close_code}"


def _counted(when: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(when.items()))
