"""The contract between the two programs: shard sets, token files, and all else that one writes and the other reads.

`pipeline` and `trainer` import it; it imports neither, and knows no audio and no model.
"""
