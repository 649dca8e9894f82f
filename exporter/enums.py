"""Pure: the enums whose members may become label values.

Enums of words that Phonic sends have a member ``OTHER`` for unknown words (``Role("robot") is Role.OTHER``), so
that no payload can create a new series.
"""

from enum import IntEnum, StrEnum
from typing import Self


class _Open(StrEnum):
    """An enum that maps every unknown word to ``OTHER``."""

    @classmethod
    def _missing_(cls, value: object) -> Self:  # noqa: ARG003  # any unknown word
        return cls["OTHER"]


class Role(_Open):
    """Who speaks in a turn (API 2.4 ``role``)."""

    ASSISTANT = "assistant"
    USER = "user"
    OTHER = "other"


class EndedBy(_Open):
    """What ended a conversation (API 2.4 ``ended_by``); ``UNKNOWN`` if Phonic does not say."""

    USER = "user"
    USER_CANCELED = "user_canceled"
    USER_VALIDATION_FAILED = "user_validation_failed"
    ASSISTANT = "assistant"
    ASSISTANT_SILENCE_LIMIT_REACHED = "assistant_silence_limit_reached"
    CONFIGURATION_ENDPOINT_TIMED_OUT = "configuration_endpoint_timed_out"
    CONFIGURATION_ENDPOINT_ERROR = "configuration_endpoint_error"
    CONFIGURATION_ENDPOINT_INVALID_RESPONSE = "configuration_endpoint_invalid_response"
    ERROR = "error"
    UNKNOWN = "unknown"
    OTHER = "other"


ERROR_ENDINGS = (
    EndedBy.ERROR,
    EndedBy.CONFIGURATION_ENDPOINT_TIMED_OUT,
    EndedBy.CONFIGURATION_ENDPOINT_ERROR,
    EndedBy.CONFIGURATION_ENDPOINT_INVALID_RESPONSE,
)


class Origin(_Open):
    """Where a conversation comes from (API 2.4 ``origin``)."""

    WEB = "web"
    WEB_PLAYGROUND = "web-playground"
    WEB_DEMO = "web-demo"
    DIRECT = "direct"
    LIVEKIT_AGENTS_PY = "livekit-agents-py"
    LIVEKIT_AGENTS_JS = "livekit-agents-js"
    SDK_PY = "sdk-py"
    SDK_JS = "sdk-js"
    INBOUND = "inbound"
    TELEPHONY_INBOUND = "telephony-inbound"
    OUTBOUND = "outbound"
    TELEPHONY_OUTBOUND = "telephony-outbound"
    REPLAY = "replay"
    OTHER = "other"


class IntelligenceLevel(_Open):
    """How much the model thinks (API 2.4 ``intelligence_level``)."""

    STANDARD = "standard"
    HIGH = "high"
    DEFAULT = "default"
    OTHER = "other"


class Stage(StrEnum):
    """The parts of a response (semantics 18); ``UNKNOWN`` if the timings of the turn are not known."""

    MODEL_INPUT = "model_input"
    MODEL_GENERATION = "model_generation"
    END_OF_TURN = "end_of_turn"
    UNKNOWN = "unknown"


class ToolFailure(StrEnum):
    """Why a tool call failed (API 2.3, REST ``tool_calls``)."""

    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    ERROR = "error"


class MessageType(_Open):
    """Messages of the live socket (API 1.3 ``type``)."""

    CONVERSATION_UPDATED = "conversation-updated"
    CONVERSATION_ENDED = "conversation-ended"
    CONVERSATION_SAVED = "conversation-saved"
    CONVERSATION_AUDIO = "conversation-audio"
    ERROR = "error"
    OTHER = "other"


class Invalid(StrEnum):
    """Why a whole message could not be used."""

    NOT_JSON = "not_json"
    WRONG_SHAPE = "wrong_shape"
    WRONG_CONVERSATION = "wrong_conversation"
    TOO_LARGE = "too_large"


class Field(StrEnum):
    """Values of a message that are validated one by one."""

    ITEMS = "items"
    ITEM_IDX = "item_idx"
    STARTED_AT = "started_at"
    DURATION = "duration_ms"
    MODEL_GENERATION = "model_generation_time"
    FIRST_AUDIO = "phonic_api_output_to_first_audio_chunk"
    MODEL_INPUT = "phonic_api_output_to_modal_input"
    RESPONSE = "response"
    CONVERSATION_DURATION = "conversation_duration_ms"
    TOOL_CALLS = "tool_calls"
    TIMINGS = "timings"
    INTERRUPTIONS = "interruptions_count"
    ENDED_AT = "ended_at"
    END_OF_TURN = "end_of_turn"
    USER_RESPONSE = "user_response"
    GREETING = "greeting"
    HANGUP_WAIT = "hangup_wait"


