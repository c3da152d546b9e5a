"""Samples <-> codes: EnCodec, its weights and what it keeps of a note."""
