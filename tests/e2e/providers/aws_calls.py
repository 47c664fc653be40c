"""Bedrock's endpoints, by boto3 and by Anthropic's SDK. Both take Envoy for an HTTP proxy on the way to Bedrock.

So they sign for Bedrock's host and path, and not for Envoy's. Each request comes with a signature that holds.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import anthropic
import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from policyd.core.usage import Usage
from policyd.providers.framing.event_stream import encode_message
from tests.e2e.providers import anthropic_calls
from tests.e2e.providers.case import ANSWER, QUESTION, WORDS, Answer, Caller, Case, Sdk, document
from tests.e2e.sdks import REPLY_SECONDS_MAX

BOTO3 = Sdk(refused=ClientError, told=None, cut=EventStreamError)
ANTHROPIC = Sdk(
    refused=anthropic.PaymentRequiredError, told=lambda error: error.body["policyd"], cut=anthropic.APIError
)

REGION, ACCESS_KEY, SECRET_KEY = "us-east-1", "AKIDEXAMPLE", "made-up-secret"

NOVA = "amazon.nova-lite-v1:0"
CLAUDE = "anthropic.claude-haiku-4-5-20251001-v1:0"
PROFILE = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{CLAUDE}"
PROFILE_ESCAPED = PROFILE.replace(":", "%3A").replace("/", "%2F")

EVENT_STREAM = "application/vnd.amazon.eventstream"


def client(caller: Caller, **config: Any) -> Any:
    """boto3's client, with the retries that it comes with."""

    def about_to_send(request: Any, **_: Any) -> None:
        request.headers.update(caller.headers)
        caller.sent.append(request.body)

    made = boto3.client(
        "bedrock-runtime",
        region_name=REGION,
        endpoint_url=caller.upstream,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(proxies={"http": caller.url}, read_timeout=REPLY_SECONDS_MAX, **config),
    )

    made.meta.events.register("before-send.bedrock-runtime", about_to_send)
    return caller.closing(made)


def anthropic_client(caller: Caller) -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(
        aws_region=REGION,
        aws_access_key=ACCESS_KEY,
        aws_secret_key=SECRET_KEY,
        base_url=caller.upstream,
        http_client=caller.http(anthropic.DefaultHttpxClient, proxy=caller.url),
    )


# --- converse ---

CONVERSE_USAGE = {"inputTokens": 21, "cacheReadInputTokens": 10, "outputTokens": 9, "totalTokens": 40}
CHARGED = Usage(input=21, cached_input=10, output=9)
CONVERSATION = [{"role": "user", "content": [{"text": QUESTION}]}]


def _message(name: str, members: Any) -> bytes:
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return encode_message(headers, msgspec.json.encode(members))


def converse_stream(words: Sequence[str]) -> Answer:
    messages = [
        _message("messageStart", {"role": "assistant"}),
        *(_message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in words),
        _message("messageStop", {"stopReason": "end_turn"}),
        _message("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 5}}),
    ]
    return Answer(messages, EVENT_STREAM)


def ask_converse(caller: Caller, *, model: str) -> Any:
    reply = client(caller).converse(modelId=model, messages=CONVERSATION)
    return reply["output"]["message"]["content"][0]["text"]


def stream_conversation(caller: Caller) -> Any:
    reply = client(caller).converse_stream(modelId=NOVA, messages=CONVERSATION)
    with closing(reply["stream"]) as events:
        return "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)


CONVERSED = document(
    {
        "output": {"message": {"role": "assistant", "content": [{"text": ANSWER}]}},
        "stopReason": "end_turn",
        "usage": CONVERSE_USAGE,
        "metrics": {"latencyMs": 5},
    }
)

# --- invoke ---

INVOCATION = json.dumps({"anthropic_version": "bedrock-2023-05-31", **anthropic_calls.ASKED}).encode()


def invoke_stream(words: Sequence[str]) -> Answer:
    """Anthropic's events, each in base64 in one of Bedrock's."""
    encoded = (base64.b64encode(msgspec.json.encode(item)) for item in anthropic_calls.message_events(words))
    return Answer([_message("chunk", {"bytes": item.decode()}) for item in encoded], EVENT_STREAM)


def ask_invoke(caller: Caller) -> Any:
    reply = client(caller).invoke_model(modelId=CLAUDE, body=INVOCATION)
    return json.loads(reply["body"].read())["content"][0]["text"]


def stream_invocation(caller: Caller) -> Any:
    reply = client(caller).invoke_model_with_response_stream(modelId=CLAUDE, body=INVOCATION)
    with closing(reply["body"]) as events:
        members = [json.loads(event["chunk"]["bytes"]) for event in events]
    return "".join(item.get("delta", {}).get("text", "") for item in members)


def aws_case(name: str, **members: Any) -> Case:
    return Case(**{"id": f"bedrock-{name}", "sdk": BOTO3, "upstream": "aws", "model": NOVA, **members})


NOVA_PATH, CLAUDE_PATH = f"/model/{NOVA.replace(':', '%3A')}", f"/model/{CLAUDE.replace(':', '%3A')}"

CASES = (
    aws_case(
        "converse",
        target=f"{NOVA_PATH}/converse",
        ask=lambda caller: ask_converse(caller, model=NOVA),
        answer=CONVERSED,
        charged=CHARGED,
    ),
    aws_case(
        "converse-arn",
        model=f"us.{CLAUDE}",
        target=f"/model/{PROFILE_ESCAPED}/converse",
        ask=lambda caller: ask_converse(caller, model=PROFILE),
        answer=CONVERSED,
        charged=CHARGED,
    ),
    aws_case(
        "converse-stream",
        target=f"{NOVA_PATH}/converse-stream",
        ask=stream_conversation,
        answer=converse_stream(WORDS),
        stream=converse_stream,
        charged=CHARGED,
    ),
    aws_case(
        "invoke",
        model=CLAUDE,
        target=f"{CLAUDE_PATH}/invoke",
        ask=ask_invoke,
        answer=anthropic_calls.WHOLE,
        charged=anthropic_calls.CHARGED,
    ),
    aws_case(
        "invoke-stream",
        model=CLAUDE,
        target=f"{CLAUDE_PATH}/invoke-with-response-stream",
        ask=stream_invocation,
        answer=invoke_stream(WORDS),
        stream=invoke_stream,
        charged=anthropic_calls.CHARGED,
    ),
    aws_case(
        "anthropic",
        sdk=ANTHROPIC,
        model=CLAUDE,
        target=f"/model/{CLAUDE}/invoke",
        ask=lambda caller: anthropic_calls.ask(anthropic_client(caller), model=CLAUDE),
        answer=anthropic_calls.WHOLE,
        charged=anthropic_calls.CHARGED,
    ),
    aws_case(
        "anthropic-stream",
        sdk=ANTHROPIC,
        model=CLAUDE,
        target=f"/model/{CLAUDE}/invoke-with-response-stream",
        ask=lambda caller: anthropic_calls.stream(anthropic_client(caller), model=CLAUDE),
        answer=invoke_stream(WORDS),
        stream=invoke_stream,
        charged=anthropic_calls.CHARGED,
    ),
)
