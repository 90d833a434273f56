"""A convex cascade against CG-SENSE and L1-wavelet on a measured spiral, trained on simulated scans along the same one.

Scans other images along a measured scan's own interleaves (8 simulated coils, noise), as large as its object, which
reaches beyond the field of view; trains a run for every acceleration; and tests it on the measured scan. Weights of the
classical methods are tuned on validation images, and once more on the measured scan itself. The scan is an .npz of
`kspace` (coil, shot, sample) and `coord` (shot, sample, 2), cycles per field of view. Run:

    python benchmarks/measured_spiral.py --spiral scan.npz --images train.npy --validation-images val.npy --out work
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.anatomy import random_anatomy
from convexrecon.data.coils import random_coils
from convexrecon.data.dataset import Batch, PreparedSlices
from convexrecon.data.image_stacks import load_image_stack
from convexrecon.data.ismrmrd_writing import write_samples
from convexrecon.data.kspace_simulation import coil_noise
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.evaluate.baselines import Reconstruction, tune, zero_filled
from convexrecon.evaluate.classical import classical_methods
from convexrecon.evaluate.metrics import psnr, psnr_magnitude, ssim
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.initial_image import INITIAL_IMAGES, WEIGHTED_IMAGES
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.nufft import Nufft, uncentre_samples
from convexrecon.seeding import derive_seed, generator
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train


def measured(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples (1, C, shots, S) of the centre of k-space, coordinates (shots, S, 2) in cycles per field of view."""
    with np.load(path) as stored:
        samples, coordinates = stored["kspace"], stored["coord"]
    inside = np.linalg.norm(coordinates, axis=-1).max(0) < size / 2
    return samples[None, :, :, inside], coordinates[:, inside].astype(np.float32)


def scanned(image: np.ndarray, coordinates: Tensor, room: float, noise: float, seed: int) -> np.ndarray:
    """(1, 8, shots, S): an image (y, x) as wide as `room` fields of view, along coordinates (shots, S, 2)."""
    flat, shape = room * coordinates.flatten(0, 1), (int(image.shape[0]), int(image.shape[1]))
    y, x = (np.linspace(-1, 1, n, endpoint=False) for n in shape)
    maps = random_coils(8, seed).sensitivities(y[:, None], x[None])
    samples = Nufft(flat, shape, 1e-6).forward(torch.from_numpy(maps * image))
    # From the origin at index 0 to the middle: the conjugate of the phase that goes the other way.
    centred = uncentre_samples(samples.conj(), flat, shape).conj()
    deviation = noise * float(np.percentile(np.abs(image), 95))
    noisy = centred + coil_noise(centred, deviation, generator(seed, "noise"))
    return noisy.unflatten(-1, coordinates.shape[:2]).numpy()[None]


def phantoms(count: int, part: str) -> list[np.ndarray]:
    """Simulated phantoms (256, 256), complex64, each pixel the mean of nine points."""
    subjects = [random_anatomy("phantom", derive_seed(0, part, "phantom", index)) for index in range(count)]
    return [one.render((256, 256)).reshape(256, 3, 256, 3).mean((1, 3)) for one in subjects]


def prepared(options: argparse.Namespace) -> dict[str, Path]:
    """Prepared scans: "train", "validation" and "test"; what is there is taken as it is."""
    samples, coordinates = measured(options.spiral, options.size)
    encoded = (options.size, options.size, 1)
    settings = PreparationSettings(field_of_view=options.room)
    found = {}
    for part, stack in (("train", options.images), ("validation", options.validation_images), ("test", None)):
        scans = options.out / "scans" / part
        if not scans.exists():
            scans.mkdir(parents=True)
            if stack is None:
                write_samples(scans / "measured.h5", samples, coordinates, encoded, trajectory="spiral")
            images = [] if stack is None else [*load_image_stack(stack), *phantoms(options.phantoms[part], part)]
            for index, image in enumerate(images):
                seed = derive_seed(0, part, index)
                drawn = scanned(image, torch.from_numpy(coordinates), options.room, options.noise, seed)
                write_samples(scans / f"{part}_{index:03d}.h5", drawn, coordinates, encoded, trajectory="spiral")
        found[part] = options.out / "prepared" / part
        prepare(scans, found[part], settings)
    return found


def run(acceleration: float, options: argparse.Namespace) -> RunSettings:
    """A start from compressed sensing unless said otherwise; random phases; half of the gates whitened."""
    return RunSettings(
        mask=MaskSettings("shots", acceleration),
        random_phase=True,
        model=ModelSettings(
            blocks=options.blocks,
            kernel=options.kernel,
            units=options.units,
            initial=options.initial,
            initial_weight=options.initial_weight,
            inputs=tuple(options.inputs),
        ),
        convex=ConvexSettings(
            ProgramSettings(tolerance=1e-4, beta_ratio=options.beta),
            gates="patches",
            whitened=0.5,
            lam_scale=options.lam_scale,
            lam_slices=6,
            pixel_fraction=options.pixel_fraction,
        ),
    )


