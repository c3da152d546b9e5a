"""Token files and shard sets -> audio files."""
