"""Checkpoints that appear whole or not at all.

A checkpoint is written into a staging folder, sealed by a manifest of its files, and renamed. Whatever kills the
process, every `checkpoint-N` with a valid manifest can be resumed from; a folder without one is named and skipped.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from kpod.records.errors import TrainingError
from kpod.records.files import Files, altered_file, flush_to_disk, flushed_files, write_text

MANIFEST = "kpod_manifest.json"
STAGING = ".staging"

_NEEDED = {
    "weights": ("*.safetensors", "*.safetensors.index.json", "pytorch_model_fsdp*", "global_step*"),
    "optimizer state": ("optimizer*", "global_step*"),
    "trainer state": ("trainer_state.json",),
}
"""What a resumable checkpoint holds, by any of these names: plain, FSDP or DeepSpeed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint was made from, and its files.

    Attributes:
        fingerprint: Says from which inputs and recipe; chosen by the caller of `train_student`.
        num_processes: How many processes trained; each has random states of its own.
        files: Relative path -> size in bytes and sha256.
    """

    fingerprint: str
    num_processes: int
    files: Files


def seal(folder: Path, fingerprint: str, num_processes: int) -> None:
    """Write all files of a folder through to the disk, then its manifest."""
    manifest = {"fingerprint": fingerprint, "num_processes": num_processes, "files": flushed_files(folder)}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed folder to its final name, replacing what may be there."""
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    flush_to_disk(final.parent)


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint that is known to be valid."""
    read = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    files = {name: (int(size), str(digest)) for name, (size, digest) in read["files"].items()}
    return Manifest(str(read["fingerprint"]), int(read["num_processes"]), files)


def last_valid_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest `checkpoint-N` that can be resumed from exactly.

    Returns:
        The checkpoint or None, and one line for every newer one that was skipped: its name and what is wrong.
    """
    skipped: list[str] = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        fault = fault_of(checkpoint)
        if fault is None:
            return checkpoint, skipped
        skipped.append(f"{checkpoint.name}: {fault}")
    return None, skipped


def fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be resumed from exactly, or None if it can."""
    try:
        manifest = read_manifest(checkpoint)
    except FileNotFoundError:
        return "it has no manifest: its writing was interrupted"
    except (ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read: {error}"
    return altered_file(checkpoint, manifest.files) or _missing_part(checkpoint, manifest.num_processes)


def refuse_other_inputs(checkpoint: Path, fingerprint: str, num_processes: int) -> None:
    """Raise TrainingError if going on from this checkpoint would not be the same run.

    Raises:
        TrainingError: If it was made from other inputs or by another number of processes.
    """
    manifest = read_manifest(checkpoint)
    if manifest.fingerprint != fingerprint:
        raise TrainingError(
            f"{checkpoint} was made from other data, another schedule or another recipe; "
            f"delete {checkpoint.parent} to train afresh, or give the run another name"
        )
    if manifest.num_processes != num_processes:
        raise TrainingError(
            f"{checkpoint} was made by {manifest.num_processes} processes and cannot be resumed by {num_processes}; "
            f"start as many again, or delete {checkpoint.parent} to train afresh"
        )


def _missing_part(checkpoint: Path, num_processes: int) -> str | None:
    randoms = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(num_processes)]
    parts = {**_NEEDED, **{name: (name,) for name in randoms}}
    for part, patterns in parts.items():
        if not any(path for pattern in patterns for path in checkpoint.glob(pattern)):
            return f"it holds no {part}"
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