def cropped(method: Reconstruction, size: tuple[int, ...]) -> Reconstruction:
    """A method whose images are of the field of view that the scan was planned for."""
    return lambda sense, kspace, lam: crop_centre(method(sense, kspace, lam), size)


def with_lam(method: Reconstruction, lam: float) -> Callable[[ForwardModel, Tensor], Tensor]:
    """A method with its weight chosen."""
    return lambda sense, kspace: method(sense, kspace, lam)


def tuned(method: Reconstruction, batches: list[Batch], low: float, high: float) -> float:
    """The best weight on the batches, scored within the field of view."""
    samples = [(b.sense, b.kspace, crop_centre(b.target, b.recon_size)) for b in batches]
    return tune(cropped(method, batches[0].recon_size), samples, low=low, high=high, points=4, refinements=2).lam


def row(name: str, batch: Batch, image: Tensor) -> str:
    """A line of the table."""
    x, truth = (crop_centre(one, batch.recon_size)[0].numpy() for one in (image, batch.target))
    similar = ssim(x, truth, float(np.abs(truth).max()))
    return f"| {name} | {psnr(x, truth):.2f} | {psnr_magnitude(x, truth):.2f} | {similar:.4f} |"


def compared(acceleration: float, data: dict[str, Path], options: argparse.Namespace) -> None:
    """Train a run and print a table of the measured scan and of the validation images."""
    settings, folder = run(acceleration, options), options.out / f"{options.name}_R{acceleration:g}"
    cascade = train(settings, data["train"], folder, validation=data["validation"])
    of = {part: PreparedSlices(data[part], settings.mask, seed=settings.seed) for part in ("validation", "test")}
    validation = [of["validation"].load(index) for index in range(min(2, len(of["validation"])))]
    test = of["test"].load(0)
    spent = RunFolder(folder).read_summary()["training_seconds"]
    print(f"\nR = {acceleration:g}, trained in {spent:.0f} s; measured scan:", flush=True)
    start = f"start, {cascade.initial}" + (f" {weight:.2g}" if (weight := cascade.initial_weight) else "")
    methods: dict[str, Callable[[ForwardModel, Tensor], Tensor]] = {
        "zero-filled": zero_filled,
        start: lambda sense, kspace: next(cascade.images(sense, kspace)),
        "convex": cascade,
    }
    with torch.no_grad():
        for name, network in methods.items():
            print(row(name, test, network(test.sense, test.kspace)), flush=True)
        for method in classical_methods("noncartesian") if options.classical else ():
            for where, batches in (("validation", validation), ("the measured scan", [test])):
                lam = tuned(method.reconstruct, batches, method.low, method.high)
                name = f"{method.name}, lam {lam:.2g} tuned on {where}"
                if where == "validation":
                    methods[name] = with_lam(method.reconstruct, lam)
                print(row(name, test, method.reconstruct(test.sense, test.kspace, lam)), flush=True)
        print("mean PSNR of the validation images:")
        for name, network in methods.items():
            scores = [
                psnr(crop_centre(network(b.sense, b.kspace), b.recon_size), crop_centre(b.target, b.recon_size))
                for b in validation
            ]
            print(f"| {name} | {np.mean(scores):.2f} |", flush=True)


def main() -> None:
    """Prepare, then compare at each acceleration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spiral", type=Path, required=True, help="the measured scan, .npz")
    parser.add_argument("--images", type=Path, required=True, help="image stack to train on")
    parser.add_argument("--validation-images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="run")
    parser.add_argument("--accelerations", type=float, nargs="*", default=[6.0, 4.0])
    parser.add_argument("--size", type=int, default=128, help="pixels of the planned field of view")
    parser.add_argument("--room", type=float, default=1.5)
    parser.add_argument("--noise", type=float, default=0.028, help="of the 95th percentile, that of the scan")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--kernel", type=int, default=5)
    parser.add_argument("--initial", default="l1_wavelet", choices=(*INITIAL_IMAGES, *WEIGHTED_IMAGES))
    parser.add_argument("--initial-weight", type=float, help="chosen on training samples if left out")
    parser.add_argument("--inputs", nargs="+", default=["image"], help="images that denoisers see")
    parser.add_argument("--beta", type=float, default=1e-4, help="relative to beta_max")
    parser.add_argument("--lam-scale", type=float, default=1.0)
    parser.add_argument("--pixel-fraction", type=float, default=0.3)
    parser.add_argument("--classical", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--phantoms", type=int, nargs=2, default=[0, 0], help="to train and to validate on, besides")
    options = parser.parse_args()
    options.phantoms = dict(zip(("train", "validation"), options.phantoms, strict=True))
    torch.set_num_threads(options.threads)
    data = prepared(options)
    for acceleration in options.accelerations:
        compared(acceleration, data, options)


if __name__ == "__main__":
    main()
