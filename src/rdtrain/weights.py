"""Files of weights, which may be anybody's: only tensors and plain containers are read, and not more than is there."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rdtrain.errors import UserError

SAFETENSORS = ".safetensors"
_MOST_DESCRIPTION = 2**24  # bytes that describe the tensors; 100,000 of them need about as many
_MOST_TENSORS = 100_000
_SHARED = 2  # how often a byte of a file may be part of a tensor; tied weights are stored once


def read_file(path: str | Path) -> Any:
    """Read a file of `torch.save` or safetensors.

    Args:
        path: the file; safetensors by the end of its name.

    Returns:
        Tensors on the CPU in plain containers.

    Raises:
        UserError: the file is damaged, holds anything else, or claims more than it holds; nothing in it was executed.
    """
    path = Path(path)
    try:
        if path.suffix == SAFETENSORS:
            _check_safetensors(path)
            return load_file(path)
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError as error:  # torch's own words tell how to run what is in it
        raise UserError(
            "it is damaged, or holds more than tensors and plain containers; nothing in it was run"
        ) from error
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"no checkpoint of tensors ({reason})") from error


def state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Check that what was read is a state dict.

    Args:
        content: anything.
        path: the file that it came from.

    Returns:
        The same.

    Raises:
        UserError: it is something else, or its values are of no use.
    """
    if not isinstance(content, dict) or not content:
        raise UserError(f"no state dict of tensors but a {type(content).__name__}")
    if len(content) > _MOST_TENSORS:
        raise UserError(f"{len(content)} tensors; no model has more than {_MOST_TENSORS}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not _is_plain(value):
            raise UserError(f"no state dict of plain tensors: {str(name)[:100]} is a {type(value).__name__}")
    claimed = sum(value.numel() * value.element_size() for value in content.values())
    if claimed > _SHARED * Path(path).stat().st_size:
        raise UserError(f"its tensors claim {claimed} bytes, more than the file holds")
    for name, value in content.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{name} holds numbers that are not finite; the training that wrote it had diverged")
    return content


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


def _check_archive(path: Path) -> None:
    # torch.save stores without compression: a record that unfolds to more than the file's size is no checkpoint.
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, which reads as it goes
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    described = sum(record.file_size for record in records if record.filename.endswith(".pkl"))
    if len(records) > _MOST_TENSORS or described > _MOST_DESCRIPTION:
        raise UserError(f"{len(records)} records, described in {described} bytes; no model has as many tensors")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError("compressed, as torch.save never does; save it with torch.save")


def _check_safetensors(path: Path) -> None:
    with open(path, "rb") as file:
        described = int.from_bytes(file.read(8), "little")
    if described > min(_MOST_DESCRIPTION, path.stat().st_size):
        raise UserError(f"no safetensors file: its header claims {described} bytes")
