"""Put the findings of ``posterior check-prior`` on the card of a prior.

``python data/training/card_checks.py data/priors/NAME NAME-check/check.json --command "posterior check-prior NAME ..."``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from posterior.recipes.training.card import page


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", type=Path, help="folder of the prior, written by posterior train")
    parser.add_argument("check", type=Path, help="check.json")
    parser.add_argument("--command", required=True, help="how the check was run")
    args = parser.parse_args()
    found = json.loads(args.check.read_text())
    sentences = [f"{v['check']}: {v['grade'].upper()}. {v['sentence']}" for v in found["verdicts"]]
    known = found["training_statistics"]
    if known is not None:
        sentences.append(
            f"the training fields themselves, asked the same: mean off by {known['bias']:.3g} standard deviations; standard "
            f"deviation pooled {known['pooled_std'][0]:.3f} times that of held-out fields, pointwise off by "
            f"{100 * known['std_deviation']:.1f} % beyond chance; "
            f"correlations differ by at most {known['correlation_error']:.3g}"
        )
    path = args.prior / "posterior.json"
    config = json.loads(path.read_text())
    config["card"]["checks"] = [f"`{args.command}`", *sentences]
    path.write_text(json.dumps(config, indent=2) + "\n")
    (args.prior / "README.md").write_text(page(args.prior.name, config["card"]))


if __name__ == "__main__":
    main()
