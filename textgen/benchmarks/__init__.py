"""Measurements; each program prints one JSON line last."""
