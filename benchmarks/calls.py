"""Pure: synthetic calls, as the snapshots that Phonic would send, one after each turn.

Snapshots have the documented fields and plausible timings: 2.1 KB and about 780 B per turn, a fifth of it
transcript, which the field ``text`` repeats. So the mean snapshot has 18 KB in a call of 40 turns and 81 KB in one
of 200.
"""

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

VARIETY = 8
"""Number of different calls, each of another agent, that the conversations of a load share."""
PROJECTS = ("proj_benchmark-0", "proj_benchmark-1")
"""Ids of projects, which are their names too, so that a client without REST has the same labels."""

_BEGIN = datetime(2025, 7, 30, 23, 45, tzinfo=UTC)
_WORDS = (
    "appointment booking Thursday available confirm number please moment morning reservation change name account"
    " order delivery between three and five would like to know whether that is still possible thank you"
).split()
_NON_ASCII = ("“naïve”", "Zoë", "—", "€40", "Müller", "…")
_PROMPT = "You are a helpful support assistant. Be brief, ask one question at a time, and confirm dates. " * 7


def conversation_id(number: int) -> str:
    """Return a conversation's id. All ids have the same length, so that one can replace another in a frame."""
    return f"conv_{number:08x}-0000-4000-8000-{number:012x}"


def conversation_number(identity: str) -> int:
    """Return the number of a conversation; the inverse of `conversation_id`."""
    return int(identity.removeprefix("conv_")[:8], 16)


PLACEHOLDER = conversation_id(0).encode()
"""The id in every snapshot, which the sender replaces with a conversation's own."""


def snapshots(turns: int, *, seed: int = 0, non_ascii: bool = False) -> list[bytes]:
    """Return one message of the live socket per turn of a call; the conversation's id is `PLACEHOLDER`."""
    random = Random(f"{turns} {seed}")
    clock = 0.5  # seconds since the start of the call
    words: list[str] = []
    items: list[str] = []
    messages: list[bytes] = []
    for index in range(turns):
        item, seconds = _item(index, clock, random, non_ascii)
        clock += seconds
        words.append(item["text"])
        items.append(_json(item))
        head = _json({"type": "conversation-updated", "conversation": _head(seed, "\n".join(words), clock)})
        messages.append(f'{head.removesuffix("}}")},"items":[{",".join(items)}]}}}}'.encode())
        clock += random.uniform(0.2, 1.6)
    return messages


def calls(turns: int, *, non_ascii: bool = False) -> list[list[bytes]]:
    """Return the messages of `VARIETY` calls of the same length."""
    return [snapshots(turns, seed=seed, non_ascii=non_ascii) for seed in range(VARIETY)]


def record(snapshot: bytes, started_at: datetime) -> bytes:
    """Return the conversation of a snapshot as a row of a REST list: live, and started at ``started_at``."""
    conversation = json.loads(snapshot)["conversation"]
    for item in conversation["items"]:
        item.pop("timings", None)
    return _json({**conversation, "started_at": _iso(started_at)}).encode()


def _head(seed: int, text: str, duration: float) -> dict[str, Any]:
    return {
        "id": PLACEHOLDER.decode(),
        "agent": {"id": f"agent_{seed:08x}-4d3e-a149", "name": f"agent-{seed}", "is_deleted": False},
        "org_id": "org_01K1WB8NT3EJJ4ZRKJ6BQZPZPS",
        "project_id": PROJECTS[seed % len(PROJECTS)],
        "external_id": "call-123",
        "origin": "inbound",
        "generate_welcome_message": False,
        "welcome_message": "Hello! How can I help you today?",
        "template_variables": {},
        "input_format": "mulaw_8000",
        "output_format": "mulaw_8000",
        "background_noise_level": 0,
        "background_noise": None,
        "intelligence_level": "default",
        "text": text,
        "duration_ms": round(duration * 1000),
        "summary": None,
        "boosted_keywords": [],
        "min_words_to_interrupt": 1,
        "default_language": "en",
        "additional_languages": [],
        "multilingual_mode": "request",
        "push_to_talk": False,
        "no_input_poke_sec": 30,
        "generate_no_input_poke_text": False,
        "no_input_poke_text": "Are you still there?",
        "no_input_end_conversation_sec": 180,
        "storage_key": None,
        "started_at": _iso(_BEGIN),
        "ended_at": None,
        "task_results": None,
        "timezone": "America/Los_Angeles",
        "system_prompt": _PROMPT,
        "is_test": False,
        "is_live": True,
        "call_provider": "twilio_inbound_user",
        "from_phone_number": "+15550000001",
        "to_phone_number": "+15550000002",
        "twilio_call_sid": None,
        "created_by": None,
        "vad_min_silence_duration_ms": None,
        "assistant_end_conversation_signal_at": None,
        "retranscribed_text": None,
        "end_reason": None,
        "vad_info": {"events": []},
        "annotations": {},
    }


def _item(index: int, clock: float, random: Random, non_ascii: bool) -> tuple[dict[str, Any], float]:
    """Return a turn that begins at ``clock`` and its duration in seconds. The assistant speaks first."""
    is_assistant = index % 2 == 0
    seconds = round(random.uniform(0.8, 6.0), 1)
    calls_tool = is_assistant and random.random() < 0.1
    item: dict[str, Any] = {
        "id": f"{PLACEHOLDER.decode()}-{index}",
        "item_idx": index,
        "role": "assistant" if is_assistant else "user",
        "text": _sentence(random, non_ascii),
        "retranscribed_text": None,
        "duration_ms": round(seconds * 1000),
        "audio_speed": 1 if is_assistant else None,
        "voice": None,
        "tool_call_ids": [f"tool_call_{PLACEHOLDER.decode()}-{index}"] if calls_tool else [],
        "transcript_corrections": [],
        "naturalness_report": None,
        "hallucination_report": None,
        "started_at": _iso(_BEGIN + timedelta(seconds=clock)),
        "assistant_chose_not_to_respond": is_assistant and random.random() < 0.02,
    }
    if is_assistant:
        hand_over, generation = random.randint(20, 180), random.randint(150, 1400)
        item["timings"] = {
            "phonic_api_output_to_modal_input": hand_over,
            "model_generation_time": generation,
            "phonic_api_output_to_first_audio_chunk": hand_over + generation,
        }
    return item, seconds


def _sentence(random: Random, non_ascii: bool) -> str:
    words = random.choices(_WORDS, k=random.randint(22, 36))
    if non_ascii:
        words[:: len(words) // 3] = random.choices(_NON_ASCII, k=len(words[:: len(words) // 3]))
    return " ".join(words).capitalize() + "."


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
