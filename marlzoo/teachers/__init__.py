"""Trained behavior teams that ship with the package (small files, safe format)."""
