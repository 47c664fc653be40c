"""How each family of models counts text: which vocabulary, and how far its count is from what the provider reports.

OpenAI publishes its vocabularies, so the text of its models is counted exactly. All other text is approximated: the
count by o200k_base, times a factor, plus a constant for what a model's template and hidden system prompt add. The
figures are fitted on recorded requests and the input tokens reported for them; `python -m tests.tokens.fit RECORDINGS`
prints how well they fit. For distinct requests of text alone, and the error of those with 150 tokens or more:

| family | requests | of 150 tokens | what fits | error, median | 95 of 100 within |
|---|---|---|---|---|---|
| openai, openai-cl100k | 344 | 71 | 1; 291 of 294 that are said to be exact are | 0 | 0 |
| claude, up to 4.6 | 194 | 50 | 1.14 | 6 % | 15 % |
| claude-since-4.7: a new tokenizer | 13 | 2 | 1.41 | 1 % | 1 % |
| gpt-oss | 13 | 2 | 1, and 60 to 74 more | 1 % | 2 % |
| grok | 11 | 11 | 1, and 150 to 680 more | 3 % | 92 % |
| gemini | 150 | 20 | 1.05, with every digit a token of its own | 5 % | 184 % |
| mistral | 41 | 4 | 1.06, and 12 more for mistral-small | 4 % | 22 % |
| cohere, of the billed tokens | 49 | 6 | 1.02 | 5 % | 7 % |
| deepseek | 19 | 1 | 0.99 | 4 % | 4 % |
| other | 109 | 8 | 1, and up to 40 more; thousands where a vendor searches | 5 % | 97 % |

With tools, images, documents and answer schemas the error is that of how well their rendering is known: in the median
2 % for OpenAI, 9 % for Claude, 18 % for others, 32 % for Gemini (its thoughts come back as input on some requests and
not on others). Of 2,527 requests two pass their bound: a document with citations, and a reply whose own numbers do not
add up. There is next to no text in other scripts among the recordings; the bound for it is the larger count of both
vocabularies. While policyd runs, `policyd.learning` corrects what is not exact by what replies report.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from policyd.tokens.count import Ratio
from policyd.tokens.models import ClaudeVersion, bare_model_name, claude_version
from policyd.tokens.vocabulary import CL100K_BASE, O200K_BASE, Counted, Vocabulary


@dataclass(frozen=True, slots=True)
class Family:
    """Models that count text alike.

    A prompt is reported as about `factor` times the vocabulary's count of its texts plus `constant_tokens`, and should
    not pass `factor_max` times that count plus `constant_tokens_max`. Where `exact`, the figures are for prompts only
    that the models are given in another form than the texts.
    """

    name: str
    vocabulary: Vocabulary
    exact: bool
    """Whether the vocabulary is the models' own."""
    factor: Ratio
    factor_max: Ratio
    constant_tokens: int
    constant_tokens_max: int
    foreign_tools_tokens: int = 0
    """What tools usually add where they are defined in another maker's format; `constant_tokens_max` covers it."""
    splits_digits: bool = False
    """Whether every digit is a token of its own; the vocabularies here take up to three together."""

    def count(self, text: str) -> Counted:
        """What the vocabulary counts, in the models' way with digits."""
        counted = self.vocabulary.count(text)
        if not self.splits_digits:
            return counted
        lengths = (len(run[0]) for run in _DIGITS.finditer(text))
        split = sum(length - -(-length // _DIGITS_A_TOKEN) for length in lengths)
        return counted._replace(tokens=counted.tokens + split)


_DIGITS = re.compile(r"[0-9]+")
_DIGITS_A_TOKEN = 3


_FOREIGN_TOOLS_TOKENS_MAX = 768
"""What tools can add to a request in OpenAI's format for a model that is given them in another form than OpenAI's."""

_OPENAI = Family(
    "openai",
    O200K_BASE,
    exact=True,
    factor=Ratio(1),
    factor_max=Ratio(5, 4),
    constant_tokens=0,
    constant_tokens_max=64,
)
_OPENAI_CL100K = Family(
    "openai-cl100k",
    CL100K_BASE,
    exact=True,
    factor=Ratio(1),
    factor_max=Ratio(5, 4),
    constant_tokens=0,
    constant_tokens_max=64,
)
_OPENAI_UNNAMED = replace(_OPENAI, name="openai-unnamed", exact=False)
"""A model of OpenAI's that its name does not tell: Azure's deployments have names of the operator's."""

_CLAUDE = Family(
    "claude",
    O200K_BASE,
    exact=False,
    factor=Ratio(115, 100),
    factor_max=Ratio(7, 4),
    constant_tokens=0,
    constant_tokens_max=256,
)
_CLAUDE_SINCE_4_7 = Family(
    "claude-since-4.7",
    O200K_BASE,
    exact=False,
    factor=Ratio(140, 100),
    factor_max=Ratio(2),
    constant_tokens=0,
    constant_tokens_max=256,
)
_GPT_OSS = Family(
    "gpt-oss",
    O200K_BASE,
    exact=False,
    factor=Ratio(1),
    factor_max=Ratio(5, 4),
    constant_tokens=65,
    constant_tokens_max=256,
)
_GROK = Family(
    "grok",
    O200K_BASE,
    exact=False,
    factor=Ratio(1),
    factor_max=Ratio(3, 2),
    constant_tokens=150,
    constant_tokens_max=1024,
    foreign_tools_tokens=150,
)
_MISTRAL = Family(
    "mistral",
    O200K_BASE,
    exact=False,
    factor=Ratio(102, 100),
    factor_max=Ratio(3, 2),
    constant_tokens=6,
    constant_tokens_max=64,
    splits_digits=True,
)
_COHERE = Family(
    "cohere",
    O200K_BASE,
    exact=False,
    factor=Ratio(1),
    factor_max=Ratio(3, 2),
    constant_tokens=0,
    constant_tokens_max=64,
)
_GEMINI = Family(
    "gemini",
    O200K_BASE,
    exact=False,
    factor=Ratio(105, 100),
    factor_max=Ratio(3, 2),
    constant_tokens=0,
    constant_tokens_max=128,
    splits_digits=True,
)
_OTHER = Family(
    "other",
    O200K_BASE,
    exact=False,
    factor=Ratio(105, 100),
    factor_max=Ratio(3, 2),
    constant_tokens=0,
    constant_tokens_max=_FOREIGN_TOOLS_TOKENS_MAX,
    foreign_tools_tokens=150,
)
_DEEPSEEK = replace(_OTHER, name="deepseek", factor=Ratio(95, 100), foreign_tools_tokens=250)
_LLAMA_4 = replace(_OTHER, name="llama-4", foreign_tools_tokens=660)

_OPENAI_EMBEDDINGS = ("text-embedding-3-", "text-embedding-ada-")
"""Other makers name embedding models `text-embedding-...` too."""

# By the beginning of the model's name; the first row that fits counts.
_BY_PREFIX: tuple[tuple[tuple[str, ...], Family], ...] = (
    (("gpt-oss",), _GPT_OSS),
    (("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "chatgpt-4o", "o1", "o3", "o4"), _OPENAI),
    (("gpt-4", "gpt-3.5", "gpt-35", *_OPENAI_EMBEDDINGS, "davinci-002", "babbage-002"), _OPENAI_CL100K),
    (("grok",), _GROK),
    (("deepseek",), _DEEPSEEK),
    (("llama-4",), _LLAMA_4),
)
_BY_PROVIDER = {
    "openai": _OPENAI_UNNAMED,
    "azure": _OPENAI_UNNAMED,
    "anthropic": _CLAUDE_SINCE_4_7,
    "mistral": _MISTRAL,
    "cohere": _COHERE,
    "google": _GEMINI,
}

_CLAUDE_AT_HOME = ("anthropic", "aws", "google")
"""Who serves Claude in Anthropic's own format, whose reader knows what its tools add."""

_GEMINI_NAMES = ("gemini", "gemma")

_ADDED_TOKENS = {"venice": (1024, 4096)}
"""What a vendor puts before every prompt, usually and at the most: instructions of its own."""

_NEWER_CLAUDE_TOKENIZER = ClaudeVersion(4, 7)


def family(*, provider: str, model: str) -> Family:
    """How `model` counts text. The model's name decides; the provider where the name says nothing."""
    return _remembered(provider, model)


@lru_cache(maxsize=1024)
def _remembered(provider: str, model: str) -> Family:
    models = _family(provider, bare_model_name(model))
    if provider not in _ADDED_TOKENS or "embed" in model:
        return models
    added, added_max = _ADDED_TOKENS[provider]
    return replace(
        models,
        exact=False,
        constant_tokens=models.constant_tokens + added,
        constant_tokens_max=models.constant_tokens_max + added_max,
    )


def _family(provider: str, name: str) -> Family:
    claude = claude_version(name)
    if claude is not None:
        models = _CLAUDE_SINCE_4_7 if claude >= _NEWER_CLAUDE_TOKENIZER else _CLAUDE
        if provider in _CLAUDE_AT_HOME:
            return models
        return replace(models, constant_tokens_max=_FOREIGN_TOOLS_TOKENS_MAX, foreign_tools_tokens=400)
    if name.startswith(_GEMINI_NAMES) and provider != "google":
        return replace(_GEMINI, constant_tokens_max=_FOREIGN_TOOLS_TOKENS_MAX)
    for prefixes, models in _BY_PREFIX:
        if name.startswith(prefixes):
            return models
    return _BY_PROVIDER.get(provider, _OTHER)
