"""The contract between the two programs: what a shard set and a token file are, and nothing of how they came to be.

`pipeline` writes them, `trainer` reads them; this package imports neither, and knows no audio and no model.
"""
