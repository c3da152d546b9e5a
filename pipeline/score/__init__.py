"""Measurements of sampled notes beside real ones."""
