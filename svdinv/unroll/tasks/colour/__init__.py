"""Colour photographs from a part of their samples."""
