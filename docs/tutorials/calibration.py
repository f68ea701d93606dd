# %% [markdown]
# # Is my posterior calibrated?
#
# A standard deviation that nobody has checked is a picture, not a measurement. The check is simple: take truths whose
# posterior you can draw from, simulate their data, and see whether the truth is a draw like any other. Nothing has to be known
# in closed form. Here it is, which shows what the checks see.

# %%
from dataclasses import replace

import torch

import posterior
from operators import Inpainting
from posterior.uncertainty import (
    assess,
    attach,
    calibrate,
    conformal_risk_control,
    gaussian_experiment,
    plots,
    report,
)

# %% [markdown]
# A random field on a grid of 12 x 12, of which one value in three is measured.

# %%
size = 12
distance = torch.cdist(*[torch.cartesian_prod(*[torch.arange(size).double()] * 2)] * 2)
covariance = torch.exp(-((distance / 3.0) ** 2) / 2) + 1e-4 * torch.eye(size * size)
prior = posterior.GaussianPrior(torch.zeros(1, size, size), covariance, units="K")
mask = (torch.rand(1, size, size, generator=torch.Generator().manual_seed(3)) < 0.33).double()
experiment = gaussian_experiment(Inpainting(mask), sigma=0.1)

# %% [markdown]
# Draw once, score many: `calibrate` keeps truths, data and draws of every trial, and goes on where it stopped if it is given a
# folder. First a sampler that is exact for such priors.

# %%
trials = calibrate(prior, experiment, posterior.GaussianBridge(steps=5), trials=60, draws=39, seed=0)
found = assess(trials)
print(found)

# %%
plots.assessment(found, "K")

# %% [markdown]
# Then DPS, whose guidance takes the denoiser's guess for the truth, at its default step size.

# %%
worse = calibrate(prior, experiment, posterior.DPS(steps=50), trials=60, draws=39, seed=0)
judged = assess(worse)
print(judged)

# %%
both = {"GaussianBridge": found, "DPS": judged}
plots.coverage([replace(a.findings["SBC pixels"], name=name) for name, a in both.items()])

# %% [markdown]
# Below the diagonal intervals are too narrow, above it too wide. In the histogram of ranks the first is a bowl, the truth too
# often outside all draws, and the second a hump.

# %%
plots.rank_histogram(judged.findings["SBC pixels"])

# %% [markdown]
# ## Repair
#
# Conformal risk control widens or narrows the intervals by one factor, chosen on half of the trials so that on average over
# problems exchangeable with these they hold what they promise. What it assumes is printed with it.

# %%
half, other = worse.split(30)
repair = conformal_risk_control(half, level=0.9)
print(repair)

# %% [markdown]
# ## Keep the evidence with a result
#
# A file with draws can carry what was found about their sampler, and a page for people who have no Python is made of it.

# %%
truth = trials[0].truth[None]
likelihood = experiment(truth, torch.Generator().manual_seed(7))  # new data of the first truth
draws = posterior.sample(prior, likelihood, posterior.GaussianBridge(steps=5), draws=39, seed=0)
tree = draws.to_datatree(likelihood)
attach(tree, found, "GaussianBridge(steps=5) on 60 simulated fields of the same prior, 39 draws each")
page = report(tree, title="A field from one third of its values")
print(f"{len(page) / 2**20:.1f} MiB of HTML, {page.count('<figure>')} figures")

# %%
draws.plot(truth[0])
