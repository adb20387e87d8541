"""A clip from the bytes of its .wav file."""

from __future__ import annotations

import io
import wave

import numpy as np
from numpy.typing import NDArray

from ssm_data.speech_commands.spec import RATE


def samples(content: bytes) -> NDArray[np.int16]:
    """Return the samples (L,) of a clip, 1 <= L <= 16000.

    Raises:
        ValueError: If it is no wav file of one channel of 16 bits at 16 kHz, is cut short, empty, or longer than a
            second.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            kind = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            count = file.getnframes()
            frames = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError) as error:  # the last for sizes that overlap
        raise ValueError(f"it is no wav file of plain samples ({error or 'it ends in its head'})") from None
    if kind != (1, 16, RATE):
        channels, bits, rate = kind
        raise ValueError(f"it has {channels} channels of {bits} bits at {rate} Hz, not 1 of 16 at {RATE}")
    if len(frames) != 2 * count:
        raise ValueError(f"it is cut short: {len(frames) // 2} of {count} samples")
    if not 0 < count <= RATE:
        raise ValueError(f"it has {count} samples; a clip has 1 to {RATE}")
    return np.frombuffer(frames, "<i2").astype(np.int16)
