"""Why this score: heat maps of chosen rows of a scored output. What `jobs/explain.py` calls.

    OUTPUT/00003-0.png      number 3 of the rows chosen, its caption 0: the image, beside it the image under the caption's map
    OUTPUT/00003-0-05.png   the image under the map of word 5
    OUTPUT/_EXPLAIN.json    which model, which layer
    OUTPUT/index.json       key -> captions, scores, pictures, words (docs/explain.md); comes last

Images are fetched and decoded as a run does it. A row that fails has its reason in the index, and the others go on. Knows
nothing of how maps are made, or of how anything is printed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import ConfigError, OutputError
from pipeline.explain.heatmap import beside, overlay, png, shrink
from pipeline.explain.rows import Chosen, choose
from pipeline.explain.source import Source, check_model, find_base, find_source, read_provenance
from pipeline.manifest import read_rows
from pipeline.model.facts import ModelInfo, describe
from pipeline.records import Chunk
from pipeline.schema import Reason, Status
from pipeline.stages import image_blocks

if TYPE_CHECKING:
    from pipeline.explain.explainer import CaptionMaps, Explainer

INDEX_FILE = "index.json"
EXPLAIN_FILE = "_EXPLAIN.json"
PICTURE = re.compile(r"\d{5}-\d+(-\d+)?\.png")
BLOCK_IMAGES = 16  # decoded at a time; each then takes about a second of a CPU
WORD_SIDE = 192  # pixels of a word's picture at most: a caption has up to 33
SCORES = ("itm_score", "itm_logit", "itc_similarity")

Entry = dict[str, Any]  # of the index, one a row
Progress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True)
class ExplainSummary:
    """What was explained."""

    rows: int
    explained: int
    failed: dict[str, int]  # rows by reason
    layer: int
    model: str
    output: str
    hint: str | None  # what may help where images were not found

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def explain(config: Config, make_explainer: Callable[[], Explainer], progress: Progress | None = None) -> ExplainSummary:
    """Draw the maps of the rows that `config.explain` names, below `output.path`.

    make_explainer: loads the model of `config.model`, once everything else is checked. Raises UserError for whatever is wrong
    with settings, files or columns: above all for rows that another model scored.
    """
    if not config.output.path:
        raise ConfigError("no output: name a folder with --output.path")
    source = find_source(config)
    shards = source.manifest.shards
    chosen = choose(source.manifest, source.names, source.prefix, config.explain, config.storage)
    model = describe(config.model, config.storage)
    provenance = read_provenance((shards[row.shard] for row in chosen), config)
    if not config.explain.other_model:
        for url, made in provenance.items():
            check_model(url, made, model, config)
    explainer = make_explainer()
    _claim(model, explainer, config)
    bases = {row.shard: find_base(shards[row.shard], provenance.get(shards[row.shard].file.url), config) for row in chosen}
    entries: dict[int, Entry] = {}
    for shard, base in bases.items():
        for number, entry in _explained(shard, base.folder, source, chosen, config, explainer):
            entries[number] = entry
            if progress:
                progress(len(entries), len(chosen))
    _write_json(INDEX_FILE, {name: entries[number] for number, name in enumerate(_entry_names(source, chosen))}, config)
    failed = Counter(entry["error_message"] for entry in entries.values() if entry["status"] != Status.SUCCESS)
    hints = [base.hint for base in bases.values() if base.hint and failed.keys() & {Reason.NOT_FOUND, Reason.REFUSED_PATH}]
    return ExplainSummary(
        rows=len(entries),
        explained=len(entries) - failed.total(),
        failed=dict(failed),
        layer=explainer.layer,
        model=model.name,
        output=config.output.path,
        hint=next(iter(hints), None),
    )


# ------------------------------------------------------------------ rows -> entries


def _entry_names(source: Source, chosen: Sequence[Chosen]) -> Iterator[str]:
    """Keys of the index: the rows' own, with FILE:ROW behind those that came before."""
    taken: set[str] = set()
    for row in chosen:
        shard = source.manifest.shards[row.shard]
        name = row.key
        if name in taken:
            name += f" ({source.names.files[shard.file.url]}:{shard.first_row + row.row})"
        taken.add(name)
        yield name


def _explained(
    shard: int, base: str | None, source: Source, chosen: Sequence[Chosen], config: Config, explainer: Explainer
) -> Iterator[tuple[int, Entry]]:
    """(number among those chosen, entry) of a shard's rows, in no particular order; pictures are written on the way."""
    compute = config.compute.model_copy(update={"block_rows": BLOCK_IMAGES})
    own = config.model_copy(update={"compute": compute})
    numbers = {row.row: number for number, row in enumerate(chosen) if row.shard == shard}
    chunk = Chunk(shard, tuple((row, row + 1) for row in sorted(numbers)))
    for images in image_blocks(chunk, source.manifest, own, explainer.image_size, base=base):
        for record in images.to_pylist():
            for row, captions in zip(record["rows"], record["captions"], strict=True):
                number = numbers[row]
                entry = _entry(source, chosen[number], record)
                entry["caption"] = next((caption for caption in captions if caption is not None), None)
                if record["pixels"] is not None:
                    scored = _scored(source, shard, row, config)
                    entry["captions"] = _captions(number, record["pixels"], captions, scored, config, explainer)
                    best = max(entry["captions"], key=lambda caption: caption["itm_logit"])
                    entry |= {"caption": best["caption"], "image": best["image"]}
                yield number, entry


