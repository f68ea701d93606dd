# %% [markdown]
# # Weather from stations
#
# Sea-level pressure over the North Atlantic from thirty stations: a trained prior of daily fields, a station operator, and an
# ensemble that says where the map can be trusted.

# %%
import posterior
from posterior.recipes.weather import assimilate, demo_problem, figure
from posterior.uncertainty import exceedance, plots

# %% [markdown]
# The prior knows the calendar: on a day of January its fields vary about the mean of that day. The truth is one draw of it,
# and the stations report it with errors of 1 hPa.

# %%
prior = posterior.load_prior("slp-north-atlantic")
problem = demo_problem(prior, seed=0, stations=30, sigma=1.0)
problem.stations.head()

# %%
analysis = assimilate(problem, posterior.GaussianBridge(steps=10), draws=32, seed=0)
figure(analysis)

# %% [markdown]
# Fair CRPS against the truth, in hPa; lower is better. Optimal interpolation is the exact answer of the Gaussian part of the
# prior, and the ETKF what operational ensembles do.

# %%
for name, score in analysis.fields.items():
    print(f"{name:<24} CRPS {score.crps:.2f} hPa")

# %%
draws = analysis.draws
places = problem.stations[["latitude", "longitude"]].to_numpy()
plots.field(draws, draws.std, "standard deviation, and the stations", points=places)

# %% [markdown]
# Probabilities follow by counting draws: here, of pressure below 1000 hPa.

# %%
plots.field(draws, 1 - exceedance(draws, 1000.0), "P(pressure < 1000 hPa)", kind="probability", points=places)

# %%
plots.profile(draws, "longitude")

# %%
draws.plot(problem.truth[0])
