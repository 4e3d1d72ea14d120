"""Pictures of any origin as uint8 tensors (C, H, W)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedfm.core.errors import MissingExtra
from fedfm.data.kinds import Wrong

DARK = (
    4096  # a 16-bit picture that stays below is one of 8 or 12 bits in a file of 16, or has no levels to lose
)


def tensor(value: Any, size: int = 0, mode: str = "") -> Any:
    """A picture (PIL, array, file's bytes) as uint8 (C, H, W); raises `Wrong` for what is no picture."""
    import torch

    if isinstance(value, Mapping):  # how `datasets` stores pictures in tables
        try:
            return tensor(value.get("bytes"), size, mode)
        except Wrong as e:
            raise Wrong(f"{e}: {value['path']}" if value.get("path") else str(e), e.fix) from None
    if isinstance(value, str) and value.lstrip().startswith("["):  # how tables hold numbers
        value = _numbers(value)
    if isinstance(value, str):
        fix = "map a column of pictures, or of picture files that lie where it says, relative to the table"
        raise Wrong(f"no picture but the text {value[:40]!r}", fix)
    if isinstance(value, bytes | bytearray):
        value = _opened(bytes(value))
    if isinstance(value, list) and value and not isinstance(value[0], list | tuple):
        value = _squared(value, size)
    array = _pixels(value) if hasattr(value, "getbands") else _array(value)
    if array.shape[0] == 2 or array.shape[0] > 3:  # with alpha
        array = array[: 1 if array.shape[0] == 2 else 3]
    if mode == "RGB" and array.shape[0] == 1:
        array = np.repeat(array, 3, axis=0)
    if mode == "L" and array.shape[0] == 3:  # ITU-R 601-2, as PIL has it
        grey = array[0] * 299.0 + array[1] * 587.0 + array[2] * 114.0
        array = (grey / 1000.0).round().astype("uint8")[None]
    if size and array.shape[1:] != (size, size):
        array = _resized(array, size)
    return torch.from_numpy(np.ascontiguousarray(array))


def _squared(flat: list[Any], size: int) -> Any:
    """Numbers in one list as a picture of the size that was asked for."""
    n, side = len(flat), math.isqrt(len(flat))
    if size and n == size * size:
        return np.asarray(flat).reshape(size, size)
    fix = (
        f"data.image_size={side}, if they are {side} x {side} of grey"
        if side * side == n
        else "give rows of pixels"
    )
    raise Wrong(f"no picture but a list of {n} numbers", fix)


def _numbers(text: str) -> Any:
    try:
        return np.asarray(json.loads(text))
    except (ValueError, RecursionError):
        raise Wrong(f"no picture but the text {text[:20]!r}", "map a column of pictures") from None


def _opened(data: bytes) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtra("pillow", "data", "reading pictures") from None
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        return ImageOps.exif_transpose(picture)  # as everybody sees it
    except Exception as e:  # noqa: BLE001 - a dozen types, all of which mean "no picture"
        raise Wrong(f"no picture that can be read ({type(e).__name__})", "leave the row out") from None


def _pixels(picture: Any) -> Any:
    """(C, H, W) of a PIL picture: 1 and 16-bit grey become grey, palettes and CMYK become RGB."""
    if picture.mode.startswith("I"):  # 16 bits, in 32 where a library opens them so
        return _array(np.array(picture).clip(0, 65535).astype("uint16"))
    if picture.mode == "F":
        return _array(np.array(picture))
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return _array(np.array(picture))


def _array(value: Any) -> Any:  # noqa: C901 - one case after another
    """(C, H, W) uint8 of an array (H, W), (H, W, C) or (C, H, W)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:
            raise Wrong("no picture but a list of uneven rows", "give every row the same width") from None
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or 0 in value.shape:
        shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
        raise Wrong(f"no picture but {type(value).__name__}{shape}", "map a column of pictures")
    if value.ndim == 2:
        value = value[None]
    elif value.shape[0] > 4 >= value.shape[2]:
        value = value.transpose(2, 0, 1)
    elif value.shape[0] > 4:
        raise Wrong(f"an array of shape {value.shape}, where none of the sides is channels", "give (C, H, W)")
    if value.dtype == np.uint8:
        return value
    if value.dtype == np.bool_:
        return value.astype("uint8") * 255
    low, high = float(value.min()), float(value.max())
    if np.issubdtype(value.dtype, np.integer) and low >= 0:
        if high <= 255 and value.dtype != np.uint16 or not high:
            return value.astype("uint8")
        if high < DARK:
            raise Wrong(
                f"a picture of 16 bits whose values end at {high:g}: no more than {int(high) // 256 + 1} of 256 levels would be left",
                "give 8 bits, or values up to 65535 (of 12 bits: times 16)",
            )
        if high <= 65535:
            return (value >> 8).astype("uint8")  # 16 bits: the upper byte
    if np.issubdtype(value.dtype, np.floating) and low >= 0 and high <= 1:
        return (value * 255).round().astype("uint8")
    raise Wrong(f"a picture with values from {low:g} to {high:g}", "give 0..255, 16 bits, or floats in 0..1")


def _resized(array: np.ndarray, size: int) -> np.ndarray:
    import torch

    flat = torch.from_numpy(np.ascontiguousarray(array)).float()[None]
    out = torch.nn.functional.interpolate(flat, (size, size), mode="bilinear", antialias=True)
    return np.asarray(out[0].round().clamp(0, 255).to(torch.uint8).numpy())
