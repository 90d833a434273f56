"""The page that answers for a pixel, and for others that one clicks: self-contained, data and script inside."""

import base64
import io
import json
import os
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from convexrecon.atomic_write import write_text
from convexrecon.interpret.explanation import Explainer, PixelExplanation
from convexrecon.interpret.pixel import PixelFilter
from convexrecon.interpret.two_layers import has_two_layers, switched_filters
from convexrecon.report.html import Section, render_report
from convexrecon.report.planes import Array, plane_of

# Rows are shown this many decibels down, at most so many pixels a side.
ROW_RANGE = 60
ROW_SIDE = 128
# What lies within so many pixels counts as near.
NEAR = 5
_COLOURS = {"signed": "RdBu_r", "gain": "magma", "row": "inferno"}
_STYLE = """<style>
#explain-image { cursor: crosshair; image-rendering: pixelated; max-width: 100%; }
.explain { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; align-items: center; margin: .5rem 0; }
.strip figure { margin: 0; } .strip figcaption { font-size: .78rem; margin: 0; }
.label { width: 9rem; font-size: .85rem; } canvas { image-rendering: pixelated; }
#explain-choices button { margin-right: .4rem; font: inherit; font-size: .85rem; }
</style>"""


def write_explanation(
    path: str | os.PathLike[str],
    asked: Explainer,
    explanations: Sequence[PixelExplanation],
    *,
    title: str,
    subtitle: str = "",
    crop: tuple[slice, slice] = (slice(None), slice(None)),
    spacing: Sequence[float] | None = None,
) -> None:
    """Write the page, atomically.

    Args:
        path: the HTML file.
        asked: the measurement.
        explanations: of pixels in one plane, the first the one that the page opens with.
        title: heading.
        subtitle: one line under it.
        crop: the part of the plane (y, x) that is shown; pixels are counted from its corner.
        spacing: pixel size in mm along y and x, for a scale bar.
    """
    data = page_data(asked, explanations, crop) | {"spacing": None if spacing is None else list(spacing)}
    script = resources.files("convexrecon.report").joinpath("explain_page.js").read_text(encoding="utf-8")
    # "</" inside a script would end it.
    embedded = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    body = (
        f"{_STYLE}<p><strong id='explain-pixel'></strong>. Click the image, or add #pixel=y,x to the address, for the "
        "nearest of the blue points.</p><div class='explain'><div><div id='explain-choices'></div>"
        "<canvas id='explain-image'></canvas></div><div id='explain-numbers' class='scroll'></div></div>"
    )
    row = (
        "<div class='explain'><canvas id='explain-row'></canvas><p id='explain-near'></p></div>"
        f"<p>From {-ROW_RANGE} dB (black) to the largest weight (bright).</p>"
    )
    blocks = (
        f"<div id='explain-blocks'></div><script type='application/json' id='explain-data'>{embedded}</script>"
        f"<script>{script}</script>"
    )
    sections = [
        Section("The pixel", _ABOUT_PIXEL[:1], [body]),
        Section("What it depends on", _ABOUT_ROW, [row]),
        Section("Block by block", _ABOUT_BLOCKS, [blocks]),
    ]
    write_text(path, render_report(title, sections, subtitle=subtitle))


_ABOUT_PIXEL = ("Values are divided by the 95th percentile of the zero-filled magnitude, as the network sees them.",)
_ABOUT_ROW = (
    "The row of the whole network's exact local linear map: how far each pixel of the initial image moves the "
    "magnitude of this one, all gates and ReLUs held as they are, the measured samples too.",
)
_ABOUT_BLOCKS = (
    "At this input each denoiser is one linear filter at this pixel. Taps are without the skip; contributions are taps "
    "times the block's input, and with skip and constant they sum to the denoiser's output. Red is positive, blue "
    "negative.",
)


def page_data(asked: Explainer, explanations: Sequence[PixelExplanation], crop: tuple[slice, slice]) -> dict[str, Any]:
    """What the page's script draws from, JSON-able; pixels as (y, x) of the cropped plane."""
    plane = explanations[0].pixel[:-2]
    corner = tuple(part.start or 0 for part in crop)

    def cut(image: Tensor) -> Array:
        return plane_of(image.detach().cpu().numpy(), plane)[crop]

    output, initial = cut(asked.local.output[0]), cut(asked.local.point[0])
    magnitudes = {"reconstruction": np.abs(output), "initial image": np.abs(initial)}
    white = float(np.percentile(np.abs(output), 99.8)) or 1.0
    images = {name: _png(image / white, "gray") for name, image in magnitudes.items()}
    peak = white
    if asked.reference is not None:
        reference = cut(asked.reference)
        peak = float(asked.reference.abs().max()) or 1.0
        images["reference"] = _png(np.abs(reference) / white, "gray")
        images["error × 5"] = _png(5 * np.abs(output - reference) / white, "inferno")
    first = explanations[0]
    rows = [_row(found, crop) for found in explanations]
    return {
        "shape": list(output.shape),
        "images": images,
        "peak": peak,
        "near": NEAR,
        "row_columns": rows[0][1],
        "colours": {
            name: _b64((255 * colormaps[used](np.arange(256))[:, :3]).astype(np.uint8))
            for name, used in _COLOURS.items()
        },
        "channels": _channels(asked),
        "steps": _steps(len(first.blocks)),
        "blocks": [_about(asked, number, read) for number, read in enumerate(first.blocks)],
        "pixels": [
            {
                "at": [found.pixel[-2] - corner[0], found.pixel[-1] - corner[1]],
                "values": [_pair(value) for value in found.values],
                "reference": None if found.reference is None else _pair(found.reference),
                "row": row,
                "near": near,
                "blocks": [_block(read) for read in found.blocks],
            }
            for found, (row, _, near) in zip(explanations, rows, strict=True)
        ],
    }


