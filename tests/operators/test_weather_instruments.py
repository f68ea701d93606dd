import copy
import gzip
import io

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.io import netcdf_file

from operators import (
    AreaAverage,
    CircularOrbit,
    Grid,
    RadiosondeProfiles,
    SatelliteSwath,
    StationObservations,
    observation_sigma,
)
from operators.swath import EARTH_RADIUS
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, draw

GLOBAL = Grid(np.linspace(90, -90, 9), np.arange(0, 360, 40.0))
REGION = Grid([40, 45, 50, 55, 60, 65], np.arange(-10, 16, 5.0))
LEVELS = Grid([50, 55, 60], [350, 355, 0, 5], [1000, 850, 500, 300])


def scattered(count, south=-90.0, north=90.0, west=-180.0, east=540.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(south, north, count), rng.uniform(west, east, count)


def build(name):
    inside = scattered(7, 41, 64, -9, 14)
    return {
        "stations global": lambda: StationObservations(GLOBAL, *scattered(11)),
        "stations regional": lambda: StationObservations(REGION, *inside, channel=(2, 0), channels=3, vector=True),
        "radiosondes": lambda: RadiosondeProfiles(
            LEVELS, [[51.0], [59.0]], [[-3.0], [2.0]], [980.0, 500.0, 320.0], channel=1, channels=2
        ),
        "swath": lambda: SatelliteSwath(REGION, [44, 47, 57, 60], [-5, 9, -4, 8], radius=200.0, channels=2),
        "average": lambda: AreaAverage(GLOBAL, (4, 2), channels=2),
        "average of levels": lambda: AreaAverage(LEVELS, 2),
        "average unaligned": lambda: AreaAverage(REGION, Grid([44, 51, 58], [-6, 1, 9]), channels=2),
    }[name]()


CASES = [
    "stations global",
    "stations regional",
    "radiosondes",
    "swath",
    "average",
    "average of levels",
    "average unaligned",
]


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_is_a_linear_operator(name):
    A = build(name)
    check_adjoint(A, A.img_size)
    check_autograd(A, A.img_size)
    check_norm(A, A.img_size)
    check_precision(A, A.img_size)
    check_solvers(A, A.img_size)


@pytest.mark.parametrize("name", CASES)
def test_constants_are_kept(name):
    A = build(name)
    ones = torch.full((1, *A.img_size), 7.0, dtype=torch.float64)
    torch.testing.assert_close(A.A(ones), torch.full_like(A.A(ones), 7.0))


def labelled(grid, x):
    """The field of a global grid for xarray, ascending and with a column repeated on either side."""
    da = xr.DataArray(x.numpy(), coords={"lat": grid.latitude, "lon": grid.longitude}, dims=("lat", "lon")).sortby("lat")
    around = [da.assign_coords(lon=da.lon + turn) for turn in (-360, 0, 360)]
    return xr.concat(around, "lon").sortby("lon")


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("start", [-180.0, 0.0, 100.0])
@pytest.mark.parametrize("convention", [-180.0, 0.0])
def test_stations_are_xarrays_interpolation(descending, start, convention):
    latitude = np.linspace(-90, 90, 19)
    grid = Grid(latitude[::-1] if descending else latitude, np.arange(start, start + 360, 12.0))
    x = draw(1, (1, *grid.shape))
    lat, lon = scattered(200, seed=1)
    lat = np.append(lat, [90, -90, 0, 10, 45, 45])
    lon = (np.append(lon, [13, 200, 0, 359.999, 358, -2]) - convention) % 360 + convention
    want = labelled(grid, x[0, 0]).interp(lat=xr.DataArray(lat, dims="n"), lon=xr.DataArray(lon, dims="n")).values
    got = StationObservations(grid, lat, lon).A(x)[0, 0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_stations_in_a_region_are_xarrays_interpolation(data_file):
    with xr.open_dataset(data_file("wfde5-uk-air-temperature"), engine="h5netcdf") as data:
        field = data.Tair.isel(time=0).load()
    field = field.fillna(float(field.mean()))
    grid = Grid.from_xarray(field)
    lat, lon = scattered(100, 50.25, 59.75, -10.75, 2.75)
    want = field.astype(float).interp(lat=xr.DataArray(lat, dims="n"), lon=xr.DataArray(lon, dims="n")).values
    x = torch.from_numpy(field.values.astype(float))[None, None]
    np.testing.assert_allclose(StationObservations(grid, lat, lon).A(x)[0, 0].numpy(), want, atol=1e-6 * abs(want).max())
    # a float32 field costs float32 rounding and no more
    single = StationObservations(grid, lat, lon % 360).A(x.float())[0, 0].numpy()
    np.testing.assert_allclose(single, want, rtol=3e-7)
    coarse = AreaAverage(grid, 5)
    assert float(coarse.coarse.mean(coarse.A(x))) == pytest.approx(float(grid.mean(x)), rel=1e-6)


def smooth(lat, lon):
    """A function on the sphere that has one value at each pole and is nowhere special."""
    phi, lam = np.radians(lat), np.radians(lon)
    x, y, z = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    return x + 0.5 * y * z - 0.7 * z + x * y


def sampled(grid, function=smooth):
    return torch.from_numpy(function(*np.meshgrid(grid.latitude, grid.longitude, indexing="ij")))[None, None]


@pytest.mark.parametrize("columns", [180, 181])
def test_stations_beyond_the_last_row_look_over_the_pole(columns):
    grid = Grid(np.arange(89, -90, -2.0), np.arange(columns) * 360 / columns - 180)
    lon = np.linspace(0, 360, 50, endpoint=False)
    for lat in (90.0, 89.7, 89.0001, -89.5, -90.0):
        where = np.full(50, lat), lon
        A = StationObservations(grid, *where)
        assert torch.bincount(A.rows).max() <= 4
        np.testing.assert_allclose(A.A(sampled(grid))[0, 0].numpy(), smooth(*where), atol=1e-3)
    below, above = (StationObservations(grid, [lat], [33.0]).A(sampled(grid)) for lat in (89 - 1e-9, 89 + 1e-9))
    torch.testing.assert_close(below, above)


def test_wind_components_turn_over_the_pole():
    def northward(lat, lon):
        """A wind over the pole along the meridians of 0 and 180 degrees, 1 m/s."""
        return np.cos(np.radians(lon)) + 0 * lat

    grid = Grid(np.arange(89, -90, -2.0), np.arange(0, 360, 2.0))
    where = np.full(4, 89.6), np.array([0.0, 60.0, 180.0, 300.0])
    wind = StationObservations(grid, *where, vector=True).A(sampled(grid, northward))[0, 0]
    np.testing.assert_allclose(wind.numpy(), northward(*where), atol=1e-3)
    scalar = StationObservations(grid, *where).A(sampled(grid, northward))[0, 0]
    assert abs(float(scalar[0])) < 0.5


def test_stations_outside():
    lat, lon = [45.0, 45.0, 70.0, 50.0], [0.0, 340.0, 0.0, -10.0]
    with pytest.raises(ValueError, match=r"2 of 4 points are outside Grid\(.*, the first, number 1, at \(45, 340\)"):
        StationObservations(REGION, lat, lon)
    A = StationObservations(REGION, lat, lon, outside="drop")
    assert A.kept.tolist() == [True, False, False, True]
    x = draw(2, (1, *REGION.shape))
    torch.testing.assert_close(A.A(x), StationObservations(REGION, [45, 50], [0, 350]).A(x))
    torch.testing.assert_close(A.A(x)[..., 1], x[..., 2, 0])
    with pytest.raises(ValueError, match="1 of 1 points"):
        StationObservations(REGION, [0], [0], outside="drop")
    top = Grid(np.arange(-60, 61, 20), np.arange(0, 360, 20))
    with pytest.raises(ValueError, match="outside"):
        StationObservations(top, [80], [0])


def test_stations_of_real_reports(data_file):
    """METAR positions on the reanalysis grid: all inside are used, those outside are told."""
    raw = gzip.decompress(data_file("metar-2005082600").read_bytes())
    with netcdf_file(io.BytesIO(raw), mmap=False) as file:
        lat, lon = (np.array(file.variables[name][:], float) for name in ("latitude", "longitude"))
    known = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)
    lat, lon = lat[known], lon[known]
    grid = Grid(np.linspace(30, 70, 17), np.linspace(-70, 10, 33))
    A = StationObservations(grid, lat, lon, outside="drop")
    want = (lat >= 30) & (lat <= 70) & (lon >= -70) & (lon <= 10)
    np.testing.assert_array_equal(A.kept.numpy(), want)
    assert A.points == (int(want.sum()),) and want.sum() > 100
    fields = torch.from_numpy(np.stack(np.meshgrid(grid.latitude, grid.longitude, indexing="ij")))[:, None]
    np.testing.assert_allclose(A.A(fields)[:, 0].numpy(), np.stack((lat[want], lon[want])), atol=1e-9)


def test_radiosondes_are_bilinear_and_linear_in_log_pressure():
    x = draw(2, (2, *LEVELS.shape))
    A = RadiosondeProfiles(LEVELS, [51.0, 60.0, 50.0], [-3.0, 2.0, 5.0], [900.0, 300.0, 1000.0], channel=1, channels=2)
    flat = Grid(LEVELS.latitude, LEVELS.longitude)
    share = np.log(900 / 1000) / np.log(850 / 1000)
    first = StationObservations(flat, [51], [-3]).A((1 - share) * x[:, 1:, 0] + share * x[:, 1:, 1])[:, :, 0]
    torch.testing.assert_close(A.A(x)[:, :, 0], first)
    torch.testing.assert_close(A.A(x)[:, 0, 2], x[:, 1, 0, 0, 3])
    # a field linear in log p and in the coordinates comes out exactly
    parts = np.meshgrid(np.log(LEVELS.level), LEVELS.latitude, [-10.0, -5, 0, 5], indexing="ij")
    line = torch.from_numpy(3 * parts[0] - parts[1] + 2 * parts[2])[None, None].expand(1, 2, -1, -1, -1)
    want = [3 * np.log(p) - lat + 2 * lon for lat, lon, p in ((51, -3, 900), (60, 2, 300), (50, 5, 1000))]
    np.testing.assert_allclose(A.A(line)[0, 0].numpy(), want)
    profiles = RadiosondeProfiles(LEVELS, [[51.0], [52.0]], [[1.0], [2.0]], [900.0, 400.0, 350.0])
    assert profiles.A(x[:, :1]).shape == (2, 1, 2, 3) and len(profiles.weights) == 6 * 8
    upside = Grid(LEVELS.latitude[::-1], LEVELS.longitude, LEVELS.level[::-1])
    torch.testing.assert_close(
        RadiosondeProfiles(upside, [51.0], [-3.0], [400.0]).A(x[:, :1].flip(2, 3)),
        RadiosondeProfiles(LEVELS, [51.0], [-3.0], [400.0]).A(x[:, :1]),
    )


def test_radiosondes_outside_the_levels():
    where = [51.0, 51.0, 70.0], [0.0, 0.0, 0.0], [200.0, 400.0, 400.0]
    with pytest.raises(ValueError, match=r"2 of 3 points are outside .* number 0, at \(51, 0, 200\)"):
        RadiosondeProfiles(LEVELS, *where)
    A = RadiosondeProfiles(LEVELS, *where, outside="drop")
    assert A.kept.tolist() == [False, True, False] and A.points == (1,)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("shape", [(19, 36), (18, 35), (121, 240)])
@pytest.mark.parametrize("factor", [2, 3, (4, 5), 7])
def test_average_conserves_the_global_mean(descending, shape, factor):
    latitude = np.linspace(-90, 90, shape[0]) if shape[0] % 2 else (np.arange(shape[0]) + 0.5) * 180 / shape[0] - 90
    grid = Grid(latitude[::-1] if descending else latitude, np.arange(shape[1]) * 360 / shape[1])
    A = AreaAverage(grid, factor, channels=2)
    x = draw(3, A.img_size) + 280
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        means = A.coarse.mean(A.A(x.to(dtype))), grid.mean(x)
        torch.testing.assert_close(means[0].double(), means[1], rtol=rel, atol=0.0)
    plain = torch.nn.functional.avg_pool2d(x, factor, ceil_mode=True)
    assert not torch.allclose(A.coarse.mean(plain), grid.mean(x), rtol=1e-8)


def test_average_over_any_cells():
    grid = Grid(np.linspace(-88.75, 88.75, 72), np.arange(-180, 180, 2.5))
    coarse = Grid(np.linspace(84, -84, 15), np.arange(10, 370, 24.0))
    A = AreaAverage(grid, coarse)
    x = draw(2, A.img_size)
    torch.testing.assert_close(coarse.mean(A.A(x)), grid.mean(x), rtol=1e-9, atol=1e-12)
    # one cell by hand, from many points of equal area in it
    i, j = 3, 14
    sines = np.sin(np.radians(coarse.latitude_bounds))
    u = (np.arange(400) + 0.5) / 400
    lat = np.degrees(np.arcsin(sines[i] + (sines[i + 1] - sines[i]) * u))
    lon = coarse.longitude_bounds[j] + 24 * u
    rows = np.abs(lat[:, None] - grid.latitude).argmin(1)
    columns = np.abs((lon[:, None] - grid.longitude + 180) % 360 - 180).argmin(1)
    assert float(A.A(x)[0, 0, i, j]) == pytest.approx(float(x[0, 0][rows][:, columns].mean()), abs=5e-3)


def test_average_next_to_the_edge_of_a_region():
    coarse = Grid([40, 60], [-10, 10])
    with pytest.raises(ValueError, match=r"4 coarse cells are covered by less than 1 of .* at \(40, -10\), by 0.3"):
        AreaAverage(REGION, coarse)
    A = AreaAverage(REGION, coarse, cover=0.3)
    torch.testing.assert_close(A.A(torch.ones(1, 1, 6, 6)), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(("lat", "lon"), [(90.0, 0.0), (88.0, 100.0), (40.0, 359.0), (0.0, 180.0), (-89.0, 5.0)])
@pytest.mark.parametrize("radius", [20.0, 400.0, 1500.0])
def test_footprint_is_a_mean_over_the_disc(lat, lon, radius):
    grid = Grid(np.linspace(90, -90, 181), np.arange(0, 360, 1.0))
    x = torch.cat([sampled(grid), sampled(grid, lambda p, l: np.sin(np.radians(p)) + 0 * l)])  # noqa: E741
    got = SatelliteSwath(grid, [lat], [lon], radius=radius).A(x)
    # the mean of sin(latitude) over a cap of half-angle r is that at its centre times (1 + cos r) / 2
    want = np.sin(np.radians(lat)) * (1 + np.cos(radius / EARTH_RADIUS)) / 2
    assert float(got[1, 0, 0]) == pytest.approx(want, abs=3e-4)
    if radius == 20:
        assert float(got[0, 0, 0]) == pytest.approx(smooth(lat, lon), abs=5e-4)


def test_footprint_counts_cells_by_their_area():
    grid = Grid(np.linspace(88.75, -88.75, 72), np.arange(0, 360, 2.5))
    x = draw(1, (1, *grid.shape))
    got = float(SatelliteSwath(grid, [70.0], [10.0], radius=3000.0).A(x))
    p, l = np.radians(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))  # noqa: E741
    centre = np.radians((70, 10))
    cosine = np.sin(p) * np.sin(centre[0]) + np.cos(p) * np.cos(centre[0]) * np.cos(l - centre[1])
    weight = torch.from_numpy(grid.area * (cosine > np.cos(3000 / EARTH_RADIUS)))
    assert got == pytest.approx(float((x[0, 0] * weight).sum() / weight.sum()), abs=0.02)
    assert abs(got - float(x[0, 0][weight > 0].mean())) > 0.02


def test_orbit():
    orbit = CircularOrbit(altitude=800, inclination=75, node=20)
    assert CircularOrbit(altitude=42164.17 - EARTH_RADIUS).period == pytest.approx(86164.1, abs=0.1)  # geostationary
    seconds = np.linspace(0, 2 * orbit.period, 4001)
    lat, lon = orbit.footprints(seconds)
    assert (lat[0], lon[0]) == pytest.approx((0, 20)) and lat[1] > 0
    assert lat.max() == pytest.approx(75, abs=1e-4) and lat.min() == pytest.approx(-75, abs=1e-4)
    _, later = orbit.footprints(orbit.period)
    assert float(later) == pytest.approx(20 - 360 * orbit.period / 86164.1, abs=1e-3)
    # left of an eastward, ascending track is north-west, at the stated distance
    near, far = (np.radians(orbit.footprints(600.0, across)) for across in (0.0, 500.0))
    cosine = np.sin(near[0]) * np.sin(far[0]) + np.cos(near[0]) * np.cos(far[0]) * np.cos(near[1] - far[1])
    assert EARTH_RADIUS * np.arccos(cosine) == pytest.approx(500, rel=1e-6)
    assert far[0] > near[0] and far[1] < near[1]


def test_swath_along_an_orbit():
    grid = Grid(np.linspace(90, -90, 37), np.arange(0, 360, 5.0))
    orbit = CircularOrbit(node=-30)
    swath = SatelliteSwath.along_orbit(
        grid, orbit, duration=600, interval=60, radius=100, across=(-500, 0, 500), start=30, points=20
    )
    assert swath.A(sampled(grid)).shape == (1, 1, 30)
    lat, lon = orbit.footprints(30 + 60 * np.arange(10))
    np.testing.assert_allclose(swath.latitude[1::3], lat)
    np.testing.assert_allclose(swath.longitude[1::3], lon)
    np.testing.assert_allclose(swath.A(sampled(grid))[0, 0].numpy(), smooth(swath.latitude, swath.longitude), atol=2e-2)
    regional = SatelliteSwath.along_orbit(REGION, CircularOrbit(node=10), duration=7000, interval=10, radius=100)
    assert 0 < regional.kept.sum() < 700 == len(regional.kept) and regional.points == (int(regional.kept.sum()),)
    assert ((regional.latitude > 40) & (regional.latitude < 65)).all()


def test_observation_sigma():
    torch.testing.assert_close(observation_sigma(3.0, torch.tensor([4.0, 0.0])), torch.tensor([5.0, 3.0]).double())
    for wrong, message in (((-1.0,), "not negative"), ((0.0, 0.0), "above 0"), ((), "finite"), ((float("nan"),), "finite")):
        with pytest.raises(ValueError, match=f"observation_sigma: .*{message}"):
            observation_sigma(*wrong)
    with pytest.raises(ValueError, match=r"shapes that fit, got \[\(2,\), \(3,\)\]"):
        observation_sigma(torch.ones(2), torch.ones(3))


def test_deepcopy_and_state():
    A = build("swath")
    x = draw(1, A.img_size)
    torch.testing.assert_close(copy.deepcopy(A).A(x), A.A(x))
    assert "data=(1, 4)" in repr(A) and "coarse=" in repr(build("average"))


POINT = ([50.0], [0.0])
ONE = StationObservations(REGION, *POINT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: StationObservations(REGION, [50.0, 51.0], [0.0, 1.0, 2.0]),
            "StationObservations: .* shapes that fit",
        ),
        (lambda: StationObservations(REGION, [float("nan")], [0.0]), "latitude must be finite, got 1 of 1 not"),
        (lambda: StationObservations(REGION, [], []), "latitude holds no point"),
        (lambda: StationObservations(REGION, [91.0], [0.0]), "latitude must be within -90 to 90"),
        (lambda: StationObservations(REGION, *POINT, channel=1), "channel must be one or several different of 0 to 0, got 1"),
        (lambda: StationObservations(REGION, *POINT, channel=(0, 0), channels=2), "several different"),
        (lambda: StationObservations(REGION, *POINT, outside="keep"), "outside must be 'raise' or 'drop', got 'keep'"),
        (lambda: StationObservations(LEVELS, *POINT), "has levels; use RadiosondeProfiles"),
        (lambda: SatelliteSwath(LEVELS, *POINT, radius=1.0), "SatelliteSwath: .* has levels"),
        (
            lambda: ONE.A(torch.zeros(1, 2, 6, 6)),
            r"x must be \(B, 1, 6, 6\), got \(1, 2, 6, 6\)",
        ),
        (lambda: ONE.A_adjoint(torch.zeros(1, 1)), r"y must be \(B, 1, 1\), got \(1, 1\)"),
        (lambda: ONE.A(torch.zeros(1, 1, 6, 6).half()), "x must be float32 or float64"),
        (lambda: RadiosondeProfiles(REGION, *POINT, [500.0]), "RadiosondeProfiles: .* has no levels; use StationObservations"),
        (lambda: RadiosondeProfiles(LEVELS, *POINT, [0.0]), "pressure must be above 0 hPa"),
        (lambda: AreaAverage(REGION, 0), "AreaAverage: coarse must be a Grid, a positive integer"),
        (lambda: AreaAverage(REGION, 6), "factor 6 leaves fewer than two cells of 6"),
        (lambda: AreaAverage(REGION, 2, cover=0), "cover must be above 0"),
        (lambda: AreaAverage(LEVELS, REGION), "must have the levels of the fine one"),
        (lambda: AreaAverage(REGION, 2).A(torch.zeros(1, 1, 6, 5)), r"AreaAverage: x must be \(B, 1, 6, 6\)"),
        (lambda: SatelliteSwath(REGION, *POINT, radius=0.0), "radius must be above 0 km"),
        (lambda: SatelliteSwath(REGION, *POINT, radius=1.0, points=0), "points must be at least 1"),
        (lambda: SatelliteSwath(REGION, *POINT, radius=2000.0), r"1 of 1 points are outside .* at \(50, 0\)"),
        (lambda: CircularOrbit(altitude=0), "CircularOrbit: altitude must be above 0 km"),
        (lambda: CircularOrbit(node=float("nan")), "node and phase must be finite"),
        (
            lambda: SatelliteSwath.along_orbit(REGION, CircularOrbit(), duration=1, interval=2, radius=1),
            "interval must be above 0 and at most duration",
        ),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
