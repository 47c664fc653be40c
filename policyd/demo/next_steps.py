"""What to try while the demo runs on: commands to copy."""

import shlex
import sys
from typing import Final

from policyd.core.money import format_usd
from policyd.core.policy import default_policy
from policyd.demo.folder import Folder
from policyd.demo.screen import Screen
from policyd.up import Mesh

_OPENAI: Final = """\
curl -i http://{listen}/v1/chat/completions \\
  -H 'content-type: application/json' -H 'x-policyd-project: mine' \\
  -d '{{"model": "gpt-4o", "max_tokens": 500,
       "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

_ANTHROPIC: Final = """\
curl -N http://{listen}/v1/messages \\
  -H 'content-type: application/json' -H 'x-policyd-project: mine' \\
  -d '{{"model": "claude-sonnet-4-6", "max_tokens": 500, "stream": true,
       "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

_CHECK_BUDGET: Final = """\
{python} - <<'END'
import grpc
from policyd.v1.model_request_pb2 import ModelRequest, TokenCounts
from policyd.v1.policy_service_pb2 import CheckBudgetRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub

request = ModelRequest(
    attributes={{"project": "mine"}},
    provider="openai",
    endpoint="chat.completions",
    counts=TokenCounts(
        model="gpt-4o", input_tokens=2000, max_output_tokens=500
    ),
)
with grpc.insecure_channel("{grpc}") as channel:
    service = PolicyServiceStub(channel)
    print(service.CheckBudget(CheckBudgetRequest(model_request=request)))
END"""


def show_next_steps(screen: Screen, mesh: Mesh, folder: Folder) -> None:
    """Says where everything is and what to try."""

    def fill(command: str) -> str:
        return command.format(listen=mesh.listen_address, grpc=mesh.grpc_address, python=shlex.quote(sys.executable))

    screen.show_command("A request in OpenAI's format:", fill(_OPENAI))
    screen.show_command("A stream in Anthropic's format:", fill(_ANTHROPIC))
    screen.show_command("What another service would ask:", fill(_CHECK_BUDGET))
    screen.show_command("The metrics:", f"curl http://{mesh.http_address}/metrics")
    screen.show_command("A log line for every exchange:", f"tail -f {shlex.quote(str(folder.exchanges))}")
    screen.show_command(
        "The policy. What you save there takes effect within a second; a mistake in it is reported in messages.log, "
        "and the policy before it stays in force:",
        str(folder.policy),
    )
    (limit,) = default_policy().limits
    default = f"{format_usd(limit.amount)} USD a {' and '.join(limit.per)} and {limit.window}"
    screen.title("Everything runs on until Ctrl-C", f"Without a policy file, the limit is {default}.")
