"""Named random streams: a key is a function of (seed, names, step) and of nothing else."""

import zlib

import jax


def stream(seed: int, *names: str | int) -> jax.Array:
    """The key of stream `names` of run `seed`. Strings enter by CRC-32, which is the same in every process."""
    return substream(jax.random.key(seed), *names)


def substream(key: jax.Array, *names: str | int | jax.Array) -> jax.Array:
    """The key that `names` lead to from `key`; names may be traced step numbers."""
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()) if isinstance(name, str) else name)
    return key
