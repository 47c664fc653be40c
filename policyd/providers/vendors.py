"""The vendors: one row each. Another vendor whose API is OpenAI's is another row.

The ids are those of genai-prices. Hosts and base paths are from the vendors' documentation and from recorded traffic.
"""

from __future__ import annotations

import re

from policyd.providers.base import Api, Vendor

COMMON_BASES = ("", "/v1", "/api/v1", "/openai/v1")
"""Base paths that are taken for every vendor."""

BOTH = (Api.OPENAI, Api.ANTHROPIC)

OPENAI = Vendor(
    "openai",
    hosts=("api.openai.com", "us.api.openai.com", "eu.api.openai.com"),
    output_maximum="max_completion_tokens",
    completion_maximum=16,
    exact_prompts=True,
)
ANTHROPIC = Vendor("anthropic", hosts=("api.anthropic.com",), apis=(Api.ANTHROPIC, Api.OPENAI))
# Its endpoints in OpenAI's form are left out: whether the usage that they report counts thoughts is not known.
GOOGLE = Vendor(
    "google",
    hosts=(
        "generativelanguage.googleapis.com",
        "aiplatform.googleapis.com",
        "aiplatform.eu.rep.googleapis.com",
        "aiplatform.us.rep.googleapis.com",
    ),
    host_patterns=(r"[a-z0-9-]+-aiplatform\.googleapis\.com",),
    bases=("/v1beta", "/v1alpha", "/v1beta1"),
    apis=(Api.GOOGLE,),
    names=("gemini", "vertex", "vertex-ai"),
)

_ROUTED_BY_HUGGING_FACE = (
    "cerebras",
    "fireworks-ai",
    "groq",
    "hyperbolic",
    "nebius",
    "novita",
    "nscale",
    "ovhcloud",
    "publicai",
    "sambanova",
    "together",
)
"""Those that Hugging Face sells at prices of their own: a route can name each as `huggingface_NAME`."""

