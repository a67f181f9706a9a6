"""Nobody keeps others from moving files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from teleport.clock import SystemClock
from teleport.errors import LimitExceeded
from teleport.web.file_routes import OF_SESSION, OF_USER, FileRoutes


@dataclass
class Session:
    """What is counted by."""

    id: str
    user: str

    @contextmanager
    def socket(self) -> Iterator[None]:
        yield


def test_a_user_with_many_logins_moves_no_more_files_than_a_user_may() -> None:
    nothing = cast(Any, None)
    routes = FileRoutes(nothing, nothing, nothing, "example.com", nothing, SystemClock())
    with ExitStack() as stack:
        for number in range(OF_USER):
            session = cast(Any, Session(f"s{number // OF_SESSION}", "ann"))
            stack.enter_context(routes._counted(session))
        with pytest.raises(LimitExceeded, match="of one user"), routes._counted(cast(Any, Session("new", "ann"))):
            pass
        with routes._counted(cast(Any, Session("other", "bob"))):
            pass
        with (
            pytest.raises(LimitExceeded, match=f"more than {OF_SESSION} files at"),
            routes._counted(cast(Any, Session("s0", "ann"))),
        ):
            pass
    with routes._counted(cast(Any, Session("new", "ann"))):
        assert routes._of_user == {"ann": 1}
