"""Complex brain images simulated from a few real volumes: the training set of `brain-mri`.

Few brains are at hand, so variety is made: a plane of any orientation is cut through a volume with an affine and a
smooth elastic deformation; the contrast is mixed from the subject's contrasts or tissue maps and bent by a
random curve; a smooth bias field and a smooth phase are laid over it. Image i of a seed is always the same image.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel
import numpy as np
import torch
from torch import Tensor

from posterior.io.registry import fetch

# Contrasts of one subject share a grid. colin27 is the held-out subject and is not listed.
TRAINING_SUBJECTS: dict[str, tuple[str, ...]] = {
    "icbm152": ("icbm152-t1", "icbm152-gm", "icbm152-wm"),
    "seg3d": ("seg3d-t1",),
    "stroke": ("stroke-t1", "stroke-t2", "stroke-flair"),
}
HELD_OUT = {"colin27": ("colin27",)}
# The template is an average of many heads and hence smooth: it is drawn less often than the single scans.
SUBJECT_WEIGHTS = {"icbm152": 0.2, "seg3d": 0.5, "stroke": 0.3}


@dataclass(frozen=True)
class Subject:
    """Volumes (K, X, Y, Z) in RAS order, intensities about 0 to 1, and the voxel size in mm."""

    volumes: Tensor
    voxel: Tensor

    @staticmethod
    def load(names: tuple[str, ...]) -> Subject:
        """Read the named registry entries."""
        volumes, voxel = [], None
        for name in names:
            image = nibabel.as_closest_canonical(nibabel.load(fetch(name)))
            data = np.asarray(image.dataobj, dtype=np.float32)
            volumes.append(data / np.percentile(data[data > 0.05 * data.max()], 99))
            voxel = torch.tensor([float(z) for z in image.header.get_zooms()[:3]])
        return Subject(torch.from_numpy(np.stack(volumes)).clamp(0, 1.5), voxel)


def smooth_noise(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random fields (..., H, W) of unit variance, correlated over ``length`` pixels."""
    h, w = shape[-2:]
    small = (*shape[:-2], max(4, int(2 * h / length) + 3), max(4, int(2 * w / length) + 3))
    coarse = torch.from_numpy(rng.standard_normal(small).astype(np.float32)).reshape(-1, 1, *small[-2:])
    fine = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=True)
    return fine.reshape(shape).numpy() / 0.7


def plane(subject: Subject, size: int, rng: np.random.Generator) -> np.ndarray:
    """One deformed plane of ``size`` x ``size`` pixels of about 1 mm through the head: (K, size, size)."""
    extent = torch.tensor(subject.volumes.shape[1:]) * subject.voxel
    axis = int(rng.integers(3))
    # In-plane axes: image rows run down the head (or front to back), columns left to right (or back to front).
    rows, cols = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[axis]
    e = np.zeros((3, 3), np.float32)  # rows: the plane's row, column and normal directions, in mm
    e[0, rows] = -1
    e[1, cols] = rng.choice([-1, 1])
    e[2, axis] = 1
    tilt = rng.normal(0, 0.15 if rng.random() < 0.7 else 0.6, 3)
    rotation = np.array([[1, -tilt[2], tilt[1]], [tilt[2], 1, -tilt[0]], [-tilt[1], tilt[0], 1]])
    q, r = np.linalg.qr(rotation)
    e = e @ (q * np.sign(np.diag(r))).T.astype(np.float32)
    if rng.random() < 0.2:
        e[0] *= -1
    if rng.random() < 0.2:
        e[[0, 1]] = e[[1, 0]]
    centre = extent.numpy() / 2
    centre[axis] += rng.uniform(-0.32, 0.32) * extent[axis].item()
    spread = max(0.0, 0.5 * (200 - size) * 0.8)
    shift = rng.uniform(-1, 1, 2) * (spread + 8)
    zoom = np.exp(rng.normal(0, 0.08, 2))
    u = (np.arange(size) - (size - 1) / 2)[:, None] * zoom[0] + shift[0]
    v = (np.arange(size) - (size - 1) / 2)[None, :] * zoom[1] + shift[1]
    warp = smooth_noise((3, size, size), rng.uniform(25, 60), rng) * rng.uniform(0, 3)
    points = centre[:, None, None] + e[0][:, None, None] * u + e[1][:, None, None] * v + (warp if rng.random() < 0.8 else 0)
    voxels = points / subject.voxel.numpy()[:, None, None]
    shape = np.array(subject.volumes.shape[1:], np.float32)[:, None, None]
    grid = (2 * voxels / (shape - 1) - 1)[::-1].copy()  # grid_sample orders coordinates last axis first
    where = torch.from_numpy(grid).float().permute(1, 2, 0)[None, None]
    cut = torch.nn.functional.grid_sample(subject.volumes[None], where, align_corners=True, padding_mode="zeros")
    return cut[0, :, 0].numpy()


