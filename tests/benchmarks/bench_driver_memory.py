"""Memory of a driver that takes the boxes of 10,000 and of 100,000 keyframes, 40 each, from the actors."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import numpy as np, pyarrow as pa
from pdetr3d.data.box_table import COLUMNS, SCHEMA, BoxTableWriter

def anonymous_mib():  # pages of mapped files are the kernel's to take back
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

samples, boxes, batch = int(sys.argv[1]), 40, 4
tokens = [f"{i:032x}" for i in range(samples)]
columns = {name: np.random.default_rng(0).uniform(0.5, 1, boxes * batch) for name in COLUMNS}
columns["label"] = np.zeros(boxes * batch, np.int64)
before = peak = anonymous_mib()
writer = BoxTableWriter(tokens, 1)
for i in range(0, samples, batch):
    columns["sample_token"] = np.repeat(tokens[i : i + batch], boxes)
    columns["checkpoint"] = np.zeros(boxes * batch, np.int64)
    writer.add(pa.table({n: pa.array(columns[n], SCHEMA.field(n).type) for n in SCHEMA.names}))
    if i % 400 == 0:
        peak = max(peak, anonymous_mib())
[table] = writer.close()
total = 0
for i, token in enumerate(tokens):
    total += len(table[token])
    if i % 400 == 0:
        peak = max(peak, anonymous_mib())
assert total == samples * boxes
print(json.dumps({"samples": samples, "before_mib": before, "peak_mib": max(peak, anonymous_mib())}))
"""


def measured(samples: int) -> dict[str, float]:
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(samples)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_memory_of_predictions_does_not_grow_with_their_number() -> None:
    small, large = measured(10_000), measured(100_000)
    print(f"\n{small}\n{large}")
    # The tokens themselves are held: 100 bytes each, a few percent of a driver's half a GiB.
    assert large["peak_mib"] - large["before_mib"] < 1.1 * (small["peak_mib"] - small["before_mib"]) + 20
