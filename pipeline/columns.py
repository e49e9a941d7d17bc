"""Which column of a manifest is what: recognition by the names that public datasets use, and by type.

    role     type                     names, first match wins; upper and lower case are alike
    url      text                     url, image_url, imageurl, img_url, image_path, img_path, image_file, file_name,
                                      filename, filepath, path, image
    caption  text, list of text       caption, captions, text, texts, alt_text, alttext
    image    binary,                  image, image_bytes, img, bytes, jpg, jpeg, png, webp
             struct<bytes, path>
    sha256   text                     none: rows fail by it, so the user has to ask for that
    key      text, integer            key, __key__, uid, id, image_id, sample_id

So LAION (URL, TEXT), DataComp (uid, url, text), Conceptual Captions (image_url, caption) and Hugging Face's image datasets
(image, caption) need no settings. A name set by the user is taken exactly, before any of these. A column of the right name
and the wrong type is passed over. Knows nothing of files or of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa
import pyarrow.types as pt

from pipeline.config import ColumnsConfig
from pipeline.errors import ManifestError

NAMES = {
    "url": (
        *("url", "image_url", "imageurl", "img_url", "image_path", "img_path", "image_file"),
        *("file_name", "filename", "filepath", "path", "image"),
    ),
    "caption": ("caption", "captions", "text", "texts", "alt_text", "alttext"),
    "image": ("image", "image_bytes", "img", "bytes", "jpg", "jpeg", "png", "webp"),
    "sha256": (),
    "key": ("key", "__key__", "uid", "id", "image_id", "sample_id"),
}
MAX_NAMES_SHOWN = 40


class Kind(Enum):
    """What a column holds, whichever of Arrow's types for it the writer chose."""

    TEXT = "string"
    TEXTS = "list<string>"
    BYTES = "binary"
    IMAGE = "struct<bytes: binary, path: string>"
    INTEGER = "integer"
    NULL = "null"  # a column of nothing but nulls has no type; fits every role


KINDS = {
    "url": (Kind.TEXT,),
    "caption": (Kind.TEXT, Kind.TEXTS),
    "image": (Kind.BYTES, Kind.IMAGE),
    "sha256": (Kind.TEXT,),
    "key": (Kind.TEXT, Kind.INTEGER),
}


@dataclass(frozen=True)
class Columns:
    """Names of the manifest's columns by role. At least one of `url` and `image` is set."""

    url: str | None
    caption: str
    image: str | None
    key: str | None
    sha256: str | None = None

    def roles(self) -> dict[str, str]:
        """Role to name, of those there are."""
        return {role: name for role, name in vars(self).items() if name is not None}


def recognise(schema: pa.Schema, config: ColumnsConfig, url: str) -> Columns:
    """The columns of the manifest file at `url`. Raises ManifestError that lists what is there and the flag to set."""
    found = {role: _pick(schema, role, getattr(config, role), url) for role in NAMES}
    caption = found["caption"]
    if caption is None:
        raise ManifestError(f"no caption column in {url}: set --input.columns.caption NAME; {_listing(schema)}")
    if found["url"] is None and found["image"] is None:
        flags = "set --input.columns.url NAME (of URLs or paths) or --input.columns.image NAME (of image bytes)"
        raise ManifestError(f"no image column in {url}: {flags}; {_listing(schema)}")
    return Columns(found["url"], caption, found["image"], found["key"], found["sha256"])


def check_alike(schema: pa.Schema, url: str, columns: Columns, kinds: dict[str, Kind], model_url: str) -> None:
    """Raise ManifestError if a file lacks one of the columns of the file at `model_url`, or holds something else in it.

    `kinds` (by role) is completed with kinds that were unknown as long as only nulls had been seen.
    """
    for role, name in columns.roles().items():
        if name not in schema.names:
            raise ManifestError(f"{url} has no column {name!r}, as {model_url} has: all files need it; {_listing(schema)}")
        kind = kind_of(schema.field(name).type)
        if kind in (Kind.NULL, kinds.get(role, kind)):
            continue
        if kinds[role] is not Kind.NULL or kind not in KINDS[role]:
            types = f"{schema.field(name).type} in {url}, but {kinds[role].value} in {model_url}"
            raise ManifestError(f"column {name!r} is {types}: all files need the same")
        kinds[role] = kind


def role_kinds(schema: pa.Schema, columns: Columns) -> dict[str, Kind]:
    """What the columns hold, by role."""
    kinds = {role: kind_of(schema.field(name).type) for role, name in columns.roles().items()}
    return {role: kind for role, kind in kinds.items() if kind is not None}


def kind_of(kind: pa.DataType) -> Kind | None:
    """The kind of a type; None for those that no role takes."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind_of(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return kind_of(kind.value_type)
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        return Kind.TEXT
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return Kind.BYTES
    if pt.is_null(kind):
        return Kind.NULL
    if pt.is_integer(kind):
        return Kind.INTEGER
    if pt.is_struct(kind):
        fields = {kind.field(index).name: kind_of(kind.field(index).type) for index in range(kind.num_fields)}
        return Kind.IMAGE if fields.get("bytes") in (Kind.BYTES, Kind.NULL) else None
    if _is_list(kind):
        return Kind.TEXTS if kind_of(kind.value_type) in (Kind.TEXT, Kind.NULL) else None
    return None


def _is_list(kind: pa.DataType) -> bool:
    checks = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(check(kind) for check in checks)


def _pick(schema: pa.Schema, role: str, wanted: str | None, url: str) -> str | None:
    if wanted is not None:
        if wanted not in schema.names:
            raise ManifestError(f"{url} has no column {wanted!r} (--input.columns.{role}); {_listing(schema)}")
        kind = kind_of(schema.field(wanted).type)
        if kind not in (*KINDS[role], Kind.NULL):
            takes = " or ".join(kind.value for kind in KINDS[role])
            raise ManifestError(
                f"column {wanted!r} of {url} is {schema.field(wanted).type}: --input.columns.{role} takes {takes}"
            )
        return wanted
    for kinds in (KINDS[role], (Kind.NULL,)):
        for name in NAMES[role]:
            alike: list[str] = [other for other in schema.names if other.lower() == name]
            alike.sort(key=lambda other: other != name)  # `url` before `URL`, should both be there
            for candidate in alike:
                if kind_of(schema.field(candidate).type) in kinds:
                    return candidate
    return None


def _listing(schema: pa.Schema) -> str:
    shown = ", ".join(f"{field.name} ({field.type})" for field in list(schema)[:MAX_NAMES_SHOWN])
    return f"its columns: {shown or 'none'}" + (", ..." if len(schema) > MAX_NAMES_SHOWN else "")