def sharpness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with the middle of its spectrum raised by a random gain of up to 2.5.

    Trilinear cuts and averaged templates hold up to five times less power between 0.1 and 0.3 cycles per pixel than
    scans do; air stays dark and magnitudes stay positive.
    """
    h, w = image.shape
    f = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    centre, width = rng.uniform(0.12, 0.28), rng.uniform(0.06, 0.12)
    gain = 1 + rng.uniform(0, 1.5) * np.exp(-(((f - centre) / width) ** 2))
    return np.fft.ifft2(np.fft.fft2(image) * gain).real.clip(0, None).astype(np.float32)


def native_plane(subject: Subject, size: int, rng: np.random.Generator) -> np.ndarray:
    """One plane as it was scanned, not interpolated: (K, size, size), zero outside the volume."""
    axis = int(rng.integers(3))
    index = int(subject.volumes.shape[axis + 1] * rng.uniform(0.2, 0.8))
    cut = np.rot90(subject.volumes.select(axis + 1, index).numpy(), axes=(1, 2))
    if rng.random() < 0.5:
        cut = cut[:, :, ::-1]
    if rng.random() < 0.2:
        cut = np.rot90(cut, axes=(1, 2))
    out = np.zeros((cut.shape[0], size, size), np.float32)
    free = [cut.shape[1] - size, cut.shape[2] - size]
    start = [int(rng.integers(min(0, n), max(0, n) + 1)) for n in free]
    rows = slice(max(0, start[0]), max(0, start[0]) + size)
    cols = slice(max(0, start[1]), max(0, start[1]) + size)
    part = cut[:, rows, cols]
    top, left = max(0, -start[0]), max(0, -start[1])
    out[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return out


def contrast(cut: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One magnitude image (H, W) from the K maps of a plane."""
    k = cut.shape[0]
    if k == 1 or rng.random() < 0.4:
        image = cut[0] if rng.random() < 0.7 else cut[int(rng.integers(k))]
    else:
        image = np.tensordot(rng.dirichlet(np.ones(k)), cut, axes=1)
    image = image.clip(0, None)
    if rng.random() < 0.6:
        knots = np.linspace(0, 1.2, 6)
        curve = np.concatenate([[0], np.cumsum(rng.uniform(0.1, 1.5, 5))])
        if rng.random() < 0.3:  # dark and bright tissues change places, background stays dark
            curve = np.concatenate([[0, 0.2], rng.uniform(0.1, 1.2, 4)])
        image = np.interp(image, knots, curve / curve.max()).astype(np.float32)
    if rng.random() < 0.5:
        # Trilinear cuts and averaged templates are smoother than scans: give some sharpness back.
        blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(image)[None, None], 3, 1, 1)[0, 0].numpy()
        image = (image + rng.uniform(0.2, 1.2) * (image - blurred)).clip(0, None)
    bias = np.exp(smooth_noise(image.shape[-2:], rng.uniform(80, 200), rng) * rng.uniform(0, 0.25))
    return image * bias


def phase(size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random phase in radians, uniform on average."""
    smooth = smooth_noise((size, size), rng.uniform(40, 160), rng) * rng.uniform(0, 1.5)
    return smooth + rng.uniform(0, 2 * np.pi)


class BrainImages:
    """Batches of complex images (B, 2, S, S) whose brightest tissue has magnitude about 1.

    Args:
        seed: Image i of a seed is always the same.
        sizes: Side of the images of a batch and how many there are, with the probability of each.
        sharp: Whether a third of the planes are native and the others may be sharpened.
        held_out: Images of the held-out subject instead, for checks.
    """

    def __init__(
        self, seed: int, sizes: tuple[tuple[int, int, float], ...], sharp: bool = True, held_out: bool = False
    ) -> None:
        self.sharp = sharp
        self.seed = seed
        self.sizes = sizes
        files = HELD_OUT if held_out else TRAINING_SUBJECTS
        self.subjects = {name: Subject.load(entries) for name, entries in files.items()}
        self.weights = [1.0] if held_out else [SUBJECT_WEIGHTS[name] for name in files]

    def __call__(self, step: int) -> Tensor:
        """The batch of training step ``step``."""
        rng = np.random.default_rng([self.seed, step])
        size, count, _ = self.sizes[int(rng.choice(len(self.sizes), p=[p for *_, p in self.sizes]))]
        return torch.stack([self.image(size, rng) for _ in range(count)])

    def image(self, size: int, rng: np.random.Generator) -> Tensor:
        """One image (2, size, size)."""
        names = list(self.subjects)
        for _ in range(20):
            subject = self.subjects[names[int(rng.choice(len(names), p=self.weights))]]
            native = self.sharp and rng.random() < 0.35
            magnitude = contrast((native_plane if native else plane)(subject, size, rng), rng)
            if self.sharp and rng.random() < (0.3 if native else 0.8):
                magnitude = sharpness(magnitude, rng)
            bright = np.percentile(magnitude, 99)
            if bright > 0.05 and (magnitude > 0.2 * bright).mean() > 0.03:
                break
        magnitude = magnitude / bright * np.exp(rng.normal(0, 0.1))
        angle = phase(size, rng)
        return torch.from_numpy(np.stack([magnitude * np.cos(angle), magnitude * np.sin(angle)])).float()