_OTHERS = (
    Vendor(
        "alibaba",
        hosts=("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"),
        bases=("/compatible-mode/v1",),
    ),
    Vendor("arcee", hosts=("api.arcee.ai",)),
    Vendor("avian", hosts=("api.avian.io",)),
    Vendor(
        "azure",
        names=("azure-openai",),
        host_patterns=(r"[a-z0-9-]+\.(?:openai|services\.ai|cognitiveservices)\.azure\.(?:com|us)",),
        bases=("/openai", "/models", "/anthropic", "/anthropic/v1"),
        apis=BOTH,
        key_header="api-key",
        output_maximum="max_completion_tokens",
        completion_maximum=16,
        exact_prompts=True,
    ),
    # Beside Bedrock's own API, hosts in OpenAI's and Anthropic's form.
    Vendor(
        "aws",
        names=("bedrock", "amazon-bedrock"),
        host_patterns=(
            r"bedrock-runtime(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?",
            r"(?:vpce-[a-z0-9-]+\.)?bedrock-runtime(?:-fips)?\.[a-z0-9-]+\.vpce\.amazonaws\.com(?:\.cn)?",
            r"bedrock-mantle\.[a-z0-9-]+\.api\.aws",
        ),
        bases=("/anthropic/v1",),
        apis=(Api.BEDROCK, Api.OPENAI, Api.ANTHROPIC),
    ),
    Vendor("baseten", hosts=("inference.baseten.co",)),
    Vendor("cerebras", hosts=("api.cerebras.ai",)),
    # The Codex of a ChatGPT subscription.
    Vendor("chatgpt-codex", hosts=("chatgpt.com",), bases=("/backend-api/codex",)),
    Vendor(
        "cloudflare",
        hosts=("api.cloudflare.com",),
        base_patterns=(r"/client/v4/accounts/[A-Za-z0-9]+/ai/v1",),
    ),
    Vendor(
        "cohere",
        hosts=("api.cohere.com", "api.cohere.ai"),
        bases=("/compatibility/v1",),
        apis=(Api.COHERE, Api.OPENAI),
    ),
    Vendor("cursor", hosts=("api.cursor.com",)),
    # Reports usage unasked, in each of ten recorded streams.
    Vendor(
        "databricks",
        host_patterns=(r"[a-z0-9.-]+\.(?:(?:cloud|gcp)\.databricks\.com|azuredatabricks\.net)",),
        bases=("/serving-endpoints", "/ai-gateway"),
        stream_options=False,
    ),
    Vendor(
        "deepseek",
        hosts=("api.deepseek.com",),
        bases=("/beta", "/anthropic", "/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("doubleword", hosts=("api.doubleword.ai",)),
    Vendor("fireworks", names=("fireworks-ai",), hosts=("api.fireworks.ai",), bases=("/inference/v1",)),
    Vendor("github-copilot", names=("copilot",), hosts=("api.githubcopilot.com",)),
    # Each transcript is charged as ten seconds at least (Groq, Speech to Text, and genai-prices).
    Vendor("groq", hosts=("api.groq.com",), transcript_ms_min=10_000),
    Vendor("heroku", host_patterns=(r"[a-z]+\.inference\.heroku\.com",)),
    Vendor(
        "huggingface",
        hosts=("router.huggingface.co",),
        bases=tuple(f"/{name}/v1" for name in _ROUTED_BY_HUGGING_FACE),
    ),
    Vendor("meta", hosts=("api.meta.ai", "api.llama.com"), bases=("/compat/v1",)),
    Vendor(
        "minimax",
        hosts=("api.minimax.io", "api.minimaxi.com"),
        bases=("/anthropic/v1",),
        apis=BOTH,
    ),
    # Refuses a body with stream_options or max_completion_tokens ("Extra inputs are not permitted"). Not one of 58
    # recorded requests for a stream carries stream_options, and each stream that was served reports usage.
    Vendor(
        "mistral",
        names=("mistralai",),
        hosts=("api.mistral.ai", "codestral.mistral.ai"),
        apis=(Api.MISTRAL, Api.OPENAI),
        stream_options=False,
    ),
    Vendor("modal", host_patterns=(r"[a-z0-9-]+\.modal\.(?:run|direct)",)),
    Vendor(
        "moonshotai",
        names=("moonshot",),
        hosts=("api.moonshot.ai", "api.moonshot.cn"),
        bases=("/anthropic", "/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("novita", hosts=("api.novita.ai",), bases=("/v3/openai", "/openai")),
    Vendor("ollama", hosts=("ollama.com",), apis=(Api.OLLAMA, Api.OPENAI)),
    # Reports usage in the last chunk unasked: all of 47 recorded streams without stream_options. What it sends on to
    # OpenAI asks for 16 tokens at least, as the Responses API does.
    Vendor(
        "openrouter",
        hosts=("openrouter.ai", "api.openrouter.ai"),
        apis=BOTH,
        stream_options=False,
        output_floor=16,
        resells=True,
    ),
    Vendor("ovhcloud", hosts=("oai.endpoints.kepler.ai.cloud.ovh.net",)),
    # Reports a running total in every chunk unasked, in each of the recorded streams.
    Vendor("perplexity", hosts=("api.perplexity.ai",), stream_options=False),
    Vendor("quicksilverpro", hosts=("api.quicksilverpro.io",)),
    Vendor("snowflake", host_patterns=(r"[a-z0-9-]+\.snowflakecomputing\.com",), bases=("/api/v2/cortex/v1",)),
    Vendor("together", names=("togetherai",), hosts=("api.together.xyz", "api.together.ai")),
    Vendor("typesafe", hosts=("api.typesafe.ai",)),
    Vendor("venice", hosts=("api.venice.ai",)),
    Vendor("vercel-gateway", hosts=("ai-gateway.vercel.sh",), resells=True),
    Vendor("voyageai", names=("voyage",), hosts=("api.voyageai.com",)),
    Vendor("writer", hosts=("api.writer.com",)),
    # Grok's thoughts do not heed the maximum: of three replies to requests for 16 tokens each has 110 to 124 beside it.
    # Each of 32 recorded requests for grok-3-mini was served, and charged, as grok-4.3.
    Vendor(
        "x-ai",
        names=("xai",),
        hosts=("api.x.ai",),
        apis=BOTH,
        output_floor=1024,
        served_as={"grok-3-mini": "grok-4.3"},
    ),
    Vendor(
        "zai",
        names=("z-ai",),
        hosts=("api.z.ai",),
        bases=("/api/paas/v4", "/api/coding/paas/v4", "/api/anthropic", "/api/anthropic/v1"),
        apis=BOTH,
    ),
    Vendor("zhipuai", hosts=("open.bigmodel.cn",), bases=("/api/paas/v4", "/api/coding/paas/v4")),
)

_HUGGING_FACE = tuple(Vendor(f"huggingface_{name}", bases=(f"/{name}/v1",)) for name in _ROUTED_BY_HUGGING_FACE)

_ALL = (OPENAI, ANTHROPIC, GOOGLE, *_OTHERS, *_HUGGING_FACE)

VENDORS: dict[str, Vendor] = {name: vendor for vendor in _ALL for name in (vendor.id, *vendor.names)}
"""The rows by id, and by what else they are called."""

VENDORS_BY_HOST: dict[str, Vendor] = {host: vendor for vendor in _ALL for host in vendor.hosts}

_HOST_PATTERNS = tuple((re.compile(pattern), vendor) for vendor in _ALL for pattern in vendor.host_patterns)


def vendor_at(host: str) -> Vendor | None:
    """The vendor that answers at `host`, a name in lower case."""
    by_pattern = (vendor for pattern, vendor in _HOST_PATTERNS if pattern.fullmatch(host))
    return VENDORS_BY_HOST.get(host) or next(by_pattern, None)


def vendor_named(name: str) -> Vendor:
    """The vendor that is so called; a name without a row is one whose API is OpenAI's, and whose prices are unknown."""
    return VENDORS.get(name) or Vendor(name)
