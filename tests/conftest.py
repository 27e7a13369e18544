"""What every test shares: one thread for torch, repeatable examples, and the browser."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# Both are read at import time of torch and gradio, so they are set before any test module is collected.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("wide", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("TEXTGEN_HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of the Chromium that browser tests drive.

    Without one the test is skipped, or fails where TEXTGEN_REQUIRE_BROWSER is set: `make test` sets it on machines that
    have Chromium or can install it.
    """
    path = os.environ.get("TEXTGEN_CHROMIUM") or shutil.which("chromium")
    if path:
        return path
    message = "Chromium is missing: install the 'chromium' package or set TEXTGEN_CHROMIUM to its path."
    if os.environ.get("TEXTGEN_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)
