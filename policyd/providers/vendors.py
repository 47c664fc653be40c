"""The vendors: one row each. Another vendor whose API is OpenAI's is another row.

The ids are those of genai-prices. Hosts and base paths are from the vendors' documentation and from recorded traffic.
"""

from __future__ import annotations

from policyd.providers.base import Api, Vendor

COMMON_BASES = ("", "/v1", "/api/v1", "/openai/v1")
"""Base paths that are taken for every vendor."""

BOTH = (Api.OPENAI, Api.ANTHROPIC)

OPENAI = Vendor(
    "openai",
    hosts=("api.openai.com", "us.api.openai.com", "eu.api.openai.com"),
    output_maximum="max_completion_tokens",
    exact_prompts=True,
)
ANTHROPIC = Vendor("anthropic", hosts=("api.anthropic.com",), apis=(Api.ANTHROPIC, Api.OPENAI))

_OTHERS = (
    Vendor("avian", hosts=("api.avian.io",)),
    Vendor("baseten", hosts=("inference.baseten.co",)),
    Vendor("cerebras", hosts=("api.cerebras.ai",)),
    # Reports usage unasked, in each of ten recorded streams.
    Vendor("databricks", bases=("/serving-endpoints",), stream_options=False),
    Vendor(
        "deepseek",
        hosts=("api.deepseek.com",),
        bases=("/beta", "/anthropic", "/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("doubleword", hosts=("api.doubleword.ai",)),
    Vendor("fireworks", hosts=("api.fireworks.ai",), bases=("/inference/v1",)),
    Vendor("github-copilot", hosts=("api.githubcopilot.com",)),
    Vendor("groq", hosts=("api.groq.com",)),
    Vendor(
        "minimax",
        hosts=("api.minimax.io", "api.minimaxi.com"),
        bases=("/anthropic/v1",),
        apis=BOTH,
    ),
    # Refuses a body with stream_options or max_completion_tokens ("Extra inputs are not permitted"). Not one of 58
    # recorded requests for a stream carries stream_options, and each stream that was served reports usage.
    Vendor("mistral", hosts=("api.mistral.ai",), stream_options=False),
    Vendor(
        "moonshotai",
        hosts=("api.moonshot.ai", "api.moonshot.cn"),
        bases=("/anthropic", "/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("novita", hosts=("api.novita.ai",), bases=("/v3/openai", "/openai")),
    # Reports usage in the last chunk unasked: all of 47 recorded streams without stream_options.
    Vendor(
        "openrouter",
        hosts=("openrouter.ai", "api.openrouter.ai"),
        apis=BOTH,
        stream_options=False,
    ),
    # Reports a running total in every chunk unasked, in each of the recorded streams.
    Vendor("perplexity", hosts=("api.perplexity.ai",), stream_options=False),
    Vendor("together", hosts=("api.together.xyz", "api.together.ai")),
    Vendor("x-ai", hosts=("api.x.ai",), apis=BOTH),
    Vendor(
        "zai",
        hosts=("api.z.ai",),
        bases=("/api/paas/v4", "/api/coding/paas/v4", "/api/anthropic", "/api/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("zhipuai", hosts=("open.bigmodel.cn",), bases=("/api/paas/v4", "/api/coding/paas/v4")),
)

VENDORS: dict[str, Vendor] = {vendor.id: vendor for vendor in (OPENAI, ANTHROPIC, *_OTHERS)}
"""The rows by id."""

VENDORS_BY_HOST: dict[str, Vendor] = {host: vendor for vendor in VENDORS.values() for host in vendor.hosts}


def vendor_named(name: str) -> Vendor:
    """The vendor of that id; a name without a row is a vendor whose API is OpenAI's, and whose prices are unknown."""
    return VENDORS.get(name) or Vendor(name)
