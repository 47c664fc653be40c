"""OpenAI's endpoints of text, by OpenAI's SDK: at OpenAI, at Azure, and reranking at a vendor whose API is OpenAI's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import openai

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


def _told(error: openai.APIStatusError) -> Any:
    body: Any = error.body
    return body["policyd"]


SDK = Sdk(refused=openai.APIStatusError, told=_told, cut=openai.APIError)

MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]

CHAT_USAGE = {
    "prompt_tokens": 31,
    "completion_tokens": 9,
    "total_tokens": 40,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
RESPONSE_USAGE = {
    "input_tokens": 31,
    "input_tokens_details": {"cached_tokens": 10},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 40,
}
CHARGED = Usage(input=21, cached_input=10, output=5, reasoning=4)


def completion(content: str) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}


def chat_stream(words: Sequence[str]) -> Answer:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    texts = [chunk | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
    return events(*texts, chunk | {"choices": [], "usage": CHAT_USAGE}, done=True)


def completion_stream(words: Sequence[str]) -> Answer:
    chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    texts = [chunk | {"choices": [{"index": 0, "text": word, "finish_reason": None}]} for word in words]
    usage = {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}
    return events(*texts, chunk | {"choices": [], "usage": usage}, done=True)


def response(content: str, **more: Any) -> Any:
    said = {"type": "output_text", "text": content, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [said]}
    return {"id": "r", "object": "response", "created_at": 1, "model": "gpt-4o", "output": [message], **more}


def response_stream(words: Sequence[str]) -> Answer:
    deltas = [
        {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": word}
        for word in words
    ]
    final = response("".join(words), status="completed", usage=RESPONSE_USAGE)
    members = [{"type": "response.created", "response": response("", status="in_progress")}, *deltas]
    numbered = [
        {**item, "sequence_number": number}
        for number, item in enumerate([*members, {"type": "response.completed", "response": final}])
    ]
    return events(*numbered)


def openai_at(base: str) -> Callable[[Caller], openai.OpenAI]:
    """Makes the SDK's client, with the retries that it comes with, for a base path at Envoy."""
    return lambda caller: openai.OpenAI(
        base_url=caller.url + base, api_key=API_KEY, http_client=caller.http(openai.DefaultHttpxClient)
    )


OPENAI, VOYAGE = openai_at("/v1"), openai_at("/voyageai/v1")


def azure(caller: Caller) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=f"{caller.url}/azure",
        api_version="2024-10-21",
        api_key=API_KEY,
        http_client=caller.http(openai.DefaultHttpxClient),
    )


def ask_chat(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES).choices[0].message.content


def stream_chat(client: openai.OpenAI) -> Any:
    chunks = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    # Without looking whether there is a choice: the chunk that policyd asked for must not come this far.
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def stream_completion(caller: Caller) -> Any:
    chunks = OPENAI(caller).completions.create(
        model="gpt-3.5-turbo-instruct", prompt=QUESTION, max_tokens=100, stream=True
    )
    return "".join(chunk.choices[0].text for chunk in chunks)


def stream_response(caller: Caller) -> Any:
    stream = OPENAI(caller).responses.create(model="gpt-4o", input=QUESTION, stream=True)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def openai_case(name: str, **members: Any) -> Case:
    return Case(**{"id": f"openai-{name}", "sdk": SDK, "upstream": "openai", "model": "gpt-4o", **members})


CASES = (
    openai_case(
        "chat",
        target="/v1/chat/completions",
        ask=lambda caller: ask_chat(OPENAI(caller)),
        answer=document(completion(ANSWER) | {"usage": CHAT_USAGE}),
        charged=CHARGED,
    ),
    openai_case(
        "chat-stream",
        target="/v1/chat/completions",
        ask=lambda caller: stream_chat(OPENAI(caller)),
        answer=chat_stream(WORDS),
        stream=chat_stream,
        adds_usage=True,
        charged=CHARGED,
    ),
    openai_case(
        "responses",
        target="/v1/responses",
        ask=lambda caller: OPENAI(caller).responses.create(model="gpt-4o", input=QUESTION).output_text,
        answer=document(response(ANSWER, status="completed", usage=RESPONSE_USAGE)),
        charged=CHARGED,
    ),
    openai_case(
        "responses-stream",
        target="/v1/responses",
        ask=stream_response,
        answer=response_stream(WORDS),
        stream=response_stream,
        charged=CHARGED,
    ),
    openai_case(
        "completions",
        model="gpt-3.5-turbo-instruct",
        target="/v1/completions",
        ask=stream_completion,
        answer=completion_stream(WORDS),
        stream=completion_stream,
        adds_usage=True,
        charged=Usage(input=8, output=9),
    ),
    openai_case(
        "embeddings",
        model="text-embedding-3-small",
        target="/v1/embeddings",
        ask=lambda caller: (
            OPENAI(caller)
            .embeddings.create(model="text-embedding-3-small", input=QUESTION, encoding_format="float")
            .data[0]
            .embedding
        ),
        answer=document(
            {
                "object": "list",
                "model": "text-embedding-3-small",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            }
        ),
        heard=[0.5],
        charged=Usage(input=7),
    ),
    openai_case(
        "moderations",
        model="omni-moderation-latest",
        target="/v1/moderations",
        ask=lambda caller: OPENAI(caller).moderations.create(input=QUESTION).results[0].flagged,
        answer=document({"id": "m", "model": "omni-moderation-latest", "results": [{"flagged": False}]}),
        heard=False,
        charged=Charge.NOTHING,
    ),
    openai_case(
        "models",
        method="GET",
        target="/v1/models",
        ask=lambda caller: [model.id for model in OPENAI(caller).models.list()],
        answer=document({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]}),
        heard=["gpt-4o"],
        charged=Charge.NOTHING,
    ),
    openai_case(
        "rerank",
        upstream="voyageai",
        model="rerank-2.5",
        target="/v1/rerank",
        # No method of its own: OpenAI has no reranking.
        ask=lambda caller: VOYAGE(caller).post(
            "/rerank", cast_to=object, body={"model": "rerank-2.5", "query": QUESTION, "documents": list(WORDS)}
        ),
        answer=document({"object": "list", "data": [{"index": 2}], "usage": {"total_tokens": 26}}),
        heard={"object": "list", "data": [{"index": 2}], "usage": {"total_tokens": 26}},
        charged=Usage(input=26),
    ),
    openai_case(
        "azure-chat",
        upstream="azure",
        target="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        ask=lambda caller: ask_chat(azure(caller)),
        answer=document(completion(ANSWER) | {"usage": CHAT_USAGE}),
        charged=CHARGED,
    ),
    openai_case(
        "azure-chat-stream",
        upstream="azure",
        target="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        ask=lambda caller: stream_chat(azure(caller)),
        answer=chat_stream(WORDS),
        stream=chat_stream,
        adds_usage=True,
        charged=CHARGED,
    ),
)
