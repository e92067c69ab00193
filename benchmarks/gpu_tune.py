"""The same on a GPU, for random Llamas of one and eight billion parameters with LoRA on q and v, in bf16.

    python benchmarks/gpu_tune.py [--model 1b|8b] [--length 512] …    (the options of benchmarks/tune.py)

Not tried yet: no GPU was at hand when it was written. Each arm holds a copy of the model; an 8B arm takes 16 GB.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tune import main

if __name__ == "__main__":
    given = sys.argv[1:]
    for option, default in (("--model", "1b"), ("--length", "512"), ("--dtype", "bfloat16"), ("--arms", "sample,gate")):
        if option not in given:
            given += [option, default]
    sys.argv[1:] = given
    sys.exit(main())
