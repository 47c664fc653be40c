"""Which vendor and which wire format a request is for.

The vendor is told by the route (`provider`, set by whoever configured Envoy), else by the host, else by the path: a
first segment that names a vendor (`/groq/v1/...`), or one of the bare paths of OpenAI, Anthropic and Google. The
endpoint is told by method and path, which have to match exactly: a path with dot segments, doubled slashes or escapes
matches nothing, because the provider might read it otherwise than we do. (Two escapes do stand in the names of
Bedrock's models; they are in the rows of the table.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from policyd.providers.anthropic.batches import AnthropicBatches
from policyd.providers.anthropic.complete import AnthropicComplete
from policyd.providers.anthropic.messages import AnthropicMessages
from policyd.providers.anthropic.vertex import VertexAnthropic
from policyd.providers.base import Api, Vendor, WireFormat
from policyd.providers.bedrock.converse import BedrockConverse
from policyd.providers.bedrock.invoke import BedrockInvoke
from policyd.providers.bedrock.model import MODEL_PATTERN as BEDROCK_MODEL
from policyd.providers.cohere.chat import CohereChat, CohereChatV1, CohereGenerate
from policyd.providers.cohere.embed import CohereEmbed, CohereRerank
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.gemini.embeddings import GeminiEmbeddings
from policyd.providers.gemini.generate import GeminiGenerate
from policyd.providers.gemini.interactions import GeminiInteractions
from policyd.providers.gemini.live import GeminiLive
from policyd.providers.leaves import LeafFormat, ReplyLeaves
from policyd.providers.mistral.chat import MistralChat, MistralFim
from policyd.providers.mistral.embeddings import MistralEmbeddings
from policyd.providers.mistral.ocr import MistralOcr
from policyd.providers.ollama.native import ollama_chat, ollama_embed, ollama_generate
from policyd.providers.openai.audio import OpenAISpeech, OpenAITranscription
from policyd.providers.openai.chat import OpenAIChat
from policyd.providers.openai.completions import OpenAICompletions
from policyd.providers.openai.embeddings import OpenAIEmbeddings, OpenAIRerank
from policyd.providers.openai.images import OpenAIImages
from policyd.providers.openai.realtime import OpenAIRealtime
from policyd.providers.openai.responses import OpenAIResponses
from policyd.providers.path_reading import read_loosely
from policyd.providers.realtime import RealtimeFormat
from policyd.providers.vendors import ANTHROPIC, COMMON_BASES, GOOGLE, OPENAI, VENDORS, vendor_at, vendor_named

OPENAI_CHAT = OpenAIChat()
OPENAI_RESPONSES = OpenAIResponses()
OPENAI_RESPONSES_COMPACT = OpenAIResponses(compacts=True)
OPENAI_COMPLETIONS = OpenAICompletions()
OPENAI_EMBEDDINGS = OpenAIEmbeddings()
OPENAI_RERANK = OpenAIRerank()
OPENAI_IMAGES_GENERATIONS = OpenAIImages("openai-images-generations")
OPENAI_IMAGES_EDITS = OpenAIImages("openai-images-edits")
OPENAI_IMAGES_VARIATIONS = OpenAIImages("openai-images-variations", default_model="dall-e-2")
OPENAI_REALTIME = OpenAIRealtime()
OPENAI_SPEECH = OpenAISpeech()
OPENAI_TRANSCRIPTIONS = OpenAITranscription("openai-audio-transcriptions")
OPENAI_TRANSLATIONS = OpenAITranscription("openai-audio-translations")
ANTHROPIC_MESSAGES = AnthropicMessages()
ANTHROPIC_COMPLETE = AnthropicComplete()
ANTHROPIC_BATCHES = AnthropicBatches()
BEDROCK_CONVERSE = BedrockConverse()
BEDROCK_INVOKE = BedrockInvoke()
BEDROCK_INVOKE_LLAMA = BedrockInvoke(prompt_maximum="max_gen_len")
GEMINI_GENERATE = GeminiGenerate()
GEMINI_EMBEDDINGS = GeminiEmbeddings()
GEMINI_INTERACTIONS = GeminiInteractions()
GEMINI_LIVE = GeminiLive()
VERTEX_ANTHROPIC = VertexAnthropic()
COHERE_CHAT = CohereChat()
COHERE_CHAT_V1 = CohereChatV1()
COHERE_GENERATE = CohereGenerate()
COHERE_EMBED = CohereEmbed()
COHERE_RERANK = CohereRerank()
MISTRAL_CHAT = MistralChat()
MISTRAL_FIM = MistralFim()
MISTRAL_EMBEDDINGS = MistralEmbeddings()
MISTRAL_OCR = MistralOcr()
OLLAMA_CHAT = ollama_chat()
OLLAMA_GENERATE = ollama_generate()
OLLAMA_EMBED = ollama_embed()


ERROR_WIRES: Mapping[Api, WireFormat] = {
    Api.OPENAI: OPENAI_CHAT,
    Api.ANTHROPIC: ANTHROPIC_MESSAGES,
    Api.BEDROCK: BEDROCK_CONVERSE,
    Api.GOOGLE: GEMINI_GENERATE,
    Api.COHERE: COHERE_CHAT,
    Api.MISTRAL: MISTRAL_CHAT,
    Api.OLLAMA: OLLAMA_CHAT,
}
"""Who words the refusals of an API where no endpoint of its own does."""


@dataclass(frozen=True, slots=True)
class _Route:
    """One row of the endpoint table: `tail` follows one of the vendor's base paths.

    Without `wire` and `realtime` it is free.
    """

    api: Api
    method: str
    tail: re.Pattern[str]
    name: str
    wire: WireFormat | None
    leaf: LeafFormat | None = None
    realtime: RealtimeFormat | None = None


def _route(api: Api, method: str, tail: str, name: str, wire: WireFormat | None = None) -> _Route:
    leaf = wire if isinstance(wire, LeafFormat) else None
    return _Route(api, method, re.compile(tail), name, wire, leaf)


def _session(api: Api, tail: str, name: str, realtime: RealtimeFormat) -> _Route:
    return _Route(api, "GET", re.compile(tail), name, wire=None, realtime=realtime)


_NAME = "[A-Za-z0-9_][A-Za-z0-9_.@-]*"
_VERTEX = f"(?:/projects/{_NAME}/locations/{_NAME})?"
_GOOGLE_MODELS = f"(?:/models|/tunedModels|{_VERTEX}/publishers/google/models|{_VERTEX}/endpoints)"
_GEMINI = f"{_GOOGLE_MODELS}/{_NAME}"
_CLAUDE = f"{_VERTEX}/publishers/anthropic/models"
_VERTEX_EMBEDDING = f"{_VERTEX}/publishers/google/models/(?!multimodal)[A-Za-z0-9_.@-]*embedding[A-Za-z0-9_.@-]*"
"""`predict` serves other models too (images, video), which are charged by the piece; those are unknown."""

_MODELS = "/models(?:/[A-Za-z0-9_][A-Za-z0-9_.:@-]*)?"

_ID = "[A-Za-z0-9_-]+"

_DEPLOYMENT = "(?:/deployments/[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
"""Azure's way to name the model that an endpoint is for."""

