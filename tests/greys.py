"""Grey pictures, small and told apart by their one colour, and a manifest of as many of them as a run should last for."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

GREYS = 251  # a prime: no row number divides evenly into these


def png(grey: int, width: int = 20, height: int = 10) -> bytes:
    """A PNG file of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(buffer, "PNG")
    return buffer.getvalue()


def grey_manifest(folder: Path, rows: int, width: int = 40, height: int = 30) -> str:
    """Path of a manifest with the images in its rows; row n has the grey n % GREYS and the caption "c<n>"."""
    folder.mkdir(exist_ok=True)
    images = [png(grey, width, height) for grey in range(min(GREYS, rows))]
    table = pa.table({"image": [images[n % GREYS] for n in range(rows)], "caption": [f"c{n}" for n in range(rows)]})
    pq.write_table(table, folder / "m.parquet")
    return str(folder / "m.parquet")
