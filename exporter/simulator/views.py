"""Pure: renders a planned conversation as the live object or the REST object at a given time.

Times are milliseconds of plan time; ``epoch_ms`` is the Unix time of plan time 0. ``over_ms`` is the time at which
the conversation ended for observers (None while it is live). All functions return JSON values.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, Final

from .scenario import Agent, Conversation, Project, ToolCall, Turn, Workspace, response_gaps_ms

Json = dict[str, Any]

# Fields that a session token may read (API 1.5).
_REDUCED_FIELDS: Final = (
    "id",
    "external_id",
    "origin",
    "agent",
    "items",
    "text",
    "summary",
    "duration_ms",
    "started_at",
    "ended_at",
    "assistant_end_conversation_signal_at",
    "is_live",
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TOOL_TIMEOUT_MS: Final = 5000


def iso(unix_ms: int) -> str:
    """Format Unix milliseconds as ISO 8601 in UTC, with integer arithmetic, because floats lose milliseconds."""
    return (_EPOCH + dt.timedelta(milliseconds=unix_ms)).isoformat(timespec="milliseconds")[:-6] + "Z"


class LiveView:
    """The live object of one conversation. Builds items that cannot change any more only once."""

    def __init__(self, conversation: Conversation, workspace: Workspace, epoch_ms: int) -> None:
        self._conversation = conversation
        self._epoch_ms = epoch_ms
        self._settled: list[Json] = []
        self._frame = _live_frame(conversation, workspace)

    def at(self, now_ms: int, *, over_ms: int | None = None, reduced: bool = False) -> Json:
        """Return the object at ``now_ms``; the caller must not modify it.

        ``reduced``: only the fields that a session token may read.
        """
        conversation, epoch_ms = self._conversation, self._epoch_ms
        items = self._items(now_ms)
        view = {
            **self._frame,
            "text": "\n".join(item["text"] for item in items),
            "duration_ms": _elapsed_ms(conversation, now_ms),
            "started_at": _started_at(conversation, now_ms, epoch_ms),
            "items": items,
        }
        if over_ms is not None:
            view["is_live"] = False
            view["ended_at"] = iso(epoch_ms + conversation.ended_ms)
            view["end_reason"] = conversation.ended_by
            if conversation.ended_by == "assistant":
                view["assistant_end_conversation_signal_at"] = view["ended_at"]
        return {field: view[field] for field in _REDUCED_FIELDS} if reduced else view

    def _items(self, now_ms: int) -> list[Json]:
        turns, settled = self._conversation.turns, self._settled
        while len(settled) < len(turns) and _settled_ms(turns[len(settled)]) <= now_ms:
            settled.append(self._item(turns[len(settled)], now_ms))
        items = [item for item, turn in zip(settled, turns, strict=False) if _settled_ms(turn) <= now_ms]
        for turn in turns[len(items) :]:
            if turn.visible_ms > now_ms:
                break
            items.append(self._item(turn, now_ms))
        return items

    def _item(self, turn: Turn, now_ms: int) -> Json:
        duration_ms = min(now_ms - turn.started_ms, turn.duration_ms)
        item: Json = {
            "id": f"{self._conversation.id}-{turn.index}",
            "item_idx": turn.index,
            "role": turn.role,
            "text": _spoken(turn, duration_ms),
            "retranscribed_text": None,
            "duration_ms": duration_ms,
            "audio_speed": 1 if turn.role == "assistant" else None,
            "voice": None,
            "tool_call_ids": [call.id for call in turn.tool_calls],
            "transcript_corrections": [],
            "naturalness_report": None,
            "hallucination_report": None,
            "started_at": iso(self._epoch_ms + turn.started_ms),
            "assistant_chose_not_to_respond": turn.silent,
        }
        if turn.timings is not None and turn.timings_ms <= now_ms:
            item["timings"] = turn.timings
        return item


def rest_object(
    conversation: Conversation, workspace: Workspace, epoch_ms: int, now_ms: int, *, over_ms: int | None
) -> Json:
    """Return the REST object. ``ended_by`` and ``analysis`` appear ``settle_ms`` after ``ended_at``."""
    shown = [turn for turn in conversation.turns if turn.visible_ms <= now_ms]
    complete = over_ms is not None and now_ms >= over_ms + conversation.settle_ms
    transcript = _transcript(shown, lambda turn: _spoken(turn, now_ms - turn.started_ms))
    return {
        "id": conversation.id,
        "agent": _agent_reference(conversation.agent),
        "workspace": workspace.name,
        "project": {"id": conversation.project.id, "name": conversation.project.name},
        "external_id": f"call-{conversation.number}",
        "origin": conversation.origin,
        "model": "merritt",
        "phonic_model": conversation.phonic_model,
        "generate_welcome_message": False,
        "is_welcome_message_interruptible": True,
        "listen_only": False,
        "welcome_message": conversation.welcome_message,
        "template_variables": {"customer_name": "Jo Example"},
        "system_prompt": "You are a helpful support assistant.",
        "input_format": "mulaw_8000",
        "output_format": "mulaw_8000",
        "background_noise_level": 0,
        "background_noise": None,
        "live_transcript": transcript,
        "post_call_transcript": transcript if complete else None,
        "summary": None,
        "duration_ms": None if over_ms is None else conversation.duration_ms,
        "audio_url": None,
        "started_at": _started_at(conversation, now_ms, epoch_ms),
        "ended_at": None if over_ms is None else iso(epoch_ms + conversation.ended_ms),
        "ended_by": conversation.ended_by if complete else None,
        "default_language": conversation.language,
        "additional_languages": [],
        "heard_languages": [conversation.language],
        "multilingual_mode": "request",
        "push_to_talk": False,
        "intelligence_level": "standard",
        "boosted_keywords": [],
        "pronunciation_dictionary": [],
        "min_words_to_interrupt": 1,
        "generate_no_input_poke_text": False,
        "no_input_poke_sec": 8,
        "no_input_poke_text": "Are you still there?",
        "no_input_end_conversation_sec": 180,
        "websocket_timeout_sec": 60,
        "vad_prebuffer_duration_ms": 500,
        "vad_min_speech_duration_ms": 50,
        "vad_min_silence_duration_ms": None,
        "vad_threshold": 0.38,
        "task_results": {},
        "items": [_rest_item(conversation, turn, epoch_ms, now_ms) for turn in shown],
        "call_info": {"from_phone_number": "+15551234567", "to_phone_number": "+15559876543"}
        if conversation.by_phone
        else None,
        "analysis": analysis(conversation) if complete else None,
        "is_redacted": False,
        "redacted_transcript": None,
        "metadata": None,
    }


def analysis(conversation: Conversation) -> Json:
    """Return the analysis that Phonic makes after the end."""
    return {
        "id": conversation.id,
        "latencies_ms": response_gaps_ms(conversation.turns),
        "interruptions_count": conversation.interruptions,
    }


def project_object(project: Project, agents: Iterable[Agent], active: int) -> Json:
    """Return the REST object of a project."""
    default = next((agent for agent in agents if agent.project.id == project.id), None)
    return {
        "id": project.id,
        "name": project.name,
        "default_agent": None if default is None else {"id": default.id, "name": default.name},
        "active_conversations": active,
        "max_active_conversations": project.max_active_conversations,
    }


def workspace_object(workspace: Workspace, active: int) -> Json:
    """Return the REST object of a workspace."""
    return {
        "active_conversations": active,
        "max_active_conversations": workspace.max_active_conversations,
        "logo_url": None,
        "invite_link_allowed_domains": ["example.com"],
        "ip_allowlist": [],
    }


def agent_object(agent: Agent) -> Json:
    """Return the REST object of an agent."""
    return {
        "id": agent.id,
        "name": agent.name,
        "project": {"id": agent.project.id, "name": agent.project.name},
        "phone_number": None,
        "phone_numbers": [],
        "timezone": "America/Los_Angeles",
        "voice_id": "sabrina",
        "additional_voice_ids": [],
        "audio_format": "mulaw_8000",
        "audio_speed": 1.0,
        "background_noise_level": 0.0,
        "background_noise": None,
        "generate_welcome_message": False,
        "is_welcome_message_interruptible": True,
        "listen_only_inbound_enabled": False,
        "welcome_message": "Hello! How can I help you today?",
        "system_prompt": "You are a helpful support assistant.",
        "template_variables": {},
        "tools": ["natural_conversation_ending"],
        "built_in_tool_configs": {},
        "tasks": [],
        "generate_no_input_poke_text": False,
        "no_input_poke_sec": 8,
        "no_input_poke_text": "Are you still there?",
        "no_input_end_conversation_sec": 180,
        "default_language": "en",
        "additional_languages": [],
        "multilingual_mode": "request",
        "push_to_talk": False,
        "intelligence_level": "standard",
        "boosted_keywords": [],
        "pronunciation_dictionary": [],
        "min_words_to_interrupt": 1,
        "configuration_endpoint": None,
        "observability_integrations": [],
        "is_disabled": False,
    }


def _live_frame(conversation: Conversation, workspace: Workspace) -> Json:
    """Return all documented fields in the documented order. `LiveView.at` sets those that change."""
    phone = conversation.by_phone
    return {
        "id": conversation.id,
        "agent": _agent_reference(conversation.agent),
        "org_id": workspace.id,
        "project_id": conversation.project.id,
        "external_id": f"call-{conversation.number}",
        "origin": conversation.origin,
        "generate_welcome_message": False,
        "is_welcome_message_interruptible": True,
        "welcome_message": conversation.welcome_message,
        "template_variables": {"customer_name": "Jo Example"},
        "input_format": "mulaw_8000",
        "output_format": "mulaw_8000",
        "background_noise_level": 0,
        "background_noise": None,
        "intelligence_level": "default",
        "text": "",
        "duration_ms": 0,
        "summary": None,
        "boosted_keywords": [],
        "min_words_to_interrupt": 1,
        "default_language": conversation.language,
        "additional_languages": [],
        "multilingual_mode": "request",
        "push_to_talk": False,
        "no_input_poke_sec": 8,
        "generate_no_input_poke_text": False,
        "no_input_poke_text": "Are you still there?",
        "no_input_end_conversation_sec": 180,
        "storage_key": None,
        "started_at": None,
        "ended_at": None,
        "task_results": None,
        "timezone": "America/Los_Angeles",
        "system_prompt": "You are a helpful support assistant.",
        "is_test": conversation.is_test,
        "is_live": True,
        "call_provider": "twilio_inbound_user" if phone and "inbound" in conversation.origin else None,
        "from_phone_number": "+15551234567" if phone else None,
        "to_phone_number": "+15559876543" if phone else None,
        "twilio_call_sid": None,
        "created_by": None,
        "vad_min_silence_duration_ms": None,
        "assistant_end_conversation_signal_at": None,
        "retranscribed_text": None,
        "end_reason": None,
        "vad_info": {"events": []},
        "annotations": {},
        "items": [],
    }


def _rest_item(conversation: Conversation, turn: Turn, epoch_ms: int, now_ms: int) -> Json:
    duration_ms = min(now_ms - turn.started_ms, turn.duration_ms)
    item: Json = {
        "id": f"{conversation.id}-{turn.index}",
        "item_idx": turn.index,
        "role": turn.role,
        "live_transcript": _spoken(turn, duration_ms),
        "post_call_transcript": None,
        "redacted_transcript": None,
        "duration_ms": duration_ms,
        "started_at": iso(epoch_ms + turn.started_ms),
        "tool_calls": [_tool_call(call, conversation.agent, epoch_ms) for call in turn.tool_calls],
    }
    if turn.role == "assistant":
        item |= {"voice_id": "sabrina", "audio_speed": 1, "system_prompt": "You are a helpful support assistant."}
    return item


def _tool_call(call: ToolCall, agent: Agent | None, epoch_ms: int) -> Json:
    status = {None: 200, "http_4xx": 422, "http_5xx": 502}.get(call.failure)
    messages = {"timeout": "Tool call timed out", "error": "Could not resolve host", "http_5xx": "Bad gateway"}
    return {
        "id": call.id,
        "tool": {"id": "tool_gone" if agent is None else agent.tool_id, "name": call.name},
        "integration": None,
        "endpoint_method": "POST",
        "endpoint_url": f"https://tools.example.com/{call.name}",
        "endpoint_headers": {"Authorization": "Bearer token123"},
        "endpoint_timeout_ms": _TOOL_TIMEOUT_MS,
        "endpoint_called_at": None if call.failure == "error" else iso(epoch_ms + call.called_ms),
        "query_params": None,
        "response_status_code": status,
        "tool_call_output_timeout_ms": None,
        "request_body": {"date": "tomorrow"},
        "response_body": {"available": True} if call.failure is None else None,
        "timed_out": call.failure == "timeout",
        "error_message": messages.get(call.failure or ""),
    }


def _agent_reference(agent: Agent | None) -> Json | None:
    return None if agent is None else {"id": agent.id, "name": agent.name, "is_deleted": False}


def _settled_ms(turn: Turn) -> int:
    """Return the plan time after which an item does not change."""
    return max(turn.visible_ms, turn.ended_ms, turn.timings_ms)


def _started_at(conversation: Conversation, now_ms: int, epoch_ms: int) -> str | None:
    started_ms = conversation.started_ms
    return None if started_ms is None or now_ms < started_ms else iso(epoch_ms + started_ms)


def _elapsed_ms(conversation: Conversation, now_ms: int) -> int:
    started_ms = conversation.started_ms
    return 0 if started_ms is None else max(0, min(now_ms, conversation.ended_ms) - started_ms)


def _spoken(turn: Turn, elapsed_ms: int) -> str:
    """Return the part of a turn's text that has been spoken after ``elapsed_ms``."""
    if elapsed_ms >= turn.duration_ms:
        return turn.text
    return turn.text[: len(turn.text) * elapsed_ms // turn.duration_ms]


def _transcript(turns: Iterable[Turn], spoken: Callable[[Turn], str]) -> str:
    return "\n".join(f"{turn.role.capitalize()}: {spoken(turn)}" for turn in turns)
