"""Models for other programs: ONNX graphs, the vocabulary as JSON, and a page that generates."""

from __future__ import annotations

from textgen.export.onnx_folder import export_onnx

__all__ = ["export_onnx"]
