import contextlib
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import rich.progress  # noqa: F401  importing it draws from `random`, which a test's body may not
import torch
import typer
import xarray as xr
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import posterior
from operators import birdcage_maps
from posterior.cli import app
from posterior.cli._common import one_sentence
from posterior.cli.demo import DEMOS
from posterior.driver import SamplingError
from posterior.priors.base import Affine
from posterior.priors.loading import WEIGHTS
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import RadialReference
from posterior.recipes.mri import demo_image, simulate

ROOT = Path(__file__).parents[1]
SIZE, COILS = 64, 4
QUICK = ["--steps", "1", "--draws", "2"]


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory):
    """A small network that says what its reference Gaussian says, on disk."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        in_channels=4,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        add_attention=False,
    )
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
    f = torch.linspace(0, 0.75, 30, dtype=torch.float64)
    power = (f + 0.1) ** -2
    reference = RadialReference(f, power / power[10:].mean())
    prior = NetworkPrior(
        network,
        GaussianResidual(reference),
        (2, None, None),
        affine=Affine(0.3),
        reference=reference,
        sigma_range=(0.01, 20.0),
        multiple=2,
        card={"summary": "for tests"},
    )
    folder = tmp_path_factory.mktemp("priors") / "small"
    posterior.save_prior(prior, folder)
    return folder


@pytest.fixture(scope="module")
def array():
    """k-space (coils, ky, kx) of a small head, every third line and the middle."""
    head = torch.nn.functional.avg_pool2d(demo_image()[None, None], 4)[0, 0]
    return simulate(head, coils=COILS, acceleration=3, center_fraction=0.2).data.numpy()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def npy(tmp_path, array):
    path = tmp_path / "scan.npy"
    np.save(path, array)
    return path


def _run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def _refused(result, folder, *words, left=()):
    """Exit status 2, one sentence, nothing written."""
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith("posterior: error: ")
    for word in words:
        assert word in line, line
    assert result.stdout == ""
    assert sorted(p.name for p in folder.iterdir()) == sorted(left)


# what works


@pytest.fixture(scope="module")
def fields(tmp_path_factory, prior_folder):
    """Held-out and training fields of the Gaussian in `prior_folder`, in its units."""
    folder, shape = tmp_path_factory.mktemp("fields"), (2, 16, 16)
    white = torch.randn(28, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (0.3 * posterior.load_prior(prior_folder).reference.covariance(shape).sqrt(white)).numpy()
    np.save(folder / "held.npy", x[:12])
    np.save(folder / "train.npy", x[12:])
    return folder


def test_check_prior(here, prior_folder, fields):
    quick = ["--draws", 6, "--steps", 3]
    result = _run("check-prior", prior_folder, "--held-out", fields / "held.npy", "--training", fields / "train.npy", *quick)
    assert result.exit_code in (0, 1), result.output  # three steps from sigma 20 are too few
    assert sorted(p.name for p in (here / "small-check").iterdir()) == [
        "check-fields.png",
        "check.json",
        "check.md",
        "check.png",
    ]
    for words in ("denoising: PASS. No worse than", "symmetry: PASS", "memorisation: ", "wrote small-check/check.md"):
        assert words in result.stdout
    assert (result.exit_code == 1) == ("FAIL" in result.stdout)


def test_held_out_fields_that_count_as_one():
    """10 days of daily fields; of hours, a quarter of those there are."""
    from posterior.cli.check_prior import _block

    days = np.datetime64("2009-01-01T00") + np.arange(365) * np.timedelta64(24, "h")
    hours = np.datetime64("2019-03-01T00") + np.arange(192) * np.timedelta64(1, "h")
    assert [_block(days, torch.arange(365)), _block(days, torch.arange(0, 365, 4))] == [10, 2]
    assert [_block(hours, torch.arange(192)), _block(hours, torch.arange(0, 192, 2))] == [48, 24]
    assert _block(None, torch.arange(9)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "names no dataset; wanted one of --data and --held-out"),
        (["--data", "a.toml", "--held-out", "b.npy"], "wanted one of --data and --held-out"),
        (["--training", "a.npy"], "--training goes with --held-out"),
        (["--held-out", "no.npy"], "no.npy: there is no such file"),
        (["--held-out", "objects.npy"], "objects.npy: not a complete NumPy .npy file of numbers"),
        (["--held-out", "no.nc"], "gridded data come with --data"),
        (["--data", "no.toml"], "no.toml: there is no such file"),
    ],
)
def test_check_prior_refuses(here, prior_folder, options, words):
    inputs = here / "objects.npy"
    np.save(inputs, np.array([None]), allow_pickle=True)
    _refused(_run("check-prior", prior_folder, *options), here, words, left=[inputs.name])


def test_reconstruct_npy(here, npy, prior_folder):
    options = ["--draws", 20, "--batch-size", 20, "--steps", 1, "--check", "--seed", 3]
    result = _run("reconstruct", npy, "--prior", prior_folder, *options)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in here.iterdir()) == ["scan-posterior.nc", "scan-posterior.png"]
    draws = posterior.load_draws("scan-posterior.nc")
    assert draws.event_shape == (2, SIZE, SIZE)
    assert (draws.n, draws.stats.seed) == (20, 3)
    for text in ("SENSE-CG", "posterior mean", "ESPIRiT", "predictive interval", "wrote scan-posterior.nc"):
        assert text in result.stdout
    assert "PSNR" not in result.stdout


def test_reconstruct_other_formats_and_options(here, tmp_path, array, prior_folder):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.stack([0 * array, array])
    (tmp_path / "scan.hdr").write_text(f"# Dimensions\n{SIZE} {SIZE} 1 {COILS}\n")
    array.transpose(1, 2, 0).astype("<c8").ravel(order="F").tofile(tmp_path / "scan.cfl")
    np.save(tmp_path / "maps.npy", birdcage_maps(COILS, (SIZE, SIZE)).numpy())
    np.save(tmp_path / "mask.npy", (array != 0).any((0, 1)))
    common = ["--prior", prior_folder, *QUICK]
    first = _run("reconstruct", tmp_path / "scan.h5", "--slice", 1, "--coils", 3, "--output", "a.nc", *common)
    given = ["--maps", tmp_path / "maps.npy", "--mask", tmp_path / "mask.npy", "--noise", 3.6]
    second = _run("reconstruct", tmp_path / "scan.cfl", *given, "--output", "b.nc", "--sampler", "pigdm", *common)
    for result, words in ((first, "compressed to 3"), (second, "coil maps: given")):
        assert result.exit_code == 0, result.output
        assert words in result.stdout
    assert "PiGDM" in posterior.load_draws("b.nc").stats.sampler
    assert sorted(p.name for p in here.iterdir()) == ["a.nc", "a.png", "b.nc", "b.png"]


def test_the_result_says_what_was_reconstructed_from_which_files(here, tmp_path, array, prior_folder):
    """And slices of one file do not replace each other."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.stack([2 * array, array])
    np.save(tmp_path / "maps.npy", birdcage_maps(COILS, (SIZE, SIZE)).numpy())
    np.save(tmp_path / "mask.npy", (array != 0).any((0, 1)))
    common = ["reconstruct", tmp_path / "scan.h5", "--prior", prior_folder, *QUICK, "--noise", 3.6]
    given = ["--maps", tmp_path / "maps.npy", "--mask", tmp_path / "mask.npy"]
    for options in (["--slice", 0], ["--slice", -1, *given], []):
        assert _run(*common, *options).exit_code == 0
    names = ["scan-posterior.nc", "scan-slice-0-posterior.nc", "scan-slice-1-posterior.nc"]
    assert sorted(p.name for p in here.glob("*.nc")) == names
    with xr.open_datatree(here / names[2], engine="h5netcdf") as tree:
        facts = {"slice": "1 of 2, from 0", "mask": str(tmp_path / "mask.npy"), "maps": str(tmp_path / "maps.npy")}
        assert {name: tree["mri"].attrs[name] for name in facts} == facts
    with xr.open_datatree(here / names[1], engine="h5netcdf") as tree:
        assert tree["mri"].attrs["slice"] == "0 of 2, from 0" and not {"mask", "maps"} & set(tree["mri"].attrs)