_LIVE_SERVICE = (
    r"(?:google\.ai\.generativelanguage\.v1(?:alpha|beta)\.GenerativeService\.BidiGenerateContent(?:Constrained)?"
    r"|google\.cloud\.aiplatform\.v1(?:beta1)?\.LlmBidiService/BidiGenerateContent)"
)

_BEDROCK_LLAMA = f"(?=/model/[^/]*meta[.]llama){BEDROCK_MODEL}"
_INVOKE = "invoke(?:-with-response-stream)?"

_ROUTES = (
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/chat/completions", "chat.completions", OPENAI_CHAT),
    # As Writer has it.
    _route(Api.OPENAI, "POST", "/chat", "chat.completions", OPENAI_CHAT),
    _route(Api.OPENAI, "POST", "/responses", "responses", OPENAI_RESPONSES),
    _route(Api.OPENAI, "POST", "/responses/compact", "responses.compact", OPENAI_RESPONSES_COMPACT),
    _route(Api.OPENAI, "POST", "/responses/input_tokens", "responses.input_tokens"),
    # A response is charged when it is created: what is done with it later is free.
    _route(Api.OPENAI, "GET", f"/responses/{_ID}(?:/input_items)?", "responses.retrieve"),
    _route(Api.OPENAI, "POST", f"/responses/{_ID}/cancel", "responses.cancel"),
    _route(Api.OPENAI, "DELETE", f"/responses/{_ID}", "responses.delete"),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/completions", "completions", OPENAI_COMPLETIONS),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/embeddings", "embeddings", OPENAI_EMBEDDINGS),
    _route(Api.OPENAI, "POST", "/rerank", "rerank", OPENAI_RERANK),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/images/generations", "images.generations", OPENAI_IMAGES_GENERATIONS),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/images/edits", "images.edits", OPENAI_IMAGES_EDITS),
    _route(Api.OPENAI, "POST", "/images/variations", "images.variations", OPENAI_IMAGES_VARIATIONS),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/audio/speech", "audio.speech", OPENAI_SPEECH),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/audio/transcriptions", "audio.transcriptions", OPENAI_TRANSCRIPTIONS),
    _route(Api.OPENAI, "POST", f"{_DEPLOYMENT}/audio/translations", "audio.translations", OPENAI_TRANSLATIONS),
    _route(Api.OPENAI, "POST", "/moderations", "moderations"),
    _route(Api.OPENAI, "GET", _MODELS, "models"),
    _session(Api.OPENAI, "/realtime", "realtime", OPENAI_REALTIME),
    # What a key that they make is used for passes here only if its bearer comes here.
    _route(Api.OPENAI, "POST", "/realtime/(?:sessions|transcription_sessions|client_secrets)", "realtime.keys"),
    _route(Api.ANTHROPIC, "POST", "/messages", "messages", ANTHROPIC_MESSAGES),
    _route(Api.ANTHROPIC, "POST", "/messages/count_tokens", "messages.count_tokens"),
    _route(Api.ANTHROPIC, "GET", _MODELS, "models"),
    _route(Api.ANTHROPIC, "POST", "/complete", "complete", ANTHROPIC_COMPLETE),
    _route(Api.ANTHROPIC, "POST", "/messages/batches", "messages.batches", ANTHROPIC_BATCHES),
    # What became of a batch is free: all that it may cost was charged when it was created.
    _route(Api.ANTHROPIC, "GET", f"/messages/batches(?:/{_NAME}(?:/results)?)?", "messages.batches"),
    _route(Api.ANTHROPIC, "POST", f"/messages/batches/{_NAME}/cancel", "messages.batches"),
    _route(Api.ANTHROPIC, "DELETE", f"/messages/batches/{_NAME}", "messages.batches"),
    _route(Api.ANTHROPIC, "POST", "/files", "files"),
    _route(Api.ANTHROPIC, "GET", f"/files(?:/{_NAME}(?:/content)?)?", "files"),
    _route(Api.ANTHROPIC, "DELETE", f"/files/{_NAME}", "files"),
    _route(Api.BEDROCK, "POST", f"{BEDROCK_MODEL}/converse(?:-stream)?", "converse", BEDROCK_CONVERSE),
    _route(Api.BEDROCK, "POST", f"{_BEDROCK_LLAMA}/{_INVOKE}", "invoke", BEDROCK_INVOKE_LLAMA),
    _route(Api.BEDROCK, "POST", f"{BEDROCK_MODEL}/{_INVOKE}", "invoke", BEDROCK_INVOKE),
    _route(Api.BEDROCK, "POST", f"{BEDROCK_MODEL}/count-tokens", "count-tokens"),
    _route(Api.GOOGLE, "POST", f"{_GEMINI}:generateContent", "generateContent", GEMINI_GENERATE),
    _route(Api.GOOGLE, "POST", f"{_GEMINI}:streamGenerateContent", "streamGenerateContent", GEMINI_GENERATE),
    _route(Api.GOOGLE, "POST", f"{_GEMINI}:embedContent", "embedContent", GEMINI_EMBEDDINGS),
    _route(Api.GOOGLE, "POST", f"{_GEMINI}:batchEmbedContents", "batchEmbedContents", GEMINI_EMBEDDINGS),
    _route(Api.GOOGLE, "POST", f"{_VERTEX_EMBEDDING}:predict", "predict", GEMINI_EMBEDDINGS),
    _route(Api.GOOGLE, "POST", f"{_VERTEX}/interactions", "interactions", GEMINI_INTERACTIONS),
    _session(Api.GOOGLE, f"/ws/{_LIVE_SERVICE}", "live", GEMINI_LIVE),
    _route(Api.GOOGLE, "POST", f"{_CLAUDE}/count-tokens:rawPredict", "countTokens"),
    _route(Api.GOOGLE, "POST", f"{_CLAUDE}/{_NAME}:rawPredict", "rawPredict", VERTEX_ANTHROPIC),
    _route(Api.GOOGLE, "POST", f"{_CLAUDE}/{_NAME}:streamRawPredict", "streamRawPredict", VERTEX_ANTHROPIC),
    _route(Api.GOOGLE, "POST", f"{_GEMINI}:(?:count|compute)Tokens", "countTokens"),
    _route(Api.GOOGLE, "GET", f"(?:{_GOOGLE_MODELS}|{_CLAUDE})(?:/{_NAME})?", "models"),
    # What was made before is looked at and taken away free of charge. To make a cache or a batch is not free.
    _route(Api.GOOGLE, "GET", f"{_VERTEX}/(?:interactions|cachedContents|batches|files)(?:/{_NAME})?", "resources"),
    _route(Api.GOOGLE, "DELETE", f"{_VERTEX}/(?:interactions|cachedContents|batches|files)/{_NAME}", "resources"),
    _route(Api.GOOGLE, "POST", f"{_VERTEX}/interactions/{_NAME}/cancel", "resources"),
    _route(Api.GOOGLE, "POST", f"/batches/{_NAME}:cancel", "resources"),
    _route(Api.GOOGLE, "POST", "(?:/upload/v1(?:beta|alpha)?)?/files", "files"),
    _route(Api.COHERE, "POST", "/v2/chat", "chat", COHERE_CHAT),
    _route(Api.COHERE, "POST", "/chat", "chat", COHERE_CHAT_V1),
    _route(Api.COHERE, "POST", "/generate", "generate", COHERE_GENERATE),
    _route(Api.COHERE, "POST", "(?:/v2)?/embed", "embed", COHERE_EMBED),
    _route(Api.COHERE, "POST", "(?:/v2)?/rerank", "rerank", COHERE_RERANK),
    _route(Api.COHERE, "POST", "/tokenize", "tokenize"),
    _route(Api.COHERE, "POST", "/detokenize", "detokenize"),
    _route(Api.COHERE, "POST", "/check-api-key", "check-api-key"),
    _route(Api.COHERE, "GET", _MODELS, "models"),
    _route(Api.MISTRAL, "POST", "/chat/completions", "chat.completions", MISTRAL_CHAT),
    _route(Api.MISTRAL, "POST", "/fim/completions", "fim.completions", MISTRAL_FIM),
    _route(Api.MISTRAL, "POST", "/embeddings", "embeddings", MISTRAL_EMBEDDINGS),
    _route(Api.MISTRAL, "POST", "/ocr", "ocr", MISTRAL_OCR),
    _route(Api.OLLAMA, "POST", "/api/chat", "chat", OLLAMA_CHAT),
    _route(Api.OLLAMA, "POST", "/api/generate", "generate", OLLAMA_GENERATE),
    _route(Api.OLLAMA, "POST", "/api/embed(?:dings)?", "embed", OLLAMA_EMBED),
    _route(Api.OLLAMA, "GET", "/api/(?:tags|ps|version)", "models"),
    _route(Api.OLLAMA, "POST", "/api/show", "models"),
)

