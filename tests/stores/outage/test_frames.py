"""Lines of a journal: whatever a crash cut short, and whatever was damaged, the others are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.stores.outage.frames import framed, frames

PAYLOADS = [b"{}", b'{"type":"held","n":1}', b"", b"x" * 300]
LINES = [framed(payload) for payload in PAYLOADS]
FILE = b"".join(LINES)


def test_what_was_written_is_read() -> None:
    found = list(frames(FILE))
    assert [frame.payload for frame in found] == PAYLOADS
    assert [frame.raw for frame in found] == LINES
    assert found[-1].end == len(FILE)


def test_reading_begins_where_it_is_told() -> None:
    first, *_ = frames(FILE)
    assert [frame.payload for frame in frames(FILE[first.end :])] == PAYLOADS[1:]


@pytest.mark.parametrize("length", range(len(FILE) + 1))
def test_a_file_that_was_cut_anywhere_has_its_whole_lines_and_no_damage(length: int) -> None:
    ends = [sum(map(len, LINES[: number + 1])) for number in range(len(LINES))]
    # A line without its line end is whole.
    whole = sum(end - 1 <= length for end in ends)
    assert [frame.payload for frame in frames(FILE[:length])] == PAYLOADS[:whole]


@pytest.mark.parametrize("place", range(len(FILE) - len(LINES[-1])))
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_byte_that_was_damaged_costs_its_own_line_only(place: int, flip: int) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= flip
    found = list(frames(bytes(damaged)))
    number = next(i for i in range(len(LINES)) if place < sum(map(len, LINES[: i + 1])))
    others = [payload for index, payload in enumerate(PAYLOADS) if index != number]
    read = [frame.payload for frame in found if frame.payload is not None]
    assert read in (others, PAYLOADS)
    assert read == PAYLOADS or any(frame.payload is None for frame in found)
    assert b"".join(frame.raw for frame in found) == damaged


@given(st.binary(max_size=400))
def test_whatever_stands_in_a_file_is_read_to_its_end(data: bytes) -> None:
    end = 0
    for frame in frames(data):
        assert frame.raw == data[end : frame.end]
        end = frame.end
    assert b"\n" not in data[end:]
