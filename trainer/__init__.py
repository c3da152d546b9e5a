"""Tokens -> model -> tokens: trains on shard sets and samples token files. Knows no codec and no audio."""
