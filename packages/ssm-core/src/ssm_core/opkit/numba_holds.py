"""One step of x' = a x + u over a gap d, for complex a, in kernels: factors and their slopes, all in float64.

Each returns (Re a_bar, Im a_bar, Re gain, Im gain) as `ssm_core.discretize` defines them. The caller hands in 1 / a, 0
where a is, so that nothing divides in the loop.
"""

from ssm_core.opkit.numba_exp import expm1
from ssm_core.opkit.numba_runtime import inlined


@inlined
def zoh(d, a_re, a_im, inverse_re, inverse_im):
    """exp(z) and (exp(z) - 1) / a for z = d a; by d (1 + z/2 + z^2/6) where z is tiny, a = 0 included."""
    x, y = d * a_re, d * a_im
    m_re, m_im = expm1(x, y)
    near = x * x + y * y < 1e-12
    s_re, s_im = 0.5 + x / 6.0, y / 6.0
    s_re, s_im = 1.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    gain_re = d * s_re if near else m_re * inverse_re - m_im * inverse_im
    gain_im = d * s_im if near else m_re * inverse_im + m_im * inverse_re
    return m_re + 1.0, m_im, gain_re, gain_im


@inlined
def zoh_slope(d, a_re, a_im, inverse_re, inverse_im, bar_re, bar_im, gain_re, gain_im):
    """d gain / d a = (dt a_bar - gain) / a, by its series dt^2 sum (k+1)/(k+2)! z^k where that would cancel."""
    x, y = d * a_re, d * a_im
    near = x * x + y * y < 4e-4
    s_re, s_im = 1.0 / 840.0 + x / 5760.0, y / 5760.0
    s_re, s_im = 1.0 / 144.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    s_re, s_im = 1.0 / 30.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    s_re, s_im = 1.0 / 8.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    s_re, s_im = 1.0 / 3.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    s_re, s_im = 1.0 / 2.0 + (x * s_re - y * s_im), x * s_im + y * s_re
    far_re, far_im = d * bar_re - gain_re, d * bar_im - gain_im
    v_re = d * d * s_re if near else far_re * inverse_re - far_im * inverse_im
    v_im = d * d * s_im if near else far_re * inverse_im + far_im * inverse_re
    return v_re, v_im


@inlined
def bilinear(d, a_re, a_im):
    """(1 + z/2) / (1 - z/2) and dt / (1 - z/2) for z = d a. Here e = 1 / (1 - z/2)^2 and v = dt^2/2 e."""
    x, y = 0.5 * d * a_re, 0.5 * d * a_im
    r_re, r_im = resolvent(x, y)
    return (1.0 + x) * r_re - y * r_im, (1.0 + x) * r_im + y * r_re, d * r_re, d * r_im


@inlined
def resolvent(x, y):
    """1 / (1 - x - iy)."""
    scale = 1.0 / ((1.0 - x) * (1.0 - x) + y * y)
    return (1.0 - x) * scale, y * scale
