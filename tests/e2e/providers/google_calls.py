"""Gemini's endpoints, by Google's SDK: at the Gemini API and at Vertex."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
from google.auth.credentials import AnonymousCredentials
from google.genai import Client, errors, types
from google.genai._interactions import APIStatusError as InteractionError

from policyd.core.usage import Usage
from tests.e2e.providers.case import (
    ANSWER,
    API_KEY,
    QUESTION,
    WORDS,
    Answer,
    Caller,
    Case,
    Charge,
    Sdk,
    document,
    events,
)


def _told(error: errors.APIError) -> Any:
    details: Any = error.details
    return details["error"]["policyd"]


SDK = Sdk(refused=errors.ClientError, told=_told, cut=errors.APIError)

# Interactions are another client inside the same SDK, with exceptions of its own.
INTERACTIONS = Sdk(refused=InteractionError, told=lambda error: error.body["error"]["policyd"], cut=None)

MODEL = "gemini-2.5-flash"
VERTEX_PATH = f"/v1beta1/projects/p/locations/us-central1/publishers/google/models/{MODEL}"

USAGE = {
    "promptTokenCount": 31,
    "cachedContentTokenCount": 10,
    "candidatesTokenCount": 9,
    "thoughtsTokenCount": 4,
    "totalTokenCount": 44,
}
CHARGED = Usage(input=21, cached_input=10, output=9, reasoning=4)


def content(text: str, **more: Any) -> Any:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    ended = {"finishReason": "STOP"} if more else {}
    return {"candidates": [candidate | ended], "modelVersion": MODEL, **more}


def pieces(words: Sequence[str]) -> list[Any]:
    return [*(content(word) for word in words), content("", usageMetadata=USAGE)]


def sse(words: Sequence[str]) -> Answer:
    return events(*pieces(words))


def array(words: Sequence[str]) -> Answer:
    """What comes without `alt=sse`: one JSON array, sent element by element."""
    chunks = [
        (b"[" if index == 0 else b",\r\n") + msgspec.json.encode(item) for index, item in enumerate(pieces(words))
    ]
    return Answer((*chunks, b"]"))


def interaction(words: Sequence[str]) -> Answer:
    usage = {
        "total_input_tokens": 31,
        "total_cached_tokens": 10,
        "total_output_tokens": 9,
        "total_thought_tokens": 4,
        "total_tokens": 44,
    }
    deltas = [{"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": word}} for word in words]
    whole = {"id": "i", "object": "interaction", "model": MODEL, "status": "completed", "usage": usage}
    return events(*deltas, {"event_type": "interaction.completed", "interaction": whole}, done=True)


def gemini(caller: Caller) -> Client:
    return Client(
        api_key=API_KEY, http_options=types.HttpOptions(base_url=caller.url, httpx_client=caller.http(httpx.Client))
    )


def vertex(caller: Caller) -> Client:
    options = types.HttpOptions(base_url=f"{caller.url}/google", httpx_client=caller.http(httpx.Client))
    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    credentials.token = API_KEY
    return Client(vertexai=True, project="p", location="us-central1", credentials=credentials, http_options=options)


def ask(client: Client) -> Any:
    return client.models.generate_content(model=MODEL, contents=QUESTION).text


def stream(client: Client) -> Any:
    return "".join(chunk.text or "" for chunk in client.models.generate_content_stream(model=MODEL, contents=QUESTION))


def stream_array(caller: Caller) -> Any:
    """By hand: the SDK always asks for events."""
    body = {"contents": [{"parts": [{"text": QUESTION}]}]}
    client = caller.http(httpx.Client)
    reply = client.post(f"{caller.url}/v1/models/{MODEL}:streamGenerateContent?key={API_KEY}", json=body)
    if reply.status_code != 200:
        raise errors.ClientError(reply.status_code, reply.json())
    items = json.loads(reply.text)
    if "error" in items[-1]:
        raise errors.APIError(items[-1]["error"]["code"], items[-1])
    return "".join(item["candidates"][0]["content"]["parts"][0]["text"] for item in items)


def stream_interaction(caller: Caller) -> Any:
    reply: Any = gemini(caller).interactions.create(model=MODEL, input=QUESTION, stream=True)
    return "".join(event.delta.text for event in reply if event.event_type == "step.delta")


def embed(caller: Caller) -> Any:
    embeddings = gemini(caller).models.embed_content(model="gemini-embedding-001", contents=QUESTION).embeddings
    return embeddings[0].values if embeddings else None


def google_case(name: str, **members: Any) -> Case:
    return Case(**{"id": name, "sdk": SDK, "upstream": "google", "model": MODEL, **members})


CASES = (
    google_case(
        "gemini",
        target=f"/v1/models/{MODEL}:generateContent",
        ask=lambda caller: ask(gemini(caller)),
        answer=document(content(ANSWER, usageMetadata=USAGE)),
        charged=CHARGED,
    ),
    google_case(
        "gemini-stream",
        target=f"/v1/models/{MODEL}:streamGenerateContent?alt=sse",
        ask=lambda caller: stream(gemini(caller)),
        answer=sse(WORDS),
        stream=sse,
        charged=CHARGED,
    ),
    google_case(
        "gemini-array",
        target=f"/v1/models/{MODEL}:streamGenerateContent?key={API_KEY}",
        ask=stream_array,
        answer=array(WORDS),
        stream=array,
        charged=CHARGED,
    ),
    google_case(
        "gemini-embeddings",
        model="gemini-embedding-001",
        target="/v1/models/gemini-embedding-001:batchEmbedContents",
        ask=embed,
        answer=document({"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 7}}),
        heard=[0.5],
        charged=Usage(input=7),
    ),
    google_case(
        "gemini-count-tokens",
        target=f"/v1/models/{MODEL}:countTokens",
        ask=lambda caller: gemini(caller).models.count_tokens(model=MODEL, contents=QUESTION).total_tokens,
        answer=document({"totalTokens": 7}),
        heard=7,
        charged=Charge.NOTHING,
    ),
    google_case(
        "gemini-interactions",
        sdk=INTERACTIONS,
        target="/v1/interactions",
        ask=stream_interaction,
        answer=interaction(WORDS),
        stream=interaction,
        charged=CHARGED,
    ),
    google_case(
        "vertex",
        target=f"{VERTEX_PATH}:generateContent",
        ask=lambda caller: ask(vertex(caller)),
        answer=document(content(ANSWER, usageMetadata=USAGE)),
        charged=CHARGED,
    ),
    google_case(
        "vertex-stream",
        target=f"{VERTEX_PATH}:streamGenerateContent?alt=sse",
        ask=lambda caller: stream(vertex(caller)),
        answer=sse(WORDS),
        stream=sse,
        charged=CHARGED,
    ),
)
