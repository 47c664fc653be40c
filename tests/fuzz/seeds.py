"""Where the inputs of each target begin: the project's own fixtures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.ext_proc import wire

TESTS = Path(__file__).parents[1]


def requests() -> Iterator[bytes]:
    """Bodies of requests."""
    yield from (path.read_bytes() for path in sorted((TESTS / "providers" / "fixtures").glob("*_request.json")))
    yield wire.chat(stream=True, max_tokens=5, n=2, user="ann", tier="free")
    yield wire.messages(system="Be brief.", stream=True)
    yield b'{"contents":[{"parts":[{"text":"Hi"}]}],"generationConfig":{"maxOutputTokens":9,"candidateCount":2}}'
    yield b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}],"inferenceConfig":{"maxTokens":9}}'
    yield b'{"model":"m","input":["a","b"],"texts":["a"],"documents":["a",{"text":"b"}],"query":"q","top_n":1}'
    yield b'{"model":"m","prompt":"Hi","suffix":"!","options":{"num_predict":-1},"instances":[{"content":"a"}]}'
    yield b'{"requests":[{"custom_id":"a","params":{"model":"claude-3-5-haiku-latest","max_tokens":1,"messages":[]}}]}'
    yield b'{"model":"tts-1","input":"Hi","voice":"alloy"}'
    yield from forms()


def forms() -> Iterator[bytes]:
    field = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    file = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nID3\r\n'
    yield field + file + b"--x--\r\n"
    yield file + field + b"--x--\r\n"


def replies() -> Iterator[bytes]:
    """Documents and streams of replies."""
    for path in sorted((TESTS / "providers" / "fixtures").glob("*_replies.json")):
        for case in json.loads(path.read_text()):
            if "document" in case:
                yield json.dumps(case["document"]).encode()
            else:
                yield b"".join(b"data: " + _text(event) + b"\n\n" for event in case.get("events", ()))
    yield b"".join(wire.message_stream())
    yield b'[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]},\n{"usageMetadata":{"promptTokenCount":1}}]'
    yield b'{"message":{"content":"a"},"done":false}\n{"done":true,"prompt_eval_count":3,"eval_count":4}\n'


def policies() -> Iterator[bytes]:
    for folder in ("good", "bad"):
        yield from (path.read_bytes() for path in sorted((TESTS / "config" / folder).glob("*.yaml")))


def compressed() -> Iterator[bytes]:
    """A byte that chooses the encoding, and what is encoded so."""
    plain = b"".join(wire.chat_stream())
    yield from (bytes([index]) + compress(plain) for index, compress in enumerate(wire.COMPRESS.values()))


def _text(event: object) -> bytes:
    # An event may be a pair of its name and its value.
    value = event[-1] if isinstance(event, list) else event
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()
