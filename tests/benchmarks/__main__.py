"""`make bench` runs every `bench_*.py` of this folder; `python -m tests.benchmarks train` runs that of training."""

import importlib
import sys
from pathlib import Path

benchmarks = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
for name in sys.argv[1:] or benchmarks:
    sys.stdout.write(f"--- {name}\n")
    importlib.import_module(f"tests.benchmarks.bench_{name}").main()
