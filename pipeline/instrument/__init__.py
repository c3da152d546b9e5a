"""From candidates to a playable instrument."""
