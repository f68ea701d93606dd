"""Check `brain-mri` or `brain-mri-flow` on the held-out head, and put the verdicts on its card.

``python data/training/check_brain_mri.py brain-mri``. Held-out fields are images of colin27 and training fields those of the
training subjects, both simulated in the same way, on a grid that most training batches had.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from brain_images import BrainImages

import posterior
from posterior._memory import keep_large_blocks
from posterior.uncertainty import PriorCheck, check_prior

FOLDER = Path(__file__).parent.parent / "priors"


def put_on_card(name: str, check: PriorCheck, command: str) -> None:
    """The verdicts in posterior.json, and on the page with a link to the whole report."""
    path = FOLDER / name / "posterior.json"
    config = json.loads(path.read_text())
    config["card"]["verdicts"] = [str(v) for v in check.verdicts]
    path.write_text(json.dumps(config, indent=2) + "\n")
    page = FOLDER / name / "README.md"
    before = page.read_text().partition("\n## Verdicts")[0].rstrip()
    lines = [
        "",
        "",
        "## Verdicts",
        "",
        f"`{command}`; the whole report is in check.md.",
        "",
    ]
    page.write_text(before + "\n".join([*lines, *(f"- {v}" for v in check.verdicts)]) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--training", type=int, default=160)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    prior = posterior.load_prior(args.name)
    held_out = BrainImages(3, ((args.size, args.held_out, 1.0),), held_out=True)(0)
    training = BrainImages(4, ((args.size, args.training, 1.0),))(0)
    check = check_prior(
        prior,
        held_out,
        training,
        draws=args.draws,
        steps=args.steps,
        jacobian_fields=2,
        jacobian_levels=3,
        progress=lambda what, share: print(f"{what} {100 * share:.0f} %", flush=True),
    )
    check.save(FOLDER / args.name)
    put_on_card(args.name, check, shlex.join(["python", "data/training/check_brain_mri.py", *sys.argv[1:]]))
    print(*check.verdicts, sep="\n")


if __name__ == "__main__":
    main()
