"""trainer.decoder: x-transformers is whole, and what it does not need is loaded by its first use."""

import subprocess
import sys

from tests.support import ROOT

PROGRAM = """
import sys
import trainer.train, trainer.sample, trainer.preview
slow = {"einx._src", "sympy", "torch._dynamo", "numba", "llvmlite"}
print(sorted(slow & sys.modules.keys()))
import torch, x_transformers.x_transformers as parts
bias = parts.AlibiPositionalBias(heads=2, total_heads=2)(3, 3)  # calls einx
print(bias.shape == (2, 3, 3) and "einx._src" in sys.modules)
"""


def test_a_start_of_the_trainer_loads_neither_einx_nor_numba_and_einx_works_when_it_is_called() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "True"]
