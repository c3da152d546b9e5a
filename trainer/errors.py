"""Errors of training and sampling that the user can mend."""

from shards.errors import UserError


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or does not fit the others or the shard set."""


class TrainError(UserError):
    """A run that cannot start, go on or be sampled."""
