"""Audio <-> codes: encode a folder of notes once, decode what a model samples."""
