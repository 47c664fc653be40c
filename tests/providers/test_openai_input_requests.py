"""Reading and editing requests for legacy completions, embeddings and reranking."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import (
    OUTPUT_TOKENS_MAX,
    Image,
    Prompt,
    RawRequest,
    RequestEdits,
    RequestFacts,
    Vendor,
    WireFormat,
)
from policyd.providers.openai.input import INPUTS_MAX
from policyd.providers.registry import OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS, OPENAI_RERANK
from policyd.providers.vendors import OPENAI, VENDORS
from tests.providers.garbling import UNHURRIED, garbled, with_other_values

VOYAGE = VENDORS["voyageai"]


def read(wire: WireFormat, members: dict[str, Any], *, vendor: Vendor = OPENAI, path: str = "") -> RequestFacts:
    return wire.read_request(RawRequest(json.dumps({"model": "m", **members}).encode(), path=path), vendor=vendor)


def complete(*, vendor: Vendor = OPENAI, **members: Any) -> RequestFacts:
    return read(OPENAI_COMPLETIONS, members, vendor=vendor)


def embed(value: Any, *, vendor: Vendor = OPENAI) -> RequestFacts:
    return read(OPENAI_EMBEDDINGS, {"input": value}, vendor=vendor)


class TestCompletions:
    def test_the_plain_case(self) -> None:
        assert complete(prompt="Say", max_tokens=5) == RequestFacts(
            model="m", streamed=False, prompt=Prompt(texts=("Say",)), max_output_tokens=5
        )

    @pytest.mark.parametrize(
        ("prompt", "texts", "tokens", "prompts"),
        [
            ("one", ("one",), 0, 1),
            (["one", "two"], ("one", "two"), 0, 2),
            ([11, 12, 13], (), 3, 1),
            ([[11, 12], [13]], (), 3, 2),
            (["one", [11, 12]], ("one",), 2, 2),
            # The model is given one token to begin with.
            (None, (), 1, 1),
            ("", (), 1, 1),
        ],
    )
    def test_prompts(self, prompt: Any, texts: tuple[str, ...], tokens: int, prompts: int) -> None:
        facts = complete(prompt=prompt)
        assert facts.prompt == Prompt(texts=texts, overhead_tokens=tokens)
        assert facts.choices == prompts

    def test_a_suffix_is_part_of_the_prompt(self) -> None:
        assert complete(prompt="a", suffix="z").prompt.texts == ("z", "a")

    @pytest.mark.parametrize(
        ("members", "choices"),
        [({}, 1), ({"n": 3}, 3), ({"best_of": 5}, 5), ({"n": 2, "best_of": 5}, 5), ({"n": 7, "best_of": 5}, 7)],
    )
    def test_choices_are_those_that_are_generated(self, members: dict[str, Any], choices: int) -> None:
        assert complete(prompt="a", **members).choices == choices
        assert complete(prompt=["a", "b"], **members).choices == 2 * choices

    def test_the_maximum_where_none_is_given(self) -> None:
        assert complete(prompt="a").max_output_tokens == 16
        assert complete(prompt="a", vendor=VENDORS["azure"]).max_output_tokens == 16
        assert complete(prompt="a", vendor=VENDORS["together"]).max_output_tokens is None
        assert complete(prompt="a", max_tokens=0).max_output_tokens == 0

    def test_a_stream_reports_usage_where_it_is_asked_to(self) -> None:
        assert not complete(prompt="a", stream=True).usage_requested
        assert complete(prompt="a", stream=True, stream_options={"include_usage": True}).usage_requested
        assert complete(prompt="a").usage_requested

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"prompt": []}, "prompt: expected from 1 to"),
            ({"prompt": ["a"] * (INPUTS_MAX + 1)}, "prompt: expected from 1 to"),
            ({"prompt": ["a", 1]}, r"prompt\[1\]: expected a text, an array of tokens"),
            ({"prompt": [True]}, r"prompt\[0\]: expected a text, an array of tokens"),
            ({"prompt": 5}, r"prompt\[0\]: expected a text, an array of tokens"),
            ({"prompt": "a", "n": 0}, "n: expected an integer from 1"),
            ({"prompt": "a", "best_of": 1_000}, "best_of: expected an integer from 1"),
            ({"prompt": "a", "max_tokens": -1}, "max_tokens: expected an integer from 0"),
            ({"prompt": ["a", "b"], "max_tokens": OUTPUT_TOKENS_MAX}, "max_tokens: expected at most .* 2 replies"),
            ({"prompt": "a", "suffix": 1}, "suffix: expected a text"),
            ({"prompt": "a", "model": ""}, "model: expected a text"),
        ],
    )
    def test_what_decides_has_to_be_what_it_should(self, members: dict[str, Any], message: str) -> None:
        with pytest.raises(BodyUnreadable, match=message):
            complete(**members)

    def test_edits(self) -> None:
        body = b'{"model": "m", "prompt": "a", "tier": "x"}'
        edits = RequestEdits(request_usage=True, max_output_tokens=7, strip_fields=("tier",))
        assert json.loads(OPENAI_COMPLETIONS.edit_request(body, edits, vendor=OPENAI)) == {
            "model": "m",
            "prompt": "a",
            "max_tokens": 7,
            "stream_options": {"include_usage": True},
        }
        assert OPENAI_COMPLETIONS.edit_request(body, RequestEdits(), vendor=OPENAI) == body


class TestEmbeddings:
    def test_the_plain_case(self) -> None:
        assert embed("Hi") == RequestFacts(
            model="m",
            streamed=False,
            prompt=Prompt(texts=("Hi",)),
            max_output_tokens=0,
            input_kinds=("input", "image_input"),
        )

    def test_tokens_are_counted_as_they_are(self) -> None:
        assert embed([[1, 2, 3], [4]]).prompt == Prompt(texts=(), overhead_tokens=4)

    def test_objects_with_texts_and_images(self) -> None:
        prompt = embed(
            [
                {"text": "a heron"},
                {"image": "https://example.org/a.png"},
                {"content": [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {"url": "u"}}]},
                {"content": ["three", {"video": {"url": "v"}}]},
            ],
            vendor=VOYAGE,
        ).prompt
        assert prompt.texts == ("a heron", "two", "three")
        assert prompt.images == (Image(b""), Image(b""))
        assert prompt.unread_bytes == len('{"url":"v"}')
        assert not prompt.exact

    def test_the_deployment_is_the_model(self) -> None:
        path = "/openai/deployments/small-embedder/embeddings"
        assert read(OPENAI_EMBEDDINGS, {"input": "a"}, path=path).model == "small-embedder"
        raw = RawRequest(b'{"input": "a"}', path=path)
        assert OPENAI_EMBEDDINGS.read_request(raw, vendor=OPENAI).model == "small-embedder"

    @pytest.mark.parametrize("value", [None, 1, [], [None], {"a": 1, "b": [[]]}])
    def test_what_has_no_known_shape_is_refused_or_bounded(self, value: Any) -> None:
        if isinstance(value, dict):
            assert embed(value).prompt.unread_bytes > 0
        else:
            with pytest.raises(BodyUnreadable, match="input"):
                embed(value)

    def test_edits(self) -> None:
        body = b'{"model": "m", "input": "a", "user": "ann"}'
        edits = RequestEdits(strip_fields=("user",))
        assert OPENAI_EMBEDDINGS.edit_request(body, edits, vendor=OPENAI) == b'{"model": "m", "input": "a"}'


class TestRerank:
    def test_the_query_is_read_with_every_document(self) -> None:
        facts = read(OPENAI_RERANK, {"query": "herons?", "documents": ["one", {"text": "two"}, "three"]}, vendor=VOYAGE)
        assert facts.prompt.texts == ("herons?", "one", "two", "three")
        assert facts.prompt.unread_bytes == 2 * len('"herons?"')
        assert facts.max_output_tokens == 0

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"query": "a"}, "documents: expected an array"),
            ({"query": "a", "documents": "b"}, "documents: expected an array"),
            ({"documents": ["b"]}, r"query\[0\]: expected a text"),
            ({"query": "a", "documents": []}, "documents: expected from 1"),
        ],
    )
    def test_what_decides_has_to_be_what_it_should(self, members: dict[str, Any], message: str) -> None:
        with pytest.raises(BodyUnreadable, match=message):
            read(OPENAI_RERANK, members)


WHOLE: list[tuple[WireFormat, dict[str, Any]]] = [
    (OPENAI_COMPLETIONS, {"model": "m", "prompt": ["a", [1, 2]], "n": 2, "best_of": 3, "suffix": "z", "stream": True}),
    (OPENAI_EMBEDDINGS, {"model": "m", "input": ["a", {"content": [{"text": "b"}, {"image_url": {"url": "u"}}]}]}),
    (OPENAI_RERANK, {"model": "m", "query": {"text": "a"}, "documents": ["b", {"image": "u"}]}),
]


@UNHURRIED
@given(data=st.data(), index=st.integers(0, len(WHOLE) - 1))
def test_no_other_value_raises_anything_else(data: st.DataObject, index: int) -> None:
    wire, members = WHOLE[index]
    read_or_refuse(wire, json.dumps(with_other_values(data, members)).encode())


@UNHURRIED
@given(seed=st.integers(0, 2**32), index=st.integers(0, len(WHOLE) - 1))
def test_no_garbled_body_raises_anything_else(seed: int, index: int) -> None:
    wire, members = WHOLE[index]
    read_or_refuse(wire, garbled(json.dumps(members).encode(), Random(seed)))


@pytest.mark.parametrize("wire", [wire for wire, _ in WHOLE], ids=lambda wire: wire.name)
def test_deeply_nested_bodies_are_read_or_refused(wire: WireFormat) -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    body = b'{"model":"m","prompt":[%b],"input":[%b],"query":%b,"documents":["a",%b]}' % (deep, deep, deep, deep)
    read_or_refuse(wire, body)


def read_or_refuse(wire: WireFormat, body: bytes) -> None:
    try:
        facts = wire.read_request(RawRequest(body), vendor=OPENAI)
    except BodyUnreadable:
        return
    assert facts.choices >= 1
