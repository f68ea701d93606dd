# %% [markdown]
# # MRI with an uncertainty map
#
# A real head slice, measured by eight simulated coils at a quarter of k-space, and a trained prior of brain images. The result
# is not one reconstruction but many that all agree with the data, and from them how sure each pixel is.

# %%
import torch

import posterior
from posterior.recipes.mri import demo_problem, figure, reconstruct
from posterior.uncertainty import plots, principal_components, summarise_regions

# %%
prior = posterior.load_prior("brain-mri")
problem = demo_problem(seed=0, acceleration=4, coils=8)
print(problem.facts)

# %% [markdown]
# Twenty draws, the fewest that support a 90 % interval with one to spare, in five steps each to keep this page quick; the
# command line takes ten.

# %%
result = reconstruct(problem, prior, posterior.GaussianBridge(steps=5), draws=20, seed=0)
for row in result.table:
    print(f"{row['reconstruction']:<15} {row['PSNR']:.1f} dB")
print(f"90 % intervals hold {100 * result.interval_coverage:.1f} % of the true pixels inside the head")

# %%
figure(result)

# %% [markdown]
# The draws themselves, and what each adds to their mean. Where they differ, the data did not decide.

# %%
plots.samples(result.draws, 4)

# %%
plots.profile(result.draws, levels=(0.9, 0.5))

# %% [markdown]
# The principal components say in which patterns the reconstruction may be wrong. Twenty draws have nineteen, and where no
# pattern stands out each holds a nineteenth of the variance, 5 %. So it is here: what is not known is fine-grained and spread
# over many patterns, and more draws would be needed to tell them apart.

# %%
magnitude = result.draws.magnitude()
plots.components(principal_components(magnitude, 3), magnitude)

# %% [markdown]
# The uncertainty of a regional mean does not follow from the pixels' standard deviations, since their errors go together. It
# follows from the draws, and has to be checked like theirs: on held-out crops, with this prior, 90 % intervals of pixels hold
# what they promise and those of regional means hold less, until they are [repaired](../results-calibration.md).

# %%
region = torch.zeros(magnitude.event_shape, dtype=torch.bool)
region[110:140, 110:140] = True
for summary in summarise_regions(magnitude, {"thirty pixels square": region}):
    print(summary)

# %%
result.draws
