"""Triton kernels of the gated map: implicit matrix products, as of convolutions, in which gates act in registers.

The value of feature j at pixel p is ``image[corner_p + tap_j]`` of the padded image, whose last channel is of ones
where filters have a constant term. Rows of the products are gate by gate, `OUT` outputs each. Neither patches nor the
response of any gate reaches memory. Weights are zero beyond the last feature and the last gate, taps zero.

Import this only where Triton is there: `fused_map` does.
"""

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    image,
    corners,
    taps,
    weights,
    packed,
    out,
    pixels,
    gates,
    outputs,
    GATES: tl.constexpr,
    FEATURES: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_GATES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out[o, p] = sum_i D_i(p) sum_j W[i, o, j] X[j, p]`` for a tile of pixels.

    image: padded, flat. corners (n,), taps (FEATURES,): integers. weights (GATES OUT, FEATURES). packed
    (ceil(P / 8), n) uint8. out (m, n). GATES and FEATURES are P and d rounded up to whole tiles, OUT is m rounded
    up to a power of two.
    """
    place = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    # Lanes beyond the last pixel repeat it, so that no load needs a mask.
    pixel = tl.minimum(place, pixels - 1)
    corner = tl.load(corners + pixel)
    total = tl.zeros((OUT, BLOCK_PIXELS), dtype=tl.float32)
    for first in range(0, GATES, BLOCK_GATES):
        row = first * OUT + tl.arange(0, BLOCK_GATES * OUT)
        response = tl.zeros((BLOCK_GATES * OUT, BLOCK_PIXELS), dtype=tl.float32)
        for start in range(0, FEATURES, BLOCK_FEATURES):
            feature = start + tl.arange(0, BLOCK_FEATURES)
            filters = tl.load(weights + row[:, None] * FEATURES + feature[None, :])
            patches = tl.load(image + (tl.load(taps + feature)[:, None] + corner[None, :]))
            response = tl.dot(filters, patches, response, input_precision=PRECISION)
        gate = tl.minimum(row // OUT, gates - 1)
        bits = tl.load(packed + (gate // 8).to(tl.int64)[:, None] * pixels + pixel[None, :])
        open_ = ((bits.to(tl.int32) >> (gate % 8)[:, None]) & 1).to(tl.float32)
        # Multiplied, not selected: NaN behind a closed gate must show.
        total += tl.sum(tl.reshape(response * open_, (BLOCK_GATES, OUT, BLOCK_PIXELS)), axis=0)
    output = tl.arange(0, OUT)
    address = out + output.to(tl.int64)[:, None] * pixels + place[None, :]
    tl.store(address, total, mask=(output < outputs)[:, None] & (place < pixels)[None, :])


@triton.jit
def adjoint_kernel(
    image,
    corners,
    taps,
    residual,
    packed,
    sums,
    pixels,
    gates,
    outputs,
    GATES: tl.constexpr,
    FEATURES: tl.constexpr,
    OUT: tl.constexpr,
    SEGMENT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK_GATES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``sums[s, (i, o), j] = sum_p D_i(p) R[o, p] X[j, p]`` over a share s of the pixels, for a tile of (i, o) and j.

    residual (m, n); sums (shares, GATES OUT, FEATURES) float64; the rest as in `forward_kernel`. Products of `SEGMENT`
    pixels are summed in float32, the `SEGMENTS` of a share in float64.
    """
    row = tl.program_id(0) * (BLOCK_GATES * OUT) + tl.arange(0, BLOCK_GATES * OUT)
    feature = tl.program_id(1) * BLOCK_FEATURES + tl.arange(0, BLOCK_FEATURES)
    gate = tl.minimum(row // OUT, gates - 1)
    output = row % OUT
    tap = tl.load(taps + feature)
    begin = tl.program_id(2) * (SEGMENT * SEGMENTS)
    total = tl.zeros((BLOCK_GATES * OUT, BLOCK_FEATURES), dtype=tl.float64)
    for segment in range(SEGMENTS):
        part = tl.zeros((BLOCK_GATES * OUT, BLOCK_FEATURES), dtype=tl.float32)
        for start in range(0, SEGMENT, BLOCK_PIXELS):
            place = begin + segment * SEGMENT + start + tl.arange(0, BLOCK_PIXELS)
            pixel = tl.minimum(place, pixels - 1)
            used = (output < outputs)[:, None] & (place < pixels)[None, :]
            data = tl.load(residual + output.to(tl.int64)[:, None] * pixels + place[None, :], mask=used, other=0.0)
            bits = tl.load(packed + (gate // 8).to(tl.int64)[:, None] * pixels + pixel[None, :])
            gated = data * ((bits.to(tl.int32) >> (gate % 8)[:, None]) & 1).to(tl.float32)
            # Pixels last, along which addresses are contiguous.
            patches = tl.load(image + (tap[:, None] + tl.load(corners + pixel)[None, :]))
            part = tl.dot(gated, tl.trans(patches), part, input_precision=PRECISION)
        total += part.to(tl.float64)
    rows = tl.program_id(2).to(tl.int64) * (GATES * OUT) + row
    tl.store(sums + rows[:, None] * FEATURES + feature[None, :], total)