class Rejection(StrEnum):
    """Why a single value was not used."""

    WRONG_TYPE = "wrong_type"
    NOT_FINITE = "not_finite"
    NEGATIVE = "negative"
    TOO_LARGE = "too_large"


class Skipped(StrEnum):
    """Why an element of ``items`` was not counted as a turn."""

    MALFORMED = "malformed"
    DUPLICATE_INDEX = "duplicate_index"


class Drift(StrEnum):
    """Objects to which Phonic may add fields that this exporter does not know."""

    CONVERSATION = "conversation"
    ITEM = "item"
    TIMINGS = "timings"


class DecodePath(StrEnum):
    """How a snapshot was decoded: all of it, or only the turns after those that were decoded before."""

    FULL = "full"
    INCREMENTAL = "incremental"


class UnknownWord(StrEnum):
    """Enumerations in which an unknown word became ``other``."""

    ROLE = "role"
    ENDED_BY = "ended_by"
    ORIGIN = "origin"
    INTELLIGENCE_LEVEL = "intelligence_level"


class FeedError(StrEnum):
    """Errors of a live feed. `exporter.phonic.live.client` maps exceptions to them."""

    CONNECT = "connect"
    DNS = "dns"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    TLS = "tls"
    PROXY = "proxy"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_OTHER = "http_other"
    PROTOCOL = "protocol"
    CLOSED_ABNORMALLY = "closed_abnormally"
    CLOSED_GOING_AWAY = "closed_going_away"
    CLOSED_POLICY = "closed_policy"
    CLOSED_TOO_LARGE = "closed_too_large"
    CLOSED_INTERNAL_ERROR = "closed_internal_error"
    CLOSED_RESTART = "closed_restart"
    CLOSED_OTHER = "closed_other"
    NO_PONG = "no_pong"
    NO_SNAPSHOT = "no_snapshot"
    ERROR_MESSAGE = "error_message"
    TOO_LARGE = "too_large"


class RestError(StrEnum):
    """Errors of a REST request. `exporter.phonic.rest` maps exceptions to them."""

    CONNECT = "connect"
    DNS = "dns"
    REFUSED = "refused"
    TLS = "tls"
    PROXY = "proxy"
    TIMEOUT = "timeout"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_OTHER = "http_other"
    NOT_JSON = "not_json"
    WRONG_SHAPE = "wrong_shape"
    TOO_LARGE = "too_large"
    ENDLESS_PAGING = "endless_paging"


class Request(StrEnum):
    """Kinds of REST requests."""

    PROJECTS = "projects"
    WORKSPACE = "workspace"
    AGENTS = "agents"
    CONVERSATIONS = "conversations"
    RECORD = "record"


class Task(StrEnum):
    """Tasks besides the watchers that continue after an unexpected exception."""

    DISCOVERY = "discovery"
    SWEEP = "sweep"
    RECORDS = "records"
    WATCH_FILE = "watch_file"
    CREDENTIAL = "credential"


class Lost(StrEnum):
    """Why the exporter never saw the timings of a conversation's turns."""

    NEVER_LIVE = "never_live"
    WATCH_LIMIT = "watch_limit"
    NOT_FOUND = "not_found"


class WatcherState(StrEnum):
    """What a watcher task is doing."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    REFUSED = "refused"
    FINISHING = "finishing"


class Reconciled(StrEnum):
    """Results of reading the REST record after the end of a conversation."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"


class Reset(StrEnum):
    """Why values of a state file were not restored."""

    BUCKET_LAYOUT = "bucket_layout"
    LABELS = "labels"
    CORRUPT = "corrupt"


class Word(IntEnum):
    """What is known of a conversation that is offered to the shards. A higher word replaces a lower one.

    ``LIVE``: it was seen without an end. ``CHECK``: its record tells whether it is over. ``ENDED``: it is over.
    """

    LIVE = 0
    CHECK = 1
    ENDED = 2


class LeaseLoss(StrEnum):
    """How a process lost the lease on its shard."""

    EXPIRED = "expired"
    TAKEN = "taken"


class ShardState(StrEnum):
    """Who has a shard. ``DRAINED``: it takes no new conversations, and all that it has counted was shown."""

    HELD = "held"
    UNHELD = "unheld"
    DRAINING = "draining"
    DRAINED = "drained"


class ReloadedFile(StrEnum):
    """Files that are read again when they change."""

    WATCH_FILE = "watch_file"
    WEB_CONFIG = "web_config"
    API_KEY_DIR = "api_key_dir"


class Started(StrEnum):
    """Results of a request to watch a conversation. The values are texts for the client of the push API."""

    STARTED = "started"
    ALREADY_WATCHED = "already watched"
    LIMIT_REACHED = "watch limit reached"
    TOO_FAST = "too many new ids; come back later"
    FINISHED = "conversation is over"
    NOT_NAMED = "there are several workspaces; name one with ?workspace=NAME"
    NO_WORKSPACE = "no such workspace"
