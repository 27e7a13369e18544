"""Importing what is large."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the imports of a server: without Python's search for garbage, of which they make hardly any.

    That search is an eighth of their time. What is there afterwards stays for good and is left out of later searches.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
