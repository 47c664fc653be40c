"""Ollama's own endpoints, by Ollama's SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ollama

from policyd.core.usage import Usage
from tests.e2e.providers.case import ANSWER, QUESTION, WORDS, Answer, Caller, Case, Sdk, document, lines

SDK = Sdk(refused=ollama.ResponseError, told=None, cut=ollama.ResponseError)

MODEL = "llama3.2"
MESSAGES = [{"role": "user", "content": QUESTION}]

LINE = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z"}
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 18, "eval_count": 9}
CHARGED = Usage(input=18, output=9)


def said(text: str) -> Any:
    return LINE | {"message": {"role": "assistant", "content": text}}


def chat_stream(words: Sequence[str]) -> Answer:
    return lines(*(said(word) | {"done": False} for word in words), said("") | END)


def generate_stream(words: Sequence[str]) -> Answer:
    return lines(*(LINE | {"response": word, "done": False} for word in words), LINE | {"response": ""} | END)


def client(caller: Caller) -> ollama.Client:
    # Whatever else it is given, it hands to a client that it makes itself.
    client = ollama.Client(host=f"{caller.url}/ollama", event_hooks={"request": [caller.about_to_send]})
    return caller.closing(client)


def stream_chat(caller: Caller) -> Any:
    return "".join(
        part.message.content or "" for part in client(caller).chat(model=MODEL, messages=MESSAGES, stream=True)
    )


def stream_generate(caller: Caller) -> Any:
    return "".join(part.response or "" for part in client(caller).generate(model=MODEL, prompt=QUESTION, stream=True))


def ollama_case(name: str, **members: Any) -> Case:
    return Case(
        **{
            "id": f"ollama-{name}",
            "sdk": SDK,
            "upstream": "ollama",
            "model": MODEL,
            "charged": CHARGED,
            "own_price": True,
            **members,
        }
    )


CASES = (
    ollama_case(
        "chat",
        target="/api/chat",
        ask=lambda caller: client(caller).chat(model=MODEL, messages=MESSAGES).message.content,
        answer=document(said(ANSWER) | END),
    ),
    ollama_case(
        "chat-stream",
        target="/api/chat",
        ask=stream_chat,
        answer=chat_stream(WORDS),
        stream=chat_stream,
    ),
    ollama_case(
        "generate",
        target="/api/generate",
        ask=lambda caller: client(caller).generate(model=MODEL, prompt=QUESTION).response,
        answer=document(LINE | {"response": ANSWER} | END),
    ),
    ollama_case(
        "generate-stream",
        target="/api/generate",
        ask=stream_generate,
        answer=generate_stream(WORDS),
        stream=generate_stream,
    ),
)
