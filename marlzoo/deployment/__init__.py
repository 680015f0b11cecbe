"""Trained policies outside of training: load, export, render."""
