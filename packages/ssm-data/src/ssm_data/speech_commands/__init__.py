"""Spoken words as raw waves, from the Speech Commands files (spec, find, wav, blob, data, task)."""
