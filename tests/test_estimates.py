"""`policyd estimate`: one request body, priced without being sent, in any wire format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policyd.cli import app

FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'


def estimated(tmp_path: Path, body: Any, *arguments: str) -> dict[str, str]:
    file = tmp_path / "body"
    file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    result = CliRunner().invoke(app, ["estimate", str(file), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in result.stdout.splitlines())}


CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
GEMINI = {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"maxOutputTokens": 10}}


@pytest.mark.parametrize(
    ("body", "arguments", "told"),
    [
        (CHAT, (), {"model": "gpt-4o", "output_tokens": "7 (at most 10)", "bounded": "yes"}),
        (CHAT, ("--path", "/v1/moderations"), {"endpoint": "moderations", "cost_usd": "0.00 (free)"}),
        (
            GEMINI,
            ("--provider", "google", "--path", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
            {"priced_as": "google/gemini-2.5-flash", "bounded": "yes"},
        ),
        (
            {"model": "tts-1", "input": "Good day", "voice": "alloy"},
            ("--path", "/v1/audio/speech"),
            {"characters": "8 (at most 8)", "input_tokens": "0 (at most 0)", "maximum_cost_usd": "0.00012"},
        ),
        (
            FORM,
            ("--path", "/v1/audio/transcriptions", "--content-type", "multipart/form-data; boundary=b"),
            {"audio_input_ms": "1800000 (at most 1800000)", "maximum_cost_usd": "0.18"},
        ),
        (
            {"model": "rerank-v3.5", "query": "q", "documents": ["a"] * 101},
            ("--provider", "cohere", "--path", "/v2/rerank"),
            {"search_units": "2 (at most 2)", "maximum_cost_usd": "0.004"},
        ),
    ],
)
def test_a_body(tmp_path: Path, body: Any, arguments: tuple[str, ...], told: dict[str, str]) -> None:
    found = estimated(tmp_path, body, *arguments)
    assert {name: found[name] for name in told} == told
