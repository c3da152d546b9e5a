"""Samples <-> codes: EnCodec, its weights, precision and score."""
