"""Environments, stepped in lockstep."""
