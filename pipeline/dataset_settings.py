"""Settings of what is done with scored rows: which stay, what a report shows, for which of them heat maps are drawn.

Knows nothing of how any of that is done.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.filter_rules import BestCaption, Compare, Placeholders, Rule, Top, TopFraction, Unique
from pipeline.sections import Section, StrList, absolute_path

FilterOutput = Literal["manifest", "rejected", "uids", "img2dataset"]
DEFAULT_OUTPUTS: list[FilterOutput] = ["manifest", "rejected"]


class FilterConfig(Section):
    """Which rows of a scored dataset stay, and what is written of them. Settings become rules in the order listed here."""

    min_itm: float | None = Field(default=None, ge=0, le=1)
    """Keep rows with at least this itm_score; 0.5 is BLIP's own decision."""
    min_itc: float | None = Field(default=None, ge=-1, le=1)
    """Keep rows with at least this itc_similarity."""
    placeholders: int | None = Field(default=None, ge=1)
    """Drop images whose bytes were found under more distinct URLs than this."""
    best_caption: bool = False
    """Keep the best row of each image (image_sha256)."""
    min_margin: float | None = Field(default=None, ge=0)
    """With best_caption: drop the image where the best is not better than the second by this."""
    unique: bool = False
    """Keep one row of those with the same image bytes: the best, and the first of equals."""
    top_fraction: float | None = Field(default=None, gt=0, le=1)
    """Keep this share of the rows that are left, the best first; exact."""
    top: int | None = Field(default=None, ge=1)
    """Keep so many of the rows that are left, the best first; exact."""
    by: str = "itm_logit"
    """Column that `best_caption`, `unique`, `top_fraction` and `top` rank by; itm_score ties near 1, its logit does not."""
    rules: list[Rule] = Field(default_factory=list)
    """Further rules, see docs/filtering.md: a list in YAML, one JSON object a flag. Each sees what those before it left."""
    captions: Literal["keep", "best", "explode"] = "keep"
    """Of rows with a list of captions: keep the list (rules see its best caption), keep its best alone, or one row each."""
    write: list[FilterOutput] = Field(default_factory=lambda: DEFAULT_OUTPUTS)
    """What is written: kept rows, dropped rows with drop_reason, DataComp's file of uids, a list for img2dataset."""
    columns: Literal["all", "input"] = "all"
    """Columns of the kept rows: all, or without those that scoring added."""
    img2dataset_format: Literal["parquet", "csv"] = "parquet"
    """Format of img2dataset's list."""
    allow_unfinished: bool = False
    """Filter the output of a run that has no _SUCCESS yet: its finished files."""
    threads: int | None = Field(default=None, ge=1)
    """Files worked on at a time, each with some 100 MB. None: one a core, at most 8."""

    def all_rules(self) -> list[Rule]:
        """The rules that the settings stand for, then `rules`."""
        if self.min_margin is not None and not self.best_caption:
            raise ValueError("min_margin needs best_caption")
        short: list[Rule | None] = [
            None if self.min_itm is None else Compare(column="itm_score", at_least=self.min_itm),
            None if self.min_itc is None else Compare(column="itc_similarity", at_least=self.min_itc),
            None if self.placeholders is None else Placeholders(placeholders=self.placeholders),
            BestCaption(best_caption=True, by=self.by, min_margin=self.min_margin) if self.best_caption else None,
            Unique(unique="image_sha256", by=self.by) if self.unique else None,
            None if self.top_fraction is None else TopFraction(top_fraction=self.top_fraction, by=self.by),
            None if self.top is None else Top(top=self.top, by=self.by),
        ]
        return [*(rule for rule in short if rule is not None), *self.rules]

    @model_validator(mode="after")
    def _rules_hold(self) -> FilterConfig:
        self.all_rules()
        return self


class ReportConfig(Section):
    """What the report of a scored dataset shows."""

    title: str = ""
    """Headline; empty: the name of the folder that is reported."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """itm_score that the slider starts at, and that the borderline pairs are nearest to; 0.5 is BLIP's own decision."""
    gallery: int = Field(default=24, ge=0, le=100)
    """Pairs in each gallery: the best, the borderline, the worst, some from the whole range. 24 make a page of 2 MB."""
    thumbnails: bool = True
    """Fetch the images of the galleries, under the rules of `fetch` and `images`, and embed them."""
    explanations: str = ""
    """Folder that explain.py wrote: its heat maps are embedded for pairs of the galleries that have one."""
    threads: int | None = Field(default=None, ge=1)
    """Files read at a time, each with some 100 MB. None: one a core, at most 8."""

    @field_validator("explanations")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute_path(value)


class ExplainConfig(Section):
    """For which rows heat maps are drawn, and how."""

    keys: StrList = Field(default_factory=list)
    """Rows by key: values of `input.columns.key`, of the URLs where there is none, else FILE:ROW. None: a sample by score."""
    sample: int = Field(default=8, ge=1)
    """So many rows each of the best, the borderline and the worst, where no keys are given."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """The itm_score that borderline rows are closest to; 0.5 is BLIP's own decision."""
    layer: int | None = Field(default=None, ge=0)
    """Of the text encoder, from 0, never the last. None: LAVIS's choice, 7 of base's 12, or the same relative depth."""
    words: bool = True
    """A picture for each word, too, not for the whole caption alone."""
    other_model: bool = False
    """Explain with another model, image size or first token than the rows were scored with."""
