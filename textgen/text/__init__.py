"""Bytes → text → token ids, and back."""
