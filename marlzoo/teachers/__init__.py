"""Behavior policies that ship with the package (small files, safe format)."""