def test_same_seed_same_result_and_checkpoint(here, npy, prior_folder):
    common = ["reconstruct", npy, "--prior", prior_folder, *QUICK]
    assert _run(*common, "--output", "a.nc", "--checkpoint", "kept.safetensors").exit_code == 0
    assert _run(*common, "--output", "b.nc", "--batch-size", 1).exit_code == 0
    a, b = (posterior.load_draws(name).samples for name in ("a.nc", "b.nc"))
    assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))
    assert (here / "kept.safetensors").exists()


@pytest.mark.slow
def test_demo(here, prior_folder):
    result = _run("demo", "--prior", prior_folder, *QUICK)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in here.iterdir()) == ["posterior-demo.nc", "posterior-demo.png"]
    assert "PSNR" in result.stdout


def test_demos_are_listed_and_mri_is_the_default(here):
    listed = _run("demo", "--list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(DEMOS)
    for arguments in (["demo"], ["demo", "mri"]):
        _refused(_run(*arguments, "--prior", "liver-ct"), here, "no prior 'liver-ct'")
    assert "posterior-demo-mri-8x.nc" in _run("demo", "mri-8x", "--help").stdout.replace("-\n", "-").replace(" ", "")
    assert _run("demo", "liver").exit_code == 2


def test_priors_lists_what_is_bundled():
    result = _run("priors")
    assert result.exit_code == 0
    for name in posterior.bundled_priors():
        assert name in result.stdout.splitlines()


def test_help_is_quick_and_version_is_told():
    code = (
        "import sys; from posterior.cli import main; sys.argv = ['posterior', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "reconstruct" in shown
    assert shown.rstrip().endswith("False False")
    assert _run("--version").stdout.startswith("posterior")


# what is refused


def test_missing_file(here):
    _refused(_run("reconstruct", "none.npy"), here, "none.npy", "no such file")


def test_truncated_h5(here, tmp_path, array):
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = array[None]
    path.write_bytes(path.read_bytes()[:20000])
    _refused(_run("reconstruct", path), here, "cut.h5", "not a complete HDF5 file")


def test_nan(here, tmp_path, array):
    bad = array.copy()
    bad[0, 3, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    _refused(_run("reconstruct", tmp_path / "bad.npy"), here, "bad.npy", "NaN")


def test_all_zero(here, tmp_path, array):
    np.save(tmp_path / "zero.npy", 0 * array)
    _refused(_run("reconstruct", tmp_path / "zero.npy"), here, "zero.npy", "zero everywhere")


def test_one_coil_where_maps_have_eight(here, tmp_path, array, prior_folder):
    np.save(tmp_path / "one.npy", array[:1])
    np.save(tmp_path / "maps.npy", birdcage_maps(8, (SIZE, SIZE)).numpy())
    result = _run("reconstruct", tmp_path / "one.npy", "--maps", tmp_path / "maps.npy", "--prior", prior_folder)
    _refused(result, here, "coil maps are of 8 coils", "one.npy has 1")


def test_selections_that_make_no_sense(here, npy):
    _refused(_run("reconstruct", npy, "--select", "repetition"), here, "--select is 'repetition'; wanted NAME=NUMBER")
    twice = ["--select", "set=0", "--select", "set=1"]
    _refused(_run("reconstruct", npy, *twice), here, "--select gives 'set' twice, 0 and 1; wanted one of them")
    _refused(_run("reconstruct", npy, "--select", "set=-1"), here, "--select is 'set=-1'; wanted NAME=NUMBER")
    _refused(_run("reconstruct", npy, "--select", "repetition=0"), here, "scan.npy", "wanted ISMRMRD raw data")


def test_mask_of_the_wrong_length(here, tmp_path, npy):
    np.save(tmp_path / "mask.npy", np.ones(SIZE + 1))
    result = _run("reconstruct", npy, "--mask", tmp_path / "mask.npy")
    _refused(result, here, "mask.npy", "(65,)", "wanted (64,) or (64, 64)")


def test_unknown_prior(here, npy):
    _refused(_run("reconstruct", npy, "--prior", "liver-ct"), here, "no prior 'liver-ct'")
    _refused(_run("demo", "--prior", "liver-ct"), here, "no prior 'liver-ct'")


def test_checkpoint_with_a_tensor_missing(here, tmp_path, npy, prior_folder):
    folder = tmp_path / "broken"
    (folder / "unet").mkdir(parents=True)
    for file in prior_folder.rglob("*.*"):
        (folder / file.relative_to(prior_folder)).write_bytes(file.read_bytes())
    weights = load_file(folder / "unet" / WEIGHTS)
    weights.pop("conv_in.weight")
    save_file(weights, folder / "unet" / WEIGHTS)
    _refused(_run("reconstruct", npy, "--prior", folder), here, "missing", "conv_in.weight")


def test_outputs_that_cannot_be_written(here, npy, prior_folder):
    _refused(_run("reconstruct", npy, "--output", "out.txt"), here, "out.txt", "ends in .nc")
    _refused(_run("demo", "--output", "none/out.nc"), here, "no folder none")
    (here / "out.png").mkdir()
    _refused(_run("demo", "--output", "out.nc"), here, "out.png is a folder", left=["out.png"])


def test_former_output_stays_when_a_run_fails(here, npy, tmp_path, prior_folder):
    for name in ("out.nc", "out.png"):
        (here / name).write_bytes(b"former")
    (here / "kept").write_bytes(b"no checkpoint")
    result = _run("reconstruct", npy, "--prior", prior_folder, *QUICK, "--output", "out.nc", "--checkpoint", "kept")
    assert result.exit_code == 2
    assert "checkpoint kept" in result.stderr
    assert "Traceback" not in result.output
    assert {p.name: p.read_bytes() for p in here.iterdir()}["out.nc"] == b"former"
    assert (here / "out.png").read_bytes() == b"former"
    assert sorted(p.name for p in here.iterdir()) == ["kept", "out.nc", "out.png"]


def test_bad_option_is_refused(here):
    result = _run("demo", "--draws", 0)
    assert result.exit_code == 2
    assert "--draws" in result.stderr
    assert list(here.iterdir()) == []


def test_no_traceback_in_a_real_process(here):
    run = subprocess.run(
        [sys.executable, "-m", "posterior", "reconstruct", "none.h5"],
        cwd=here,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr == "posterior: error: none.h5: there is no such file; wanted a fastMRI HDF5 file\n"
    assert run.stdout == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "out.nc"), 2),
        (SamplingError("draws [0] are\nnot finite"), 2),
        (ImportError("espirit_maps needs sigpy"), 2),
        (MemoryError(), 2),
        (FloatingPointError("the loss is nan at step 1"), 2),
    ],
)
def test_expected_errors_becomeone_sentence(error, status, capsys):
    with pytest.raises(typer.Exit) as stopped, one_sentence():
        raise error
    assert stopped.value.exit_code == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_faults_of_the_program_are_not_hidden():
    for error in (TypeError, KeyError, RuntimeError):
        with pytest.raises(error), contextlib.ExitStack() as stack:
            stack.enter_context(one_sentence())
            raise error("a bug")
