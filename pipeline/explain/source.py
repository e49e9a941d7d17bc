"""What is explained: the rows of a scored output, what its files say of themselves, and the folder that its images lie in.

Knows nothing of which rows are chosen, or of what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from pipeline import storage
from pipeline.config import ColumnsConfig, Config, InputConfig
from pipeline.errors import ConfigError, FetchError
from pipeline.explain.rows import Names
from pipeline.fetch.policy import Policy, local_file
from pipeline.manifest import Manifest, Shard, base_url, find_manifest, find_sources, read_footers
from pipeline.model.facts import ModelInfo
from pipeline.provenance import FileFacts, file_facts


class Source(NamedTuple):
    """Rows, and what they are called."""

    manifest: Manifest
    names: Names
    prefix: str  # before the names of the columns that scoring added


class Base(NamedTuple):
    """Where relative paths of a scored file start from."""

    folder: str | None  # None: the file's own
    hint: str | None  # for rows whose images are then not found


def find_source(config: Config) -> Source:
    """The rows, with the columns as the run that scored them had them, unless the user says otherwise."""
    sources = find_sources(config.input.manifest, config.storage)
    made = file_facts(read_footers([sources[0].file], config.storage)[0].schema.metadata)
    roles = {} if made is None else made.identity.get("columns", {})
    own = config.input.columns.model_dump(exclude_none=True)
    columns = ColumnsConfig(**{**{role: roles.get(role) for role in ColumnsConfig.model_fields}, **own})
    prefix = config.output.column_prefix or ("" if made is None else made.identity.get("column_prefix", ""))
    wanted = InputConfig(manifest=config.input.manifest, columns=columns)
    manifest = find_manifest(wanted, config.storage, config.output.rows_per_output_file)
    hashes = prefix + "image_sha256"
    if manifest.columns.sha256 is None and made is not None and hashes in manifest.schema.names:
        # what lies there now must be what was scored
        manifest = replace(manifest, columns=replace(manifest.columns, sha256=hashes))
    files = {source.file.url: source.relative for source in sources}
    return Source(manifest, Names(manifest.columns.key or manifest.columns.url, files), prefix)


def read_provenance(shards: Iterable[Shard], config: Config) -> dict[str, FileFacts]:
    """What the shards' files say of themselves, by URL; files that no run wrote say nothing."""
    files = {shard.file.url: shard.file for shard in shards}
    footers = read_footers(list(files.values()), config.storage) if files else []
    found = {url: file_facts(footer.schema.metadata) for url, footer in zip(files, footers, strict=True)}
    return {url: facts for url, facts in found.items() if facts is not None}


def check_model(url: str, made: FileFacts, model: ModelInfo, config: Config) -> None:
    """Raise ConfigError where the file at `url` was scored by another model than this one."""
    now = {
        "model_sha256": model.sha256,
        "image_size": model.image_size,
        "itm_first_token": config.model.itm_first_token,
    }
    differing = [name for name, value in now.items() if made.identity.get(name) != value]
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{url} was scored by {made.identity.get('model')!r} with {name} {made.identity.get(name)!r}, "
            f"not by {model.name!r} with {now[name]!r}: "
            "name the same with --model.*, or explain with another one by --explain.other_model"
        )


def find_base(shard: Shard, made: FileFacts | None, config: Config) -> Base:
    """The folder of the manifest that a shard's file was made of.

    A file must not open a folder of this machine by saying so in its metadata: a local one counts only where the user has
    named it, as the input's or among `fetch.file_roots`.
    """
    folder = None if made is None else str(made.source.get("url", "")).rpartition("/")[0] or None
    if folder is None or not storage.is_local(folder):
        return Base(folder, None)
    try:
        local_file(folder, Policy.of(config.fetch, base_url(shard)))
    except FetchError:
        hint = f"relative paths start from {folder}; to let images there be read, add --fetch.file_roots {folder}"
        return Base(None, hint)
    return Base(folder, None)
