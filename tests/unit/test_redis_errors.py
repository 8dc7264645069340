"""What is told of an error: why there is no connection, and never what a command held."""

from __future__ import annotations

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from uploadcore_redis.errors import reason_of


@pytest.mark.parametrize("kind", [ResponseError, NoPermissionError, AuthenticationError])
def test_what_the_server_quotes_of_a_command_is_not_told(kind: type[Exception]) -> None:
    answer = kind("unknown command 'EVALSHA', with args beginning with: 'a secret'")
    assert reason_of(answer) == kind.__name__
