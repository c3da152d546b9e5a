"""A folder of audio -> a shard set."""
