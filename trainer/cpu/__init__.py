"""Sampling on a CPU: a step of the decoder, its heads and the draws, as loops that numba compiles."""
