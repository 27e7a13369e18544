"""The page: widgets and wiring. Whatever they do is done by `textgen.studio`.

Gradio reads these variables when it is first imported: no analytics, no telemetry, no server-side rendering (it would
hide routes of ours).

On ZeroGPU the package `spaces` has to come before torch: it changes what torch sees of the GPU.
"""

from __future__ import annotations

import os
from contextlib import suppress

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_SSR_MODE", "false")

if "SPACES_ZERO_GPU" in os.environ:
    with suppress(ImportError):
        import spaces  # noqa: F401
