"""Everything about the wire is tested twice: with the compiled helpers, and with their twins in Python."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def both(helpers: str) -> str:
    """Who cuts frames and checks batches."""
    return helpers