_BARE_PATHS = (
    (re.compile(r"/v1/(?:messages|complete)(?:/.*)?"), ANTHROPIC),
    (
        re.compile(
            r"(?:/upload)?/v1(?:beta1?|alpha)(?:/.*)?"
            r"|/ws/google[.].*"
            r"|/v1/(?:projects|publishers|tunedModels|interactions)(?:/.*)?"
            r"|/v1/models/[^/]+:[A-Za-z]+(?:Contents?|Tokens)"
        ),
        GOOGLE,
    ),
    # Whatever else stands under `/v1`: what is not in the table may be priced all the same, so it is somebody's.
    (re.compile(r"/v1(?:/.*)?"), OPENAI),
)
"""Paths that name no vendor, and whose they are; the first row that fits counts."""


Destination = Endpoint | UnknownEndpoint | None


def resolve(*, provider: str | None, host: str, method: str, path: str) -> Destination:
    """Where a request goes.

    `provider` is the route's word for it, a genai-prices id or the name of any vendor whose API is OpenAI's; `host` may
    have a port; `path` may have a query. `None`: nothing says that this is a request to a model provider.
    """
    path = path.partition("?")[0]
    # Clients choose path and host: what is remembered of them has a bound.
    if len(host) + len(path) > REMEMBERED_LENGTH_MAX:
        return _resolve(provider, host, method, path)
    return _remembered(provider, host, method, path)


