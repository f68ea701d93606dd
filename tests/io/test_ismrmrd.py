import numpy as np
import pytest
import torch

from posterior.io.ismrmrd import read_ismrmrd, read_noise
from posterior.io.kspace import KSpaceError, read_kspace

ismrmrd = pytest.importorskip("ismrmrd")

COILS, HEIGHT, WIDTH = 3, 12, 10
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemVendor>Maker</systemVendor><systemFieldStrength_T>1.5</systemFieldStrength_T>
  <relativeReceiverNoiseBandwidth>0.8</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
  <encodedSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>18.0</x><y>20.0</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>6</x><y>10</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>9.0</x><y>20.0</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>9</maximum><center>5</center></kspace_encoding_step_1>
  </encodingLimits><trajectory>TRAJECTORY</trajectory>
</encoding></ismrmrdHeader>"""


def _kspace(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


class _Writer:
    """Raw data written the way a scanner does, one readout after the other."""

    def __init__(self, path, trajectory="cartesian"):
        self.path = path
        self.readouts = []
        self.header = HEADER.replace("TRAJECTORY", trajectory)

    def add(self, samples, line=0, flags=(), centre=None, dwell=5.0, pre=0, post=0, **counters):
        readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples))
        readout.center_sample = samples.shape[1] // 2 if centre is None else centre
        readout.discard_pre, readout.discard_post = pre, post
        readout.sample_time_us = dwell
        readout.idx.kspace_encode_step_1 = line
        for name, value in counters.items():
            setattr(readout.idx, name, value)
        for flag in flags:
            readout.set_flag(getattr(ismrmrd, flag))
        self.readouts.append(readout)
        return self

    def add_lines(self, kspace, lines=range(WIDTH), **counters):
        for line in lines:
            self.add(kspace[:, :, line], line, **counters)
        return self

    def write(self):
        with ismrmrd.Dataset(str(self.path), "dataset", mode="w") as dataset:
            dataset.write_xml_header(self.header)
            for readout in self.readouts:
                dataset.append_acquisition(readout)
        return self.path


@pytest.fixture
def writer(tmp_path):
    return _Writer(tmp_path / "raw.h5")


def test_lines_go_where_they_were_measured(writer):
    full, lines = _kspace(COILS, HEIGHT, WIDTH), [0, 3, 4, 5, 9]
    kspace = read_kspace(writer.add_lines(full, lines).write())
    mask = np.isin(np.arange(WIDTH), lines)
    assert np.array_equal(kspace.data.numpy(), full * mask)
    assert np.array_equal(kspace.mask.numpy(), np.broadcast_to(mask, (HEIGHT, WIDTH)))
    assert kspace.voxel_size == (1.5, 2.0)
    assert kspace.recon_size == (6, 10)
    assert kspace.attributes["systemVendor"] == "Maker"
    assert kspace.without_oversampling().data.shape == (COILS, 6, WIDTH)


def test_pixels_have_the_size_that_the_samples_give(writer):
    writer.header = writer.header.replace("<x>6</x><y>10</y>", "<x>6</x><y>15</y>")
    kspace = read_kspace(writer.add_lines(_kspace(COILS, HEIGHT, WIDTH)).write())
    assert kspace.recon_size == (6, 15)
    assert kspace.voxel_size == (1.5, 2.0)


def test_other_scans_are_no_samples_of_the_image(writer):
    full, other = _kspace(COILS, HEIGHT, WIDTH), _kspace(COILS, HEIGHT, seed=1)
    writer.add(other, 3, ["ACQ_IS_NOISE_MEASUREMENT"])
    writer.add(other, 4, ["ACQ_IS_PHASECORR_DATA"])
    writer.add(other, 5, ["ACQ_IS_NAVIGATION_DATA"])
    writer.add(other, 6, ["ACQ_IS_PARALLEL_CALIBRATION"])
    writer.add(full[:, :, 7], 7, ["ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"])
    kspace = read_ismrmrd(writer.add_lines(full, [1]).write())
    assert np.flatnonzero(kspace.mask.numpy()[0]).tolist() == [1, 7]
    assert np.array_equal(kspace.data.numpy()[:, :, 7], full[:, :, 7])


def test_slices(writer):
    stack = _kspace(3, COILS, HEIGHT, WIDTH)
    for number, kspace in enumerate(stack):
        writer.add_lines(kspace, slice=number)
    path = writer.write()
    assert np.array_equal(read_ismrmrd(path).data.numpy(), stack[1])
    assert np.array_equal(read_ismrmrd(path, -1).data.numpy(), stack[2])


def test_averages_are_averaged(writer):
    two = _kspace(2, COILS, HEIGHT, WIDTH)
    writer.add_lines(two[0], average=0).add_lines(two[1], average=1)
    path = writer.write()
    assert np.allclose(read_ismrmrd(path).data.numpy(), two.mean(0), atol=1e-6)
    assert np.array_equal(read_ismrmrd(path, select={"average": 1}).data.numpy(), two[1])


def test_segments_are_parts_of_one_image(writer):
    full = _kspace(COILS, HEIGHT, WIDTH)
    writer.add_lines(full, range(0, WIDTH, 2), segment=0).add_lines(full, range(1, WIDTH, 2), segment=1)
    assert np.array_equal(read_kspace(writer.write()).data.numpy(), full)


@pytest.mark.parametrize("loop", ["contrast", "phase", "set"])
def test_loops_of_other_kinds_are_chosen_alike(writer, refused, loop):
    two = _kspace(2, COILS, HEIGHT, WIDTH)
    path = writer.add_lines(two[0], **{loop: 0}).add_lines(two[1], **{loop: 1}).write()
    refused(KSpaceError, [f"holds 2 {loop}s, 0 to 1", f"--select {loop}=0"], read_kspace, path)
    assert np.array_equal(read_kspace(path, select={loop: 1}).data.numpy(), two[1])


def test_reversed_partial_and_padded_readouts(writer):
    full = _kspace(COILS, HEIGHT, WIDTH)
    pad = np.full((COILS, 2), 99, np.complex64)
    writer.add(full[:, ::-1, 0], 0, ["ACQ_IS_REVERSE"], centre=HEIGHT - 1 - HEIGHT // 2)
    writer.add(full[:, 4:, 1], 1, centre=HEIGHT // 2 - 4)
    writer.add(np.hstack([pad, full[:, :, 2], pad[:, :1]]), 2, centre=HEIGHT // 2 + 2, pre=2, post=1)
    kspace = read_ismrmrd(writer.write())
    assert np.array_equal(kspace.data.numpy()[:, :, 0], full[:, :, 0])
    assert np.array_equal(kspace.data.numpy()[:, 4:, 1], full[:, 4:, 1])
    assert not kspace.mask[:4, 1].any()
    assert np.array_equal(kspace.data.numpy()[:, :, 2], full[:, :, 2])


def test_noise_has_the_bandwidth_of_the_image(writer):
    noise = _kspace(COILS, 4000, seed=2)
    writer.add(noise, flags=["ACQ_IS_NOISE_MEASUREMENT"], dwell=8.0)
    samples = read_noise(writer.add_lines(_kspace(COILS, HEIGHT, WIDTH)).write())
    assert samples.shape == (COILS, 4000)
    # white noise: power goes as 1 / dwell time; the header's relative bandwidth is 0.8
    assert torch.allclose(samples.abs().square().mean(), torch.tensor(2 * 8 / (5 * 0.8)), rtol=0.05)


def test_several_repetitions_have_to_be_told_apart(writer, refused):
    two = _kspace(2, COILS, HEIGHT, WIDTH)
    path = writer.add_lines(two[0], repetition=0).add_lines(two[1], repetition=1).write()
    refused(KSpaceError, ["raw.h5", "holds 2 repetitions, 0 to 1", "--select repetition=0"], read_kspace, path)
    refused(KSpaceError, ["has no repetition 2 but"], read_ismrmrd, path, select={"repetition": 2})
    refused(KSpaceError, ["select has 'echo'", "wanted one of contrast"], read_ismrmrd, path, select={"echo": 2})
    second = read_kspace(path, select={"repetition": 1})
    assert np.array_equal(second.data.numpy(), two[1]) and second.facts == {"repetition": "1 of 2"}


def test_not_cartesian(tmp_path, refused):
    path = _Writer(tmp_path / "raw.h5", "radial").add_lines(_kspace(COILS, HEIGHT, WIDTH)).write()
    refused(KSpaceError, ["raw.h5", "trajectory is 'radial'", "wanted cartesian"], read_kspace, path)


def test_three_dimensional(writer, refused):
    full = _kspace(COILS, HEIGHT, WIDTH)
    path = writer.add_lines(full, kspace_encode_step_2=0).add_lines(full, kspace_encode_step_2=1).write()
    refused(KSpaceError, ["raw.h5", "3-D k-space", "wanted one slice"], read_kspace, path)


def test_header_that_the_readouts_do_not_fit(writer, refused):
    path = writer.add(_kspace(COILS, HEIGHT + 2), 0).write()
    refused(KSpaceError, ["raw.h5", "samples -1 to 13", "within 0 to 12"], read_kspace, path)
    path = writer.add(_kspace(COILS, HEIGHT), 40).write()
    refused(KSpaceError, ["wanted 3 coils"], read_kspace, path)


def test_only_noise(writer, refused):
    path = writer.add(_kspace(COILS, 50), flags=["ACQ_IS_NOISE_MEASUREMENT"]).write()
    refused(KSpaceError, ["raw.h5", "none of 1 readouts is a sample"], read_kspace, path)


def test_no_noise_scan(writer, refused):
    path = writer.add_lines(_kspace(COILS, HEIGHT, WIDTH)).write()
    refused(KSpaceError, ["raw.h5", "none of 10 readouts is a noise scan"], read_noise, path)


def test_missing_values(writer, refused):
    full = _kspace(COILS, HEIGHT, WIDTH)
    full[1, 2, 3] = np.nan
    refused(KSpaceError, ["raw.h5", "1 of 360 values", "NaN"], read_kspace, writer.add_lines(full).write())


def test_truncated(writer, refused):
    path = writer.add_lines(_kspace(COILS, HEIGHT, WIDTH)).write()
    path.write_bytes(path.read_bytes()[:2000])
    for read in (read_kspace, read_ismrmrd, read_noise):
        refused(KSpaceError, ["raw.h5", "not a complete HDF5 file"], read, path)


def test_another_kind_of_file(tmp_path, refused):
    import h5py

    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["image"] = np.ones(3)
    refused(KSpaceError, ["raw.h5", "no group with 'xml' and 'data' but image"], read_ismrmrd, tmp_path / "raw.h5")


def test_damaged_header(writer, refused):
    writer.header = "<ismrmrdHeader><encoding>"
    path = writer.add_lines(_kspace(COILS, HEIGHT, WIDTH)).write()
    refused(KSpaceError, ["raw.h5", "not a complete HDF5 file of ISMRMRD raw data"], read_ismrmrd, path)
