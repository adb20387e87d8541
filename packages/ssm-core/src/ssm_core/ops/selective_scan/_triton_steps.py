"""One step of the selective scan in Triton: a_bar and gain from A and the gap, their slopes, and how two steps combine.

METHOD is 0 for Mamba's rule, 1 for a zero-order hold, 2 for the bilinear rule, as in `discretization.METHODS`. Where
|dt A| < 1/2, phi_1(z) = (exp(z) - 1) / z and its derivative come from their series of 13 terms, elsewhere from exp:
neither then cancels. Complex numbers are pairs of real ones. Constants are whole numbers, since Triton reads others as
float32.
"""

import triton
import triton.language as tl


@triton.jit
def combine(a, b, a_next, b_next):
    return a * a_next, a_next * b + b_next


@triton.jit
def combine_wide(a, ai, b, bi, c, ci, d, di):
    return a * c - ai * ci, a * ci + ai * c, c * b - ci * bi + d, c * bi + ci * b + di


@triton.jit
def factors(a, gap, METHOD: tl.constexpr):
    """(a_bar, gain) of real a."""
    z = gap * a
    if METHOD == 0:
        return tl.exp(z), gap + 0.0 * z
    elif METHOD == 1:
        e = tl.exp(z)
        return e, gap * _phi(z, e)
    else:
        scale = 1.0 / (1.0 - 0.5 * z)
        return (1.0 + 0.5 * z) * scale, gap * scale


@triton.jit
def slopes(a, gap, a_bar, METHOD: tl.constexpr):
    """(e, e_gain, v) of real a: d a_bar = e (a d gap + gap d a), d gain = e_gain d gap + v d a."""
    z = gap * a
    if METHOD == 0:
        return a_bar, z * 0.0 + 1.0, z * 0.0
    elif METHOD == 1:
        return a_bar, a_bar, gap * gap * _phi_slope(z, a_bar)
    else:
        scale = 1.0 / (1.0 - 0.5 * z)
        return scale * scale, scale * scale, 0.5 * gap * gap * scale * scale


@triton.jit
def _phi(z, e):
    near = z * z < 0.25
    # 1 + z/2 (1 + z/3 (1 + z/4 ...))
    total = z * 0.0 + 1.0
    for k in tl.static_range(13):
        total = 1.0 + total * z / (14.0 - k)
    return tl.where(near, total, (e - 1.0) / tl.where(near, 1.0, z))


@triton.jit
def _phi_slope(z, e):
    """phi_1'(z) = sum_k (k+1) / (k+2)! z^k."""
    near = z * z < 0.25
    # term k+1 is term k times z (k+2) / ((k+1) (k+3))
    total = z * 0.0 + 1.0
    for k in tl.static_range(13):
        total = 1.0 + total * z * (14.0 - k) / ((13.0 - k) * (15.0 - k))
    far = tl.where(near, 1.0, z)
    return tl.where(near, 0.5 * total, (e - (e - 1.0) / far) / far)


@triton.jit
def factors_wide(a, ai, gap, METHOD: tl.constexpr):
    """(Re a_bar, Im a_bar, Re gain, Im gain)."""
    x, y = gap * a, gap * ai
    if METHOD == 0:
        e, ei = _exp_wide(x, y)
        return e, ei, gap + 0.0 * x, 0.0 * x
    elif METHOD == 1:
        e, ei = _exp_wide(x, y)
        p, pi = _phi_wide(x, y, e, ei)
        return e, ei, gap * p, gap * pi
    else:
        r, ri = _resolvent(0.5 * x, 0.5 * y)
        return (1.0 + 0.5 * x) * r - 0.5 * y * ri, (1.0 + 0.5 * x) * ri + 0.5 * y * r, gap * r, gap * ri


@triton.jit
def slopes_wide(a, ai, gap, e, ei, METHOD: tl.constexpr):
    """Real and imaginary parts of (e, e_gain, v), as in `slopes`."""
    x, y = gap * a, gap * ai
    if METHOD == 0:
        return e, ei, 0.0 * x + 1.0, 0.0 * x, 0.0 * x, 0.0 * x
    elif METHOD == 1:
        p, pi = _phi_slope_wide(x, y, e, ei)
        return e, ei, e, ei, gap * gap * p, gap * gap * pi
    else:
        r, ri = _resolvent(0.5 * x, 0.5 * y)
        s, si = r * r - ri * ri, 2.0 * r * ri
        return s, si, s, si, 0.5 * gap * gap * s, 0.5 * gap * gap * si


@triton.jit
def _exp_wide(x, y):
    size = tl.exp(x)
    return size * tl.cos(y), size * tl.sin(y)


@triton.jit
def _resolvent(x, y):
    """1 / (1 - x - iy)."""
    scale = 1.0 / ((1.0 - x) * (1.0 - x) + y * y)
    return (1.0 - x) * scale, y * scale


@triton.jit
def _over(p, pi, x, y):
    """(p + i pi) / (x + iy)."""
    scale = 1.0 / (x * x + y * y)
    return (p * x + pi * y) * scale, (pi * x - p * y) * scale


@triton.jit
def _phi_wide(x, y, e, ei):
    near = x * x + y * y < 0.25
    p, pi = x * 0.0 + 1.0, x * 0.0
    for k in tl.static_range(13):
        p, pi = 1.0 + (p * x - pi * y) / (14.0 - k), (p * y + pi * x) / (14.0 - k)
    far, fari = _over(e - 1.0, ei, tl.where(near, 1.0, x), y)
    return tl.where(near, p, far), tl.where(near, pi, fari)


@triton.jit
def _phi_slope_wide(x, y, e, ei):
    near = x * x + y * y < 0.25
    p, pi = x * 0.0 + 1.0, x * 0.0
    for k in tl.static_range(13):
        up, down = 14.0 - k, (13.0 - k) * (15.0 - k)
        p, pi = 1.0 + (p * x - pi * y) * up / down, (p * y + pi * x) * up / down
    safe = tl.where(near, 1.0, x)
    phi, phii = _over(e - 1.0, ei, safe, y)
    far, fari = _over(e - phi, ei - phii, safe, y)
    return tl.where(near, 0.5 * p, far), tl.where(near, 0.5 * pi, fari)
