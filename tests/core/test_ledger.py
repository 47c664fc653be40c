from __future__ import annotations

import pytest

from policyd.core.ledger import Account


@pytest.mark.parametrize(
    "account",
    [
        Account("budget", "project=acme,user=ann", 5, 10, 20),
        Account("budget", "", 0, None, None),
        Account("budget", "project=a%7Cb-c", 7, 2**53, None),
    ],
)
def test_an_account_is_read_back_from_its_key(account: Account) -> None:
    assert Account.of_key(account.key, keep_until_ms=account.keep_until_ms) == account


@pytest.mark.parametrize(("ends_at_ms", "ended"), [(None, False), (101, False), (100, True), (99, True)])
def test_a_window_has_ended_at_its_end(ends_at_ms: int | None, ended: bool) -> None:
    assert Account("budget", "", 0, ends_at_ms, None).has_ended(100) is ended
