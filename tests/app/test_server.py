"""What the parent of the app processes is told; that it keeps to it is granian's."""

from app.server import HEADER_TIMEOUT_MS, _granian
from app.settings import load_app_settings
from tests.contracts.test_settings import REQUIRED


def test_t20_heads_are_given_fifteen_seconds_and_connections_are_bounded() -> None:
    server = _granian(load_app_settings({**REQUIRED, "GATEWAY_MAX_CONNECTIONS": "100"}))

    assert HEADER_TIMEOUT_MS == 15_000
    assert server.http1_settings is not None
    assert server.http1_settings.header_read_timeout == HEADER_TIMEOUT_MS
    assert server.backpressure == 100
