"""The listening page: one static folder."""
