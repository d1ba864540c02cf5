"""A backend for each test, which keeps nothing of an exchange that has ended."""

from collections.abc import Iterator

import pytest

from tests.telemetry.kit import Backend


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    assert not backend.telemetry._spans._exchanges, "nothing is kept of an exchange that has ended"
    assert not backend.telemetry._spans._verifications
    backend.close()
