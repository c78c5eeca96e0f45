"""How much of the Hessian's top-10 space the components of updates, weights and gradients hold, on the demo's net.

Trains and analyses the digits network from several seeds and prints a Markdown table: smallest, median and largest
captured share over the seeds, for every stage, window, source and number of components, beside the two nulls.

    python benchmarks/demo_agreement.py --seeds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from thalweg.demo import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    count = parser.parse_args().seeds
    found: dict[tuple[str, str, str, int], list[tuple[float, float, float]]] = {}
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            result = demo(Path(folder) / "run", seed=seed)
        for stage in result["stages"]:
            for row in stage["agreement"]:
                key = stage["name"], row["window_name"], row["source"], row["components"]
                nulls = row["nulls"]
                values = row["captured"], nulls["uniform"]["expected"], nulls["layer_matched"]["expected"]
                found.setdefault(key, []).append(values)
    print("| Hessian at | window | source | components | captured: min / median / max | uniform | layer-matched |")
    print("|---|---|---|---|---|---|---|")
    for (stage, window, source, components), rows in found.items():
        captured = [row[0] for row in rows]
        spread = f"{min(captured):.3f} / {statistics.median(captured):.3f} / {max(captured):.3f}"
        uniform, matched = (statistics.median(row[i] for row in rows) for i in (1, 2))
        print(f"| {stage} | {window} | {source} | {components} | {spread} | {uniform:.4f} | {matched:.4f} |")


if __name__ == "__main__":
    main()
