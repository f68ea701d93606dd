"""How a gridded prior compares with the Gaussian of all EOFs, of which its own reference may keep the leading ones only.

``python data/training/all_eofs.py currents-agulhas`` fits the Gaussian of the prior's configuration without ``rank``, which is
too large to ship, denoises the held-out fields with both and puts the finding on the card, after those of `card_checks.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import posterior
from posterior.priors.reference import EOFReference
from posterior.recipes.training import read_config
from posterior.recipes.training.build import standardise
from posterior.recipes.training.card import page
from posterior.recipes.training.data import load_fields
from posterior.uncertainty.prior_check.denoising import denoising_error

DATA = Path(__file__).resolve().parents[1]
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", help="name of a bundled gridded prior")
    name = parser.parse_args().prior
    config = read_config(DATA / "training" / f"{name}.toml")
    fields = load_fields(config.data)
    data = standardise(fields, config.mean)
    mask = None if fields.labels is None else fields.labels.mask
    known = config.reference
    whole = EOFReference.fit(
        data.train,
        mask=mask,
        shrinkage=known.shrinkage,
        localisation=known.localisation,
        hybrid=known.hybrid,
        leading=known.leading,
    )
    prior = posterior.load_prior(name)
    found = denoising_error(prior, data.develop, {"all EOFs": whole}, torch.tensor(LEVELS, dtype=torch.float64))
    gain = 100 * (1 - found.ratio)
    sentence = (
        f"against the optimal linear denoiser of all {len(whole.variances)} EOFs, which is not shipped: "
        f"{float(gain.min()):.1f} to {float(gain.max()):.1f} % less error from sigma {LEVELS[0]:g} to {LEVELS[-1]:g}"
    )
    for sigma, mine, linear in zip(LEVELS, found.prior, found.linear["all EOFs"], strict=True):
        print(f"sigma {sigma:<5g} network {float(mine):.4f}  Gaussian of all EOFs {float(linear):.4f}")
    print(sentence)
    folder = DATA / "priors" / name
    path = folder / "posterior.json"
    about = json.loads(path.read_text())
    command = f"`python data/training/all_eofs.py {name}`: "
    checks = [check for check in about["card"].get("checks", []) if not check.startswith(command)]
    about["card"]["checks"] = [*checks, command + sentence]
    path.write_text(json.dumps(about, indent=2) + "\n")
    (folder / "README.md").write_text(page(name, about["card"]))


if __name__ == "__main__":
    main()
