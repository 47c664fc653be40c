"""An agenda gives each name once, when its time has come."""

from __future__ import annotations

from policyd.stores.agenda import Agenda


def test_what_is_due_comes_by_time_and_once() -> None:
    agenda = Agenda()
    for at_ms, name in ((30, "c"), (10, "a"), (20, "b"), (10, "a2"), (40, "d")):
        agenda.add(at_ms, name)
    assert list(agenda.take(before_ms=30)) == ["a", "a2", "b"]
    assert list(agenda.take(before_ms=30)) == []
    agenda.add(10, "again")
    assert list(agenda.take(before_ms=41)) == ["again", "c", "d"]


def test_a_name_that_is_put_back_while_others_are_taken_comes_the_next_time() -> None:
    agenda = Agenda()
    agenda.add(10, "kept")
    for name in list(agenda.take(before_ms=20)):
        agenda.add(10, name)
    assert list(agenda.take(before_ms=20)) == ["kept"]
