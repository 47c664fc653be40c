"""How far counts are from what providers reported: what the figures in `policyd/tokens/families.py` are fitted on.

`python -m tests.tokens.fit RECORDINGS` reads recorded exchanges (JSON lines, gzip), one object a line with `wire`,
`vendor`, `status`, `notes`, `request_body` and `expected_usage`, and prints two rows for each family of models: one for
requests of text alone, one for those with tools, answer schemas, images and the like. Requests whose input is partly
hidden from the wire (searches, files by id or address, tools that run at the provider) are left out.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import Prompt, RawRequest, WireFormat
from policyd.providers.registry import (
    ANTHROPIC_MESSAGES,
    COHERE_CHAT,
    COHERE_CHAT_V1,
    COHERE_EMBED,
    COHERE_GENERATE,
    GEMINI_GENERATE,
    MISTRAL_CHAT,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OPENAI_CHAT,
)
from policyd.providers.vendors import vendor_named
from policyd.tokens import TokenCount, TokenCounter
from policyd.tokens.families import Family, family

WIRES: dict[str, WireFormat] = {
    "openai-chat": OPENAI_CHAT,
    "anthropic-messages": ANTHROPIC_MESSAGES,
    "cohere-chat": COHERE_CHAT_V1,
    "cohere-chat-v2": COHERE_CHAT,
    "cohere-embed": COHERE_EMBED,
    "cohere-embed-v2": COHERE_EMBED,
    "cohere-generate": COHERE_GENERATE,
    "gemini-generateContent": GEMINI_GENERATE,
    "gemini-streamGenerateContent": GEMINI_GENERATE,
    "ollama-chat": OLLAMA_CHAT,
    "ollama-generate": OLLAMA_GENERATE,
}
VENDOR_IDS = {"xai": "x-ai", "gemini": "google", "vertex": "google"}

HIDDEN_INPUT = re.compile(
    r'"(?:mcp_servers|web_search_options|plugins|file_id|container|cachedContent|file_?[dD]ata|file_?[sS]earch)"'
    r'|"(?:google_?[sS]earch|url_?[cC]ontext|code_?[eE]xecution)"'
    r'|"type": ?"(?:web_|code_execution|tool_search|advisor|computer|openrouter:|url")'
)
SEARCHING = re.compile(r"venice|compound|:online|-search-")
"""Vendors and models that search the web, asked to or not."""

BEYOND_TEXT = re.compile(
    r'"(?:tools|functions|tool_calls|thinking|reasoning_effort|response_format|output_format|output_config|citations'
    r'|response_?(?:json_?)?schema|inline_?data|function_?call|thought_?signature)":'
    r'|"type": ?"(?:image|image_url|input_audio|file|document)"',
    re.IGNORECASE,
)

LONG_TEXT_TOKENS = 150
"""From here on the constant parts do not matter much: a request shows the factor, and errors are given in percent."""


class Sample(NamedTuple):
    id: str
    models: Family
    text_alone: bool
    prompt: Prompt
    counted: TokenCount
    reported: int

    @property
    def relative_error(self) -> float:
        return abs(self.counted.tokens - self.reported) / self.reported

    @property
    def factor(self) -> float:
        """What the count of the texts would have to be multiplied with, if there was nothing else."""
        texts = sum(self.models.count(text).tokens for text in self.prompt.texts)
        return (self.reported - self.prompt.overhead_tokens) / texts


def reported_input(record: dict[str, Any]) -> int:
    usage = record["expected_usage"] or {}
    if "billed_input_tokens" in usage:
        return int(usage["billed_input_tokens"])
    uncached, cached, written = (
        usage.get(name) or 0 for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    )
    # Anthropic's input tokens leave out what the cache read or wrote; the others' include it.
    return uncached + cached + written if record["wire"].startswith("anthropic") else max(uncached, cached)


def is_mistral_chat(record: dict[str, Any]) -> bool:
    """Whether the format is OpenAI's and the prompt Mistral's own."""
    return bool(record["vendor"] == "mistral" and record["wire"] == "openai-chat")


def samples(recordings: Path) -> Iterator[Sample]:
    """One sample for each distinct request whose input tokens were reported."""
    counter = TokenCounter()
    seen = set()
    with gzip.open(recordings, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            body, reported = record["request_body"], reported_input(record)
            wire = MISTRAL_CHAT if is_mistral_chat(record) else WIRES.get(record["wire"])
            if wire is None or record["status"] != 200 or not reported or "suspect-synthetic" in record["notes"]:
                continue
            origin = f"{record['vendor']} {record['request_model']}"
            if HIDDEN_INPUT.search(body) or SEARCHING.search(origin) or (origin, body) in seen:
                continue
            seen.add((origin, body))
            vendor = vendor_named(VENDOR_IDS.get(record["vendor"], record["vendor"]))
            try:
                facts = wire.read_request(RawRequest(body.encode(), path=record["path"]), vendor=vendor)
            except BodyUnreadable:
                continue
            counted = counter.count_prompt(facts.prompt, provider=vendor.id, model=facts.model)
            models = family(provider=vendor.id, model=facts.model)
            text_alone = BEYOND_TEXT.search(body) is None
            yield Sample(record["id"], models, text_alone, facts.prompt, counted, reported)


def row(name: str, found: Sequence[Sample]) -> str:
    said_exact = [sample for sample in found if sample.counted.exact]
    exact = sum(sample.counted.tokens == sample.reported for sample in said_exact)
    long = [sample for sample in found if sample.reported >= LONG_TEXT_TOKENS]
    errors = sorted(sample.relative_error for sample in long)
    error = f"{median(errors):6.1%} {errors[len(errors) * 95 // 100]:6.1%}" if long else ""
    factors = [sample.factor for sample in long if sample.text_alone]
    factor = f"{median(factors):6.2f}" if factors else ""
    over = [sample.id for sample in found if sample.reported > sample.counted.upper_bound]
    return (
        f"{name:29} {len(found):8} {exact:6} of {len(said_exact):4} {len(long):6} {error:13} {factor:6} "
        f"{len(over):10} {' '.join(over)}\n"
    )


HEADER = """\
                              distinct    exact of of 150     error of those best   over the
family                        requests     said so tokens     50%    95% factor      bound
"""


def main(recordings: Path) -> None:
    rows = defaultdict(list)
    for sample in samples(recordings):
        rows[f"{sample.models.name}{'' if sample.text_alone else ', beyond text'}"].append(sample)
    sys.stdout.write(HEADER)
    sys.stdout.writelines(row(name, rows[name]) for name in sorted(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
