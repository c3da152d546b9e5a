"""Training of the embedded codec."""
