"""What the SDKs offer beyond plain calls works through policyd as it does without."""

from __future__ import annotations

from policyd.core.usage import Usage
from policyd.demo.simulated.text import text
from tests.e2e.books import assert_charged
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import Anthropic, OpenAI


def test_openais_stream_of_events(mesh: Mesh, project: str) -> None:
    call = OpenAI().call(mesh, project=project)
    with OpenAI.client(call) as client, client.chat.completions.stream(**call.members) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()

    assert "".join(deltas) == completion.choices[0].message.content == text(tokens=40)
    # It did not ask for usage, so it is told none.
    assert completion.usage is None
    (line,) = mesh.records_of(project)
    usage = Usage(input=line["usage"]["input"], output=40)
    assert_charged(mesh, project, usage, sdk=OpenAI(), request_id=line["request_id"])


async def test_openais_stream_of_events_async(mesh: Mesh, project: str) -> None:
    call = OpenAI().call(mesh, project=project, stream_options={"include_usage": True})
    async with OpenAI.async_client(call) as client, client.chat.completions.stream(**call.members) as stream:
        completion = await stream.get_final_completion()

    assert completion.usage is not None
    (line,) = mesh.records_of(project)
    assert line["usage"] == {"input": completion.usage.prompt_tokens, "output": completion.usage.completion_tokens}


def test_openais_reply_read_in_pieces(mesh: Mesh, project: str) -> None:
    call = OpenAI().call(mesh, project=project)
    with (
        OpenAI.client(call) as client,
        client.chat.completions.with_streaming_response.create(**call.members) as response,
    ):
        body = b"".join(response.iter_bytes(10))
        headers = response.headers

    assert b'"completion_tokens": 40' in body
    assert mesh.record(headers["x-policyd-request-id"])["outcome"] == "served"


def test_openais_tools(mesh: Mesh, project: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    without = OpenAI().ask(mesh, project=project)
    reply = OpenAI().ask(mesh, project=project, tools=tools, tool_choice="auto")

    counted = "x-policyd-estimated-input-tokens"
    assert int(reply.headers[counted]) > int(without.headers[counted])


def test_anthropics_stream_of_text(mesh: Mesh, project: str) -> None:
    call = Anthropic().call(mesh, project=project)
    with Anthropic.client(call) as client, client.messages.stream(**call.members) as stream:
        said = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert said == text(tokens=40)
    (line,) = mesh.records_of(project)
    usage = Usage(input=message.usage.input_tokens, output=message.usage.output_tokens)
    assert_charged(mesh, project, usage, sdk=Anthropic(), request_id=line["request_id"])


async def test_anthropics_stream_of_text_async(mesh: Mesh, project: str) -> None:
    call = Anthropic().call(mesh, project=project)
    async with Anthropic.async_client(call) as client, client.messages.stream(**call.members) as stream:
        said = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()

    assert said == text(tokens=40)
    (line,) = mesh.records_of(project)
    assert line["usage"] == {"input": message.usage.input_tokens, "output": message.usage.output_tokens}


def test_anthropics_system_prompt_and_tools(mesh: Mesh, project: str) -> None:
    without = Anthropic().ask(mesh, project=project)
    tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    reply = Anthropic().ask(mesh, project=project, system="Answer in verse, and at length.", tools=tools)

    counted = "x-policyd-estimated-input-tokens"
    assert int(reply.headers[counted]) > int(without.headers[counted])
    assert reply.usage is not None
    assert reply.usage.input <= int(reply.headers[counted])
