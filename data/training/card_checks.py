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
    sentences = [_sentence(v) for v in found["verdicts"]]
    sentences += [f"training fields, asked the same: {_sentence(v)}" for v in found["training_verdicts"]]
    path = args.prior / "posterior.json"
    config = json.loads(path.read_text())
    config["card"]["checks"] = [f"`{args.command}`", *sentences]
    path.write_text(json.dumps(config, indent=2) + "\n")
    (args.prior / "README.md").write_text(page(args.prior.name, config["card"]))


def _sentence(verdict: dict[str, str]) -> str:
    return f"{verdict['check']}: {verdict['grade'].upper()}. {verdict['sentence']}"


if __name__ == "__main__":
    main()
