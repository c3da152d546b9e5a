"""`make bench`: every `bench_*.py` of this folder; `python -m tests.benchmarks train` runs one."""

import importlib
import sys
from pathlib import Path

found = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
for name in sys.argv[1:] or found:
    sys.stdout.write(f"--- {name}\n")
    importlib.import_module(f"tests.benchmarks.bench_{name}").main()
