"""Datasets: canonical arrays, files, sampling, checks."""
