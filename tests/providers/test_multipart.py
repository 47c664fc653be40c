"""Forms: what clients' libraries write is read, and nothing that two parsers could read in two ways."""

from __future__ import annotations

from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.errors import BodyUnreadable
from policyd.providers.multipart import PARTS_MAX, Form, is_form, read_form, remove_fields
from tests.providers.garbling import UNHURRIED, garbled

TYPE = "multipart/form-data; boundary=b"
MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
FILE = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\x00\xff\r\n"
)
END = b"--b--\r\n"


def encoded(data: dict[str, Any], files: Any) -> tuple[bytes, str]:
    """A form as httpx writes it, which is what OpenAI's SDK sends."""
    request = httpx.Request("POST", "http://x", data=data, files=files)
    return request.read(), request.headers["content-type"]


def part(disposition: bytes, content: bytes = b"m", *, more: bytes = b"") -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition + more + b"\r\n\r\n" + content + b"\r\n"


def test_what_httpx_writes() -> None:
    content = b"\x00\r\n--\r\n--x" * 1_000
    body, content_type = encoded({"model": "m", "n": "2", "user": "Zoë"}, {"file": ('a "b" \\.wav', content)})
    assert read_form(body, content_type) == Form(
        fields={"model": "m", "n": "2", "user": "Zoë"}, file_bytes={"file": (len(content),)}
    )


def test_arrays_of_files_and_of_fields() -> None:
    body, content_type = encoded({"include[]": ["a", "b"]}, [("image[]", ("a", b"12")), ("image[]", ("b", b"345"))])
    form = read_form(body, content_type)
    assert form.file_bytes == {"image[]": (2, 3)}
    assert form.fields["include[]"] in "ab"


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="model"',
        b"form-data; name=model",
        b'Form-Data;name="model"',
    ],
)
def test_dispositions_of_a_field(disposition: bytes) -> None:
    assert read_form(part(disposition) + END, TYPE) == Form({"model": "m"}, {})


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="file"; filename="a.wav"',
        b"form-data; name=file; filename=a.wav; filename*=utf-8''a.wav",
        b'form-data; name="file"; filename="name=\\"model\\""',
        b'form-data; name="file"; filename=""',
    ],
)
def test_dispositions_of_a_file(disposition: bytes) -> None:
    assert read_form(part(disposition) + END, TYPE) == Form({}, {"file": (1,)})


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ('multipart/form-data; boundary="b"', MODEL + END),
        ("Multipart/Form-Data;Boundary=b", MODEL + END),
        (TYPE, MODEL + b"--b--"),
        (TYPE, MODEL.replace(b"Content-Disposition", b"CONTENT-disposition") + END),
        (TYPE, part(b'form-data; name="model"', more=b"\r\nContent-Transfer-Encoding: 8bit") + END),
    ],
)
def test_other_ways_to_write_the_same(content_type: str, body: bytes) -> None:
    assert read_form(body, content_type).fields == {"model": "m"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not begin"),
        (b"\r\n" + MODEL + END, "does not begin"),
        (b"preamble\r\n" + MODEL + END, "does not begin"),
        (MODEL, "does not end"),
        (MODEL + END + MODEL + END, "goes on after its end"),
        (MODEL + b"--b x\r\n" + MODEL[5:] + END, "headers that are not plain"),
        (MODEL.replace(b"\r\n", b"\n") + END, "does not end|not plain"),
        (b"--b\r\n\r\nm\r\n" + END, "headers that are not plain"),
        (part(b"attachment; name=model") + END, "headers that are not plain"),
        (part(b'form-data; name="model"; name="file"') + END, "headers that are not plain"),
        (part(b"form-data; name*=utf-8''model") + END, "headers that are not plain"),
        (part(b'form-data; name="mod\\el"') + END, "headers that are not plain"),
        (part(b'form-data; name="mod%65l"') + END, "headers that are not plain"),
        (part(b'form-data; name="model";\r\n filename="a"') + END, "headers that are not plain"),
        (part(b'form-data; name="a"', more=b'\r\nContent-Disposition: form-data; name="b"') + END, "not plain"),
        (part(b'form-data; name="a"', more=b"\r\nContent-Transfer-Encoding: base64") + END, "not plain"),
        (part(b'form-data; name="a"', more=b"\r\nX: " + b"x" * 5_000) + END, "headers that are not plain"),
        (part(b'form-data; name="model"', b"\xff") + END, "model: the field is not UTF-8"),
        (MODEL + part(b'form-data; name="model"', b"other") + END, "model: given twice"),
        (MODEL + part(b'form-data; name="model"; filename="a"') + END, "model: given as a field and as a file"),
        (MODEL * (PARTS_MAX + 1) + END, "more than"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BodyUnreadable, match=message):
        read_form(body, TYPE)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; charset=utf-8; boundary=b",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/mixed; boundary=b",
    ],
)
def test_a_boundary_has_to_be_plain(content_type: str) -> None:
    with pytest.raises(BodyUnreadable, match="no plain boundary"):
        read_form(MODEL + END, content_type)


def test_which_bodies_are_forms() -> None:
    assert is_form(TYPE)
    assert is_form("MULTIPART/form-data")
    assert not is_form("application/json")
    assert not is_form("multipart/mixed; boundary=b")
    assert not is_form("")


def test_fields_are_removed_and_the_rest_stays_as_it_was() -> None:
    user = part(b'form-data; name="user"', b"ann")
    assert remove_fields(user + MODEL + FILE + END, {"user"}) == MODEL + FILE + END
    assert remove_fields(MODEL + user + FILE + user + END, {"user"}) == MODEL + FILE + END
    assert remove_fields(MODEL + FILE + END, {"user"}) == MODEL + FILE + END
    assert read_form(remove_fields(MODEL + END, {"model"}), TYPE) == Form({}, {})


@UNHURRIED
@given(
    fields=st.dictionaries(st.text("abcxyz_[].-09", min_size=1, max_size=9), st.text(max_size=20), max_size=5),
    content=st.binary(max_size=300),
)
def test_whatever_is_in_a_form_comes_out_again(fields: dict[str, str], content: bytes) -> None:
    body, content_type = encoded(fields, {"file": ("a", content)})
    assert read_form(body, content_type) == Form(fields, {"file": (len(content),)})


@UNHURRIED
@given(seed=st.integers(0, 2**32))
def test_no_garbled_form_raises_anything_else(seed: int) -> None:
    body = garbled(MODEL + FILE + END, Random(seed))
    try:
        form = read_form(body, TYPE)
    except BodyUnreadable:
        return
    assert sum(map(sum, form.file_bytes.values())) <= len(body)
    assert remove_fields(body, set()) == body
