"""The two providers' APIs as an application sees them: what it asks, and what the reply says was used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from policyd.core.usage import Usage

PROMPT: Final = "Explain to my team why our language model bill doubled last month, and what we can do about it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    provider: str
    """As prices are listed."""
    model: str
    path: str
    usage: Callable[[Any], Usage]
    """Reads the provider's own usage object. Deliberately not policyd's reader: the story checks policyd with it."""

    def request(self, *, max_tokens: int | None, stream: bool = False) -> dict[str, Any]:
        """A request body. `max_tokens` `None`: it sets no maximum for the output."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}]}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if stream:
            body["stream"] = True
        return body


OPENAI: Final = Api(
    provider="openai",
    model="gpt-4o",
    path="/v1/chat/completions",
    usage=lambda usage: Usage(input=usage["prompt_tokens"], output=usage["completion_tokens"]),
)

ANTHROPIC: Final = Api(
    provider="anthropic",
    model="claude-sonnet-4-6",
    path="/v1/messages",
    usage=lambda usage: Usage(input=usage["input_tokens"], output=usage["output_tokens"]),
)
