"""`wallwm ckpt`: verify, compare and export checkpoints."""

import pathlib
from collections.abc import Iterator

import numpy as np
from jax import Array

from wallwm_jax.core.errors import InputError
from wallwm_jax.train.checkpoint import committed_steps, differences, read_arrays, read_checkpoint
from wallwm_jax.train.export import export_parameters
from wallwm_jax.train.manifest import damaged_files, read_manifest


def verify(path: str) -> int:
    """Prints every damaged file of a step, or of all steps of a folder; 1 if there is one, else 0."""
    directory, step = locate(path)
    count = 0
    for number in committed_steps(directory) if step is None else [step]:
        folder = directory / str(number)
        problems = list(_problems(folder))
        count += len(problems)
        print(*problems, f"{folder}: {f'{len(problems)} damaged' if problems else 'as it was saved'}", sep="\n")
    return int(count > 0)


def diff(first: str, second: str) -> int:
    """Prints arrays and fields of the records in which two checkpoints differ; 1 if there are any, else 0."""
    (step, arrays, records, _), (other_step, others, other_records, _) = (
        read_arrays(*locate(p)) for p in (first, second)
    )
    lines = [f"step: {step} -> {other_step}"] if step != other_step else []
    for name in sorted({*arrays, *others}):
        line = _array_difference(arrays.get(name), others.get(name))
        lines += [f"{name}: {line}"] if line else []
    pair = ({name: dict(part) for name, part in found._asdict().items()} for found in (records, other_records))
    lines += [f"{path}: {found} -> {expected}" for path, found, expected in differences(*pair)]
    print(*(lines or ["no difference"]), sep="\n")
    return int(bool(lines))


def export(path: str, output: str, averaged: bool) -> None:
    """Writes the parameters of a checkpoint, raw or averaged, as safetensors and says how many there are."""
    if not output.endswith(".safetensors"):
        raise InputError("--output", repr(output), "FILE.safetensors")
    checkpoint = read_checkpoint(*locate(path))
    count = export_parameters(checkpoint, pathlib.Path(output), averaged=averaged)
    kind = "averaged" if averaged else "raw"
    print(f"{output}: {count} {kind} arrays of step {checkpoint.step}")


def locate(path: str) -> tuple[pathlib.Path, int | None]:
    """(folder of checkpoints, step or None for the newest); raises InputError where there is no checkpoint."""
    folder = pathlib.Path(path).absolute()
    if committed_steps(folder):
        return folder, None
    if folder.name.isdecimal() and int(folder.name) in committed_steps(folder.parent):
        return folder.parent, int(folder.name)
    raise InputError(f"checkpoint {path}", "no saved step", "a folder of checkpoints, or one step of it")


def _problems(folder: pathlib.Path) -> Iterator[str]:
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        yield str(error)
        return
    for damage in damaged_files(folder, manifest):
        yield str(damage.error())


def _array_difference(found: Array | None, other: Array | None) -> str | None:
    """What differs, None if nothing does."""
    texts = ["absent" if array is None else f"{array.dtype}{list(array.shape)}" for array in (found, other)]
    if texts[0] != texts[1]:
        return " -> ".join(texts)
    first, second = np.asarray(found), np.asarray(other)
    if first.tobytes() == second.tobytes():
        return None
    gap = np.abs(first.astype(np.float64) - second.astype(np.float64)).max()
    return f"{texts[0]}, largest difference {gap:.6g}"
