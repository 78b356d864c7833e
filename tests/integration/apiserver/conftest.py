from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.apiserver.server import Api, api_server


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with api_server() as found:
        yield found
