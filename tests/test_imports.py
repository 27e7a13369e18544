from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]


def test_garbage_is_looked_for_again_after_imports_also_where_one_fails() -> None:
    # In a process of its own: what it freezes is never looked through again.
    program = """
        import gc
        from textgen.imports import quick_imports

        for module in ("json", "there_is_no_such_module"):
            try:
                with quick_imports():
                    assert not gc.isenabled()
                    __import__(module)
            except ImportError:
                assert module != "json"
            assert gc.isenabled()
            assert gc.get_freeze_count() > 0
    """
    subprocess.run([sys.executable, "-c", dedent(program)], cwd=ROOT, check=True)
