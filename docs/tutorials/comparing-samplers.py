# %% [markdown]
# # Comparing samplers on a known posterior
#
# A sampler is only as good as its draws, and how good draws are can be told exactly where the posterior is known. Here the
# prior is a mixture of nine Gaussians in the plane and the datum one noisy coordinate of a skewed sum: the posterior is again
# a mixture, with several modes, some of them small.

# %%
import time

import torch
from deepinv.physics import LinearPhysics

import posterior
from posterior.figures.style import BLUE, new_figure

# %%
grid = torch.arange(-1, 2, dtype=torch.float64)
prior = posterior.GaussianMixturePrior(8 * torch.cartesian_prod(grid, grid), torch.arange(1.0, 10.0), 1.0)
row = torch.tensor([[0.8, 0.3]], dtype=torch.float64)
operator = LinearPhysics(A=lambda x, **_: x @ row.T, A_adjoint=lambda y, **_: y @ row)
likelihood = posterior.GaussianLikelihood(operator, torch.tensor([[6.0]], dtype=torch.float64), sigma=0.5)
exact = posterior.exact_posterior(prior, likelihood)

# %% [markdown]
# Two thousand draws of the exact posterior, and as many of each sampler. They all see the same likelihood with the same noise
# level; nothing was tuned.

# %%
draws = 2000
truth = exact.sample(draws, seed=1)
samplers = {
    "DPS": posterior.DPS(steps=200),
    "PiGDM": posterior.PiGDM(steps=100),
    "MMPS": posterior.MMPS(steps=100),
    "TDS": posterior.TDS(steps=100),
}
found, seconds = {}, {}
for name, sampler in samplers.items():
    start = time.perf_counter()
    found[name] = posterior.sample(prior, likelihood, sampler, draws=draws, seed=0, batch_size=draws)
    seconds[name] = time.perf_counter() - start


# %% [markdown]
# How far two clouds of draws are apart: the energy distance, zero if they come from one law. Exact draws against exact draws
# give the floor that no sampler can be expected to beat.


# %%
def energy_distance(x, y):
    """Square root of 2 E|X - Y| - E|X - X'| - E|Y - Y'|, without the zeros of the diagonals."""

    def among(z):
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float((2 * torch.cdist(x, y).mean() - among(x) - among(y)).clamp_min(0).sqrt())


def resampled(made, seed=0):
    """As many draws of equal weight."""
    g = torch.Generator().manual_seed(seed)
    return made.samples.double()[torch.multinomial(made.weights.cpu(), made.n, replacement=True, generator=g)]


print(f"{'exact draws':<12} {energy_distance(exact.sample(draws, seed=2), truth):.3f}")
for name, made in found.items():
    print(f"{name:<12} {energy_distance(resampled(made), truth):.3f}   {made.stats.nfe} calls, {seconds[name]:.1f} s")

# %% [markdown]
# The picture says what the numbers mean. Grey: exact draws; blue: the sampler's. TDS is a particle method that is exact as the
# number of particles grows, and comes close to the floor. A guided sampler follows one path to one mode: which modes it
# finds, and how often, is where it errs. The default step size of DPS was chosen for images and overshoots here; the title says
# how many of the draws leave the picture, which is as large as the exact posterior.

# %%
low, high = truth.min(0).values - 2, truth.max(0).values + 2
figure = new_figure(11, 4.6)
for ax, (name, made) in zip(figure.subplots(1, len(found), sharex=True, sharey=True), found.items(), strict=True):
    x = resampled(made)
    outside = float(((x < low) | (x > high)).any(1).double().mean())
    ax.plot(*truth.T, linestyle="none", marker=".", markersize=3, color="0.75")
    ax.plot(*x.T, linestyle="none", marker=".", markersize=3, color=BLUE, alpha=0.4)
    ax.set_title(f"{name}: {energy_distance(x, truth):.2f}" + (f"\n{100 * outside:.0f} % outside" if outside > 0.005 else ""))
    ax.set_xlim(float(low[0]), float(high[0]))
    ax.set_ylim(float(low[1]), float(high[1]))
    ax.set_aspect("equal")
    ax.set_xlabel("$x_1$")
figure.axes[0].set_ylabel("$x_2$")
figure

# %% [markdown]
# The page [How to choose a sampler](../choosing-a-sampler.md) rests on the same comparison, over many problems.
