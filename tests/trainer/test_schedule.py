"""trainer.schedule: the share of dropout follows from the epochs of a training."""

import pytest

from trainer.schedule import dropout_share


@pytest.mark.parametrize(
    ("epochs", "steps", "share"),
    [(0.0, 7, 1.0), (0.0, None, 1.0), (15.0, None, 0.0), (15.0, 150, 0.1), (15.0, 1_500, 1.0), (15.0, 9_000, 1.0)],
)
def test_a_training_of_few_epochs_has_less_dropout(epochs: float, steps: int | None, share: float) -> None:
    assert dropout_share(epochs, steps_per_epoch=100, steps=steps) == pytest.approx(share)