def _about(asked: Explainer, number: int, read: PixelFilter) -> dict[str, Any]:
    """What of a block is the same for all pixels."""
    denoiser = list(asked.cascade)[number].denoiser
    norms = switched_filters(denoiser).norms.tolist() if has_two_layers(denoiser) else []
    return {
        "inputs": read.taps.shape[1],
        "window": list(read.taps.shape[2:]),
        "norms": [float(f"{norm:.4g}") for norm in norms],
        "unit": "gates" if getattr(denoiser, "kind", "") == "gated" else "hidden units",
    }


def _block(read: PixelFilter) -> dict[str, Any]:
    return {
        "gates": None if read.gates is None else "".join("1" if open_ else "0" for open_ in read.gates.tolist()),
        "taps": _packed(read.taps),
        "neighbourhood": _packed(read.neighbourhood),
        "skip": _rounded(read.skip),
        "sum": _rounded(read.contributions.flatten(1).sum(1)),
        "constant": _rounded(read.constant),
        "output": _rounded(read.output),
    }


def _row(found: PixelExplanation, crop: tuple[slice, slice]) -> tuple[str, int, float]:
    """The row in decibels as bytes, at most `ROW_SIDE` a side; its columns; the share of its energy that is near."""
    whole = np.abs(found.row.detach().cpu().numpy())
    window = tuple(slice(max(index - NEAR, 0), index + NEAR + 1) for index in found.pixel)
    energy = float(np.square(whole).sum())
    shown = plane_of(whole, found.pixel[:-2])[crop]
    pool = -(-max(shown.shape) // ROW_SIDE)
    padded = np.pad(shown, [(0, -size % pool) for size in shown.shape])
    pooled = padded.reshape(padded.shape[0] // pool, pool, -1, pool).max((1, 3))
    level = 20 * np.log10(np.maximum(pooled / max(float(whole.max()), 1e-30), 10 ** (-ROW_RANGE / 20)))
    scaled = np.round(255 * (1 + level / ROW_RANGE)).astype(np.uint8)
    near = float(np.square(whole[window]).sum()) / energy if energy else 0.0
    return _b64(scaled), scaled.shape[1], near


def _channels(asked: Explainer) -> list[str]:
    names = [name for block in asked.cascade for name in block.inputs]
    several = list(dict.fromkeys(names))
    if len(several) == 1:
        return ["real", "imaginary"]
    return [f"{part} of {name.replace('_', '-')}" for name in several for part in ("real", "imaginary")]


def _steps(blocks: int) -> list[str]:
    return ["initial image"] + [
        f"{step} {block}" for block in range(1, blocks + 1) for step in ("denoiser", "consistency")
    ]


def _packed(values: Tensor) -> dict[str, Any]:
    """Numbers as 16-bit integers of one scale, which is 1 / 32767 of the largest."""
    array = values.detach().cpu().double().numpy()
    scale = float(np.abs(array).max()) / 32767 or 1.0
    return {"scale": scale, "data": _b64(np.round(array / scale).astype("<i2"))}


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 7) for value in values]


def _pair(value: complex) -> list[float]:
    return [round(value.real, 7), round(value.imag, 7)]


def _png(shares: Array, colours: str) -> str:
    """A picture of values from 0 to 1 as the address of a PNG."""
    rgb = (255 * colormaps[colours](np.clip(shares, 0, 1))[..., :3]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _b64(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def as_slices(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """The centre of (y, x) that `physics.fourier.crop_centre` keeps, as slices.

    >>> as_slices((8, 6), (4, 6))
    (slice(2, 6, None), slice(0, 6, None))
    """
    kept = [min(have, wanted) for have, wanted in zip(shape, size, strict=True)]
    starts = [have // 2 - keep // 2 for have, keep in zip(shape, kept, strict=True)]
    first, second = (slice(start, start + keep) for start, keep in zip(starts, kept, strict=True))
    return first, second