def _resolve(provider: str | None, host: str, method: str, path: str) -> Destination:
    found = _vendor(provider, host, path)
    if found is None:
        return None
    vendor, path = found
    starts = _tail_starts(vendor, path)
    for api in vendor.apis:
        for route in _ROUTES:
            if route.api is not api or route.method != method:
                continue
            if any(route.tail.fullmatch(path, start) for start in starts):
                error_wire = route.wire or ERROR_WIRES[api]
                leaf = route.leaf if api is vendor.apis[0] else None
                return Endpoint(vendor, route.name, path, route.wire, error_wire, leaf, route.realtime)
    return UnknownEndpoint(vendor, _nearest_error_wire(vendor, path))


_remembered = lru_cache(maxsize=1024)(_resolve)

REMEMBERED_LENGTH_MAX = 256
"""The longest host and path, together, that are remembered: longer ones are not what clients usually ask for."""

_USUAL_PATHS: Mapping[Api, str] = {
    Api.OPENAI: "/v1/chat/completions",
    Api.ANTHROPIC: "/v1/messages",
    Api.COHERE: "/v2/chat",
    Api.MISTRAL: "/v1/chat/completions",
    Api.OLLAMA: "/api/chat",
}
"""Where an API takes chats; the paths of the others name the model."""


def request_endpoint(*, provider: str, path: str) -> Endpoint | None:
    """Where `provider` takes a request that is not seen on its way: at `path`, or where it takes chats if that is
    empty.

    `None` if it takes none there.
    """
    path = path or _USUAL_PATHS.get(vendor_named(provider).apis[0], "")
    endpoint = resolve(provider=provider, host="", method="POST", path=path)
    return endpoint if isinstance(endpoint, Endpoint) else None


