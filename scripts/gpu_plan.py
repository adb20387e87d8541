"""What there is to do on a GPU: where its tests lie, which benches at which sizes, which studies."""

from __future__ import annotations

TESTS = ("tests/gpu", "tests/properties", "packages")

SANITIZERS = ("memcheck", "racecheck")

REPEATS = 30

OPERATIONS = (
    "selective_scan",
    "linear_scan",
    "causal_conv1d",
    "ssd_scan",
    "diagonal_ssm",
    "fft_conv",
    "vandermonde",
    "cauchy",
)

REAL = ("selective_scan", "linear_scan", "causal_conv1d", "ssd_scan")
"""Operations that are also timed in bfloat16."""


def _settings(**knobs: object) -> list[str]:
    given = {"device": "cuda", "repeats": REPEATS} | knobs
    return [word for name, value in given.items() if value for word in ("--set", f"{name}={value}")]


def _kernels() -> dict[str, list[str]]:
    sizes = [(op, "float32") for op in OPERATIONS] + [(op, "bfloat16") for op in REAL]
    return {
        f"kernels {op} {dtype}": ["kernels", *_settings(sizes="large", only=op, dtype=dtype, long="false")]
        for op, dtype in sizes
    }


_DECODING = {"graph": "true", "operations": "true", "d_model": 768, "steps": 100, "repeats": None}
"""A step of one layer of each backbone as a CUDA graph, in microseconds, and of the two updates alone."""

BENCHES: dict[str, list[str]] = _kernels() | {
    "gate float32": ["smr-gate", *_settings(length=2048, width=1536)],
    "gate bfloat16": ["smr-gate", *_settings(length=2048, width=1536, dtype="bfloat16")],
    "resampling": ["serpent", *_settings()],
    "resampling long": ["serpent", *_settings(batch=4, length=16384, direct="false", long=262144)],
    "generation": ["generation", *_settings(**_DECODING, late=10000)],
    "generation of 64": ["generation", *_settings(**_DECODING, late=2000, batch=64)],
    "layers": ["layers", *_settings(lengths="1024,4096,16384", tokens=65536, d_model=768, repeats=10)],
    "overhead of smr": ["smr", *_settings(width=768, batch=8, repeats=10)],
    "s5 layer": ["s5-layer", *_settings()],
    "kernels, time per element": ["kernels", *_settings(sizes="small", only="scan", repeats=10)],
}
"""Words after `ssm bench`, by name. Sizes: Mamba 130M's layer and the Long Range Arena's lengths."""

STUDIES: dict[str, list[str]] = {
    "sampling-shift": [
        "sampling-shift",
        *("--only", "gate=none", "--only", "gate=smr depthwise", "--only", "gate=smr dense"),
        *("--seeds", "0-9"),
    ],
    "pendulum-published": ["scripts/gpu_pendulum.toml"],
}
"""Words after `ssm study`, by name."""
