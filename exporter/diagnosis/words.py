"""Pure: which words of Phonic's JSON a report may quote: field names and enumerated values, never data.

A report can be sent to a maintainer, so nothing in it may identify a caller, a company or a credential:

- A field name is quoted if it looks like one that a vendor's engineer chose: lower-case words joined by ``_``.
- A value of an enumerated field is quoted if all its parts are words that such enumerations are made of. A value
  that Phonic's documents do not know could hold anything, so its looks alone prove nothing.
- Anything else is counted and not shown. Keys of maps that customers fill (``template_variables``, ``metadata``)
  are data, and never looked at.
"""

import re
from typing import Final

UNQUOTED: Final = "(not shown)"

ENDED_BY: Final = frozenset(
    """
    user user_canceled user_validation_failed assistant assistant_silence_limit_reached
    configuration_endpoint_timed_out configuration_endpoint_error configuration_endpoint_invalid_response error
    """.split()
)
CALL_PROVIDERS: Final = frozenset({"twilio_inbound_user"})

_FIELD: Final = re.compile(r"[a-z]{1,24}(_[a-z]{1,24}){0,7}\d{0,2}")
_LONGEST: Final = 60
_SPLIT: Final = re.compile(r"[_-]")
_PARTS: Final = frozenset(
    """
    agent ai analysis and android answered api app assistant async audio bot browser busy by call called
    caller cancel canceled canceling cancelled carrier chat client close closed code completed concurrency
    config configuration conversation created custom data default demo desktop dial dialed direct disconnect
    disconnected drop dropped dtmf duration early embed embedded end ended ending endpoint error event
    exceeded expired external failed failure fallback finished forward forwarded from goodbye handler hang
    hangup hold human idle in inactive inactivity inbound input insufficient internal interrupted invalid ios
    js keypad limit listen live livekit lost machine max maximum media message missed mobile model natural
    network no noanswer node none not number observer off on operator other out outbound override party peer
    phone phonic pipecat playground plivo policy preview provider pstn py python queue quota reached react
    ready reason recording rejected replay request reset response restart result resumed ring ringing save
    saved sdk server service session short shutdown silence silent sip speech spoken start started stop
    stopped stream studio success successful system telephony telnyx test time timed timeout to tool transfer
    transferred trunk tts twilio undecided unknown unreachable unsuccessful up update updated user validation
    voice voicemail vonage warm web webhook webrtc websocket widget
    """.split()
)


def field_name(name: str) -> str:
    """``name`` if it looks like a field that a vendor named, else `UNQUOTED`."""
    return name if len(name) <= _LONGEST and _FIELD.fullmatch(name) else UNQUOTED


def enumerated(value: object) -> str:
    """``value`` of an enumerated field if it cannot be a customer's data, else `UNQUOTED`."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return UNQUOTED
    return value if _PARTS.issuperset(_SPLIT.split(value)) else UNQUOTED
