"""Where our servers may listen."""

from __future__ import annotations

import pytest

from treehead.errors import UsageError
from treehead.server import check_listening_address

PUBLIC = "0.0.0.0:8461"


@pytest.mark.parametrize("tls", [None, False, True])
def test_a_loopback_address_needs_neither_tls_nor_leave(tls: bool | None) -> None:
    check_listening_address("127.0.0.1:0", insecure=False, tls=tls)


def test_an_address_that_others_reach_needs_tls_or_leave() -> None:
    check_listening_address(PUBLIC, insecure=False, tls=True)
    for tls in (None, False):
        check_listening_address(PUBLIC, insecure=True, tls=tls)
        with pytest.raises(UsageError, match=r"--http 0\.0\.0\.0:8461 can be reached .* has no TLS: .*--insecure"):
            check_listening_address(PUBLIC, insecure=False, tls=tls, flag="--http")


def test_who_can_have_tls_is_told_how() -> None:
    for tls, is_told in ((False, True), (None, False)):
        with pytest.raises(UsageError) as caught:
            check_listening_address(PUBLIC, insecure=False, tls=tls)
        assert ("--tls-cert and --tls-key" in str(caught.value)) is is_told


@pytest.mark.parametrize("tls", [None, True])
def test_neither_tls_nor_leave_makes_an_address_of_what_is_none(tls: bool | None) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        check_listening_address("nowhere", insecure=True, tls=tls)