def leaf_tails(provider: str) -> tuple[str, ...]:
    """Regular expressions of how the paths end at which `provider` answers in a `LeafFormat`, always to POST."""
    tails = (route.tail.pattern.removeprefix(_DEPLOYMENT) for route in _leaf_routes(vendor_named(provider)))
    return tuple(dict.fromkeys(tails))


@cache
def leaf_format(*, provider: str, endpoint: str) -> LeafFormat | None:
    """The format in which `provider` answers at its endpoint of that name, if it is a `LeafFormat`."""
    return next((route.leaf for route in _leaf_routes(vendor_named(provider)) if route.name == endpoint), None)


def every_leaf() -> ReplyLeaves:
    """Where any `LeafFormat` has what a reply costs."""
    forms = [route.leaf.reply_leaves for route in _ROUTES if route.leaf is not None]
    return ReplyLeaves(
        document=tuple(dict.fromkeys(path for leaves in forms for path in leaves.document)),
        events=tuple(dict.fromkeys(path for leaves in forms for path in leaves.events)),
    )


def _leaf_routes(vendor: Vendor) -> list[_Route]:
    """Of the API that is its own: at the paths of the others it may answer in a way of its own."""
    return [route for route in _ROUTES if route.api is vendor.apis[0] and route.leaf is not None]


def might_be_priced(*, provider: str | None, host: str, method: str, path: str) -> bool:
    """Whether a provider that reads paths loosely could take a request without a row for one that costs money."""
    found = _vendor(provider, host, read_loosely(path.partition("?")[0]))
    if found is None:
        return False
    vendor, path = found
    return any(
        (route.wire is not None or route.realtime is not None)
        and route.method == method
        and route.api in vendor.apis
        and any(
            _in_any_case(base + route.tail.pattern).fullmatch(path)
            for base in (*COMMON_BASES, *vendor.bases, *vendor.base_patterns)
        )
        for route in _ROUTES
    )


@cache
def _in_any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _vendor(provider: str | None, host: str, path: str) -> tuple[Vendor, str] | None:
    """The vendor, and the path without the segment that named it."""
    first, rest = _split_first(path)
    if provider:
        return vendor_named(provider), rest if first == provider else path
    by_host = vendor_at(_host_name(host))
    if by_host is not None:
        return by_host, path
    if first in VENDORS:
        return VENDORS[first], rest
    return next(((vendor, path) for pattern, vendor in _BARE_PATHS if pattern.fullmatch(path)), None)


def _split_first(path: str) -> tuple[str, str]:
    first, slash, rest = path.removeprefix("/").partition("/")
    return first, slash + rest


def _host_name(host: str) -> str:
    return host.partition(":")[0].lower().removesuffix(".")


def _tail_starts(vendor: Vendor, path: str) -> tuple[int, ...]:
    """Where in the path an endpoint's own part may begin: behind each of the vendor's base paths."""
    literal = (len(base) for base in (*COMMON_BASES, *vendor.bases) if path.startswith(base))
    matched = (re.match(pattern, path) for pattern in vendor.base_patterns)
    return *literal, *(base.end() for base in matched if base is not None)


def _nearest_error_wire(vendor: Vendor, path: str) -> WireFormat:
    """Who words the refusal of a path without a route: the API whose endpoint's name is in it, or the vendor's own."""
    segments = path.split("/")
    if "messages" in segments and Api.ANTHROPIC in vendor.apis:
        return ANTHROPIC_MESSAGES
    if "completions" in segments and Api.OPENAI in vendor.apis:
        return OPENAI_CHAT
    return ERROR_WIRES[vendor.apis[0]]
