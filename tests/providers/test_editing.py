"""Edits that change what a request asks for hold where its own format reads them, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import RawRequest, RequestEdits
from policyd.providers.editing import edited, reread
from policyd.providers.endpoint import Endpoint
from policyd.providers.registry import resolve

MESSAGES = [{"role": "user", "content": "Hi."}]
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "Hi."}]}]}

IN_THE_BODY = [
    ("openai", "/v1/chat/completions", {"model": "a", "messages": MESSAGES, "max_tokens": 900}),
    ("openai", "/v1/chat/completions", {"model": "a", "messages": MESSAGES}),
    ("openai", "/v1/responses", {"model": "a", "input": "Hi.", "max_output_tokens": 900}),
    ("openai", "/v1/completions", {"model": "a", "prompt": "Hi.", "max_tokens": 900}),
    ("anthropic", "/v1/messages", {"model": "a", "messages": MESSAGES, "max_tokens": 900}),
    ("mistral", "/v1/chat/completions", {"model": "a", "messages": MESSAGES}),
    ("cohere", "/v2/chat", {"model": "a", "messages": MESSAGES}),
    ("groq", "/openai/v1/chat/completions", {"model": "a", "messages": MESSAGES}),
]
MODEL_IN_THE_PATH = [
    ("google", "/v1beta/models/a:generateContent", CONTENTS),
    # A body that names the model as well does not make it the one that is served.
    ("google", "/v1beta/models/a:generateContent", {**CONTENTS, "model": "a"}),
    ("aws", "/model/a/converse", {"messages": [{"role": "user", "content": [{"text": "Hi."}]}]}),
    ("azure", "/openai/deployments/a/chat/completions", {"model": "a", "messages": MESSAGES}),
]
WITHOUT_OUTPUT = [
    ("openai", "/v1/embeddings", {"model": "a", "input": "Hi."}),
    ("openai", "/v1/audio/speech", {"model": "tts-1", "input": "Hi.", "voice": "alloy"}),
    ("openai", "/v1/images/generations", {"model": "gpt-image-1", "prompt": "A cat."}),
]


def asked(provider: str, path: str, document: dict[str, Any]) -> tuple[Endpoint, RawRequest]:
    endpoint = resolve(provider=provider, host="", method="POST", path=path)
    assert isinstance(endpoint, Endpoint)
    return endpoint, RawRequest(json.dumps(document).encode(), path=endpoint.path)


def read_again(provider: str, path: str, document: dict[str, Any], edits: RequestEdits) -> Any:
    endpoint, request = asked(provider, path, document)
    assert endpoint.wire is not None
    return reread(endpoint.wire, request, edits, vendor=endpoint.vendor)


@pytest.mark.parametrize(("provider", "path", "document"), IN_THE_BODY, ids=repr)
def test_a_model_in_the_body_and_a_maximum(provider: str, path: str, document: dict[str, Any]) -> None:
    edits = RequestEdits(model="b", max_output_tokens=7)
    facts = read_again(provider, path, document, edits)
    assert (facts.model, facts.max_output_tokens) == ("b", 7)
    # What is forwarded is what was read.
    endpoint, request = asked(provider, path, document)
    assert endpoint.wire is not None
    forwarded = json.loads(edited(endpoint.wire, request.body, edits, vendor=endpoint.vendor))
    assert forwarded["model"] == "b"
    assert {name: value for name, value in forwarded.items() if name in {"messages", "input", "prompt"}} == {
        name: value for name, value in document.items() if name in {"messages", "input", "prompt"}
    }


@pytest.mark.parametrize(("provider", "path", "document"), MODEL_IN_THE_PATH, ids=repr)
def test_a_model_in_the_path_stays(provider: str, path: str, document: dict[str, Any]) -> None:
    with pytest.raises(BodyUnreadable):
        read_again(provider, path, document, RequestEdits(model="b"))
    assert read_again(provider, path, document, RequestEdits(max_output_tokens=7)).max_output_tokens == 7


@pytest.mark.parametrize(("provider", "path", "document"), WITHOUT_OUTPUT, ids=repr)
def test_what_takes_no_maximum_cannot_be_clamped(provider: str, path: str, document: dict[str, Any]) -> None:
    endpoint, request = asked(provider, path, document)
    assert endpoint.wire is not None
    facts = endpoint.wire.read_request(request, vendor=endpoint.vendor)
    if facts.max_output_tokens:
        with pytest.raises(BodyUnreadable):
            read_again(provider, path, document, RequestEdits(max_output_tokens=facts.max_output_tokens - 1))


def test_a_form_keeps_its_model() -> None:
    endpoint, _ = asked("openai", "/v1/audio/transcriptions", {})
    assert endpoint.wire is not None
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
    with pytest.raises(BodyUnreadable):
        edited(endpoint.wire, form, RequestEdits(model="b"), vendor=endpoint.vendor)


def test_a_body_that_names_its_model_twice_has_both_changed() -> None:
    endpoint, request = asked("openai", "/v1/chat/completions", {"model": "a", "messages": MESSAGES})
    assert endpoint.wire is not None
    twice = request.body.replace(b'{"model": "a"', b'{"model": "a", "model": "a"')
    assert edited(endpoint.wire, twice, RequestEdits(model="b"), vendor=endpoint.vendor).count(b'"b"') == 2