def _entry(source: Source, row: Chosen, record: dict[str, Any]) -> Entry:
    shard = source.manifest.shards[row.shard]
    return {
        "group": row.group,
        "file": source.names.files[shard.file.url],
        "row": shard.first_row + row.row,
        "status": record["status"],
        "error_message": record["error_message"],
        "caption": None,
        "captions": [],
    }


def _scored(source: Source, shard: int, row: int, config: Config) -> dict[str, Any]:
    """The scores that the row has."""
    names = [source.prefix + name for name in SCORES if source.prefix + name in source.manifest.schema.names]
    if not names:
        return {}
    table = read_rows(source.manifest.shards[shard], config.storage, names, row, row + 1)
    return {name.removeprefix(source.prefix): value for name, value in table.to_pylist()[0].items()}


def _captions(
    number: int, data: bytes, captions: Sequence[str | None], scored: dict[str, Any], config: Config, explainer: Explainer
) -> list[dict[str, Any]]:
    """Write the pictures of a row's captions; returns their part of the index."""
    side = explainer.image_size
    pixels = np.frombuffer(data, np.uint8).reshape(side, side, 3)
    present = [place for place, caption in enumerate(captions) if caption is not None]
    texts = [str(captions[place]) for place in present]
    entries = []
    for place, text, maps in zip(present, texts, explainer.explain(pixels, texts), strict=True):
        stem = f"{number:05d}-{place}"
        before = {name: value[place] if isinstance(value, list) else value for name, value in scored.items()}
        _write(f"{stem}.png", beside(pixels, overlay(pixels, maps.map)), config)
        entries.append(
            {
                "caption": text,
                "itm_score": maps.itm_score,
                "itm_logit": maps.itm_logit,
                "scored": before or None,
                "image": f"{stem}.png",
                "words": list(_words(stem, pixels, maps, config)),
            }
        )
    return entries


def _words(stem: str, pixels: npt.NDArray[np.uint8], maps: CaptionMaps, config: Config) -> Iterator[dict[str, Any]]:
    """Of each word: how strong its map is beside the caption's strongest, where it is highest, and its picture."""
    top = max((float(word.map.max()) for word in maps.words), default=0.0)
    small = shrink(pixels, WORD_SIDE)
    for place, word in enumerate(maps.words):
        row, column = np.unravel_index(int(word.map.argmax()), word.map.shape)
        entry: dict[str, Any] = {
            "word": word.word,
            "strength": round(float(word.map.max()) / top, 4) if top else 0.0,
            "peak": [round((int(at) + 0.5) / len(word.map), 4) for at in (column, row)],
        }
        if config.explain.words:
            name = f"{stem}-{place:02d}.png"
            _write(name, overlay(small, word.map, top), config)
            entry["image"] = name
        yield entry


# ------------------------------------------------------------------ output


def _claim(model: ModelInfo, explainer: Explainer, config: Config) -> None:
    """Make the folder ours. Raises OutputError for one that holds anything else, or an earlier whole of ours."""
    url = config.output.path
    storage.probe(url, config.storage)
    files = {file.url.removeprefix(url + "/") for file in storage.list_files(url, config.storage)}
    if files and EXPLAIN_FILE not in files:
        raise OutputError(f"{url} holds files that explain did not write (e.g. {min(files)}): name an empty folder")
    if INDEX_FILE in files and not config.output.overwrite:
        raise OutputError(
            f"{url} holds explanations already: name another --output.path, or replace them by --output.overwrite"
        )
    old = [INDEX_FILE, *sorted(name for name in files if PICTURE.fullmatch(name))]  # the index first
    storage.delete_files([f"{url}/{name}" for name in old if name in files], config.storage)
    about = {"model": model.name, "model_sha256": model.sha256, "image_size": explainer.image_size, "layer": explainer.layer}
    _write_json(EXPLAIN_FILE, about, config)


def _write_json(name: str, value: dict[str, Any], config: Config) -> None:
    storage.write_bytes(f"{config.output.path}/{name}", json.dumps(value, indent=1).encode(), config.storage)


def _write(name: str, picture: npt.NDArray[np.uint8], config: Config) -> None:
    storage.write_bytes(f"{config.output.path}/{name}", png(picture), config.storage)
