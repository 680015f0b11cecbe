"""Losses, targets, returns and action search that methods share."""
