"""Rules that decide which rows stay, as they are written in YAML: each a mapping, told from the others by its first key.

    {column: itm_score, at_least: 0.5}                      a comparison: at_least, above, at_most, below
    {column: itm_score, at_least: {en: 0.5, de: 0.4}, by_value_of: language, otherwise: 0.6}
    {column: language, in: [en, de, null]}                  allowed values; not_in: forbidden ones
    {column: itc_similarity, quantile: 0.7}                 rows at or above that quantile
    {top_fraction: 0.3, by: itc_similarity}                 exactly so many rows
    {top: 1000000, by: itm_logit}
    {best_caption: true, by: itm_logit, min_margin: 0.1}    one row an image; true: by image_sha256, or name a column
    {unique: image_sha256, by: itm_logit}                   the best row of those with the same value
    {placeholders: 10}                                      no image whose bytes were found under more URLs than that
    {all: [...]}  {any: [...]}  {not: {...}}                combinations

Every rule may have a `name`: its reason in the table and in the rejected manifest. Knows nothing of rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

Value = str | bool | int | float | None
BOUNDS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


class BaseRule(BaseModel):
    """What all rules have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, allow_inf_nan=False)
    name: str | None = Field(default=None, min_length=1, max_length=200)

    @property
    def label(self) -> str:
        """The reason of rows that the rule drops."""
        return self.name or self.describe()

    def describe(self) -> str:
        """The rule in words, short and the same for the same rule."""
        raise NotImplementedError


class Compare(BaseRule):
    """Bounds on a number, or on a number by the value of another column. A row without a value stays nowhere."""

    column: str
    at_least: float | dict[str, float] | None = None
    above: float | dict[str, float] | None = None
    at_most: float | dict[str, float] | None = None
    below: float | dict[str, float] | None = None
    by_value_of: str | None = None
    otherwise: float | None = None  # the bound of all other values; None: their rows are dropped

    @model_validator(mode="after")
    def _consistent(self) -> Compare:
        bounds = [bound for _, bound in self.bounds()]
        if not bounds:
            raise ValueError(f"a rule on column {self.column} needs one of {', '.join(BOUNDS)}, in, not_in, quantile")
        tables = [bound for bound in bounds if isinstance(bound, dict)]
        if tables and (len(bounds) > 1 or self.by_value_of is None):
            raise ValueError("bounds by value need by_value_of: COLUMN, and one bound a rule")
        if not tables and (self.by_value_of is not None or self.otherwise is not None):
            raise ValueError("by_value_of and otherwise need bounds by value: at_least: {en: 0.5, de: 0.4}")
        return self

    def bounds(self) -> list[tuple[str, float | dict[str, float]]]:
        """The bounds that are set, by name."""
        found = ((name, getattr(self, name)) for name in BOUNDS)
        return [(name, bound) for name, bound in found if bound is not None]

    def describe(self) -> str:
        bounds = " and ".join(f"{BOUNDS[name]} {_show(bound)}" for name, bound in self.bounds())
        return f"{self.column} {bounds}" + (f" by {self.by_value_of}" if self.by_value_of else "")


class Member(BaseRule):
    """Allowed or forbidden values. A row without a value stays only where `null` is allowed."""

    column: str
    allowed: list[Value] | None = Field(default=None, alias="in")
    forbidden: list[Value] | None = Field(default=None, alias="not_in")

    @model_validator(mode="after")
    def _one(self) -> Member:
        if (self.allowed is None) == (self.forbidden is None):
            raise ValueError("give in or not_in, not both: write two rules")
        return self

    def describe(self) -> str:
        word, values = ("in", self.allowed) if self.allowed is not None else ("not in", self.forbidden)
        return f"{self.column} {word} {_list(values or [])}"


class Quantile(BaseRule):
    """Rows at or above a quantile of a column, rows with the quantile's own value included."""

    column: str
    quantile: float = Field(ge=0, le=1)

    def describe(self) -> str:
        return f"{self.column} >= its {self.quantile:g} quantile"


class TopFraction(BaseRule):
    """The best floor(fraction * rows), by a column."""

    top_fraction: float = Field(gt=0, le=1)
    by: str

    def count(self, rows: int) -> int:
        """So many of `rows` rows; exact: 0.29 of 100 is 29, which 0.29 * 100 is not."""
        return int(Fraction(repr(self.top_fraction)) * rows)

    def describe(self) -> str:
        return f"top {100 * self.top_fraction:g} % by {self.by}"


class Top(BaseRule):
    """The best so many rows, by a column."""

    top: int = Field(ge=1)
    by: str

    def count(self, rows: int) -> int:
        """So many of `rows` rows."""
        return min(self.top, rows)

    def describe(self) -> str:
        return f"top {self.top:,} by {self.by}"


class BestCaption(BaseRule):
    """Of the rows of one image, the best; none where it is not better than the second by `min_margin`."""

    best_caption: bool | str
    by: str
    min_margin: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _true(self) -> BestCaption:
        if self.best_caption is False:
            raise ValueError("best_caption: true, or the name of the column that tells images apart")
        return self

    def describe(self) -> str:
        image = f" of {self.best_caption}" if isinstance(self.best_caption, str) else ""
        margin = f", margin {self.min_margin:g}" if self.min_margin is not None else ""
        return f"best caption{image} by {self.by}{margin}"


class Unique(BaseRule):
    """Of the rows with the same value, the best by a column; without `by` the first."""

    unique: str
    by: str | None = None

    def describe(self) -> str:
        return f"unique {self.unique}" + (f" by {self.by}" if self.by else "")


class Placeholders(BaseRule):
    """No images that were found under more distinct URLs than this: "image not available" and the like."""

    placeholders: int = Field(ge=1)
    image: str | None = None  # None: image_sha256
    url: str | None = None  # None: the manifest's column of URLs

    def describe(self) -> str:
        return f"same image under more than {self.placeholders:,} URLs"


class All(BaseRule):
    """Rows that every rule keeps; each rule looks at the same rows."""

    all: list[Rule] = Field(min_length=1)

    def describe(self) -> str:
        return " and ".join(_inner(rule) for rule in self.all)


class AnyOf(BaseRule):
    """Rows that at least one rule keeps; each rule looks at the same rows."""

    any: list[Rule] = Field(min_length=1)

    def describe(self) -> str:
        return " or ".join(_inner(rule) for rule in self.any)


class Not(BaseRule):
    """Rows that the rule would drop, those without a value among them."""

    rule: Rule = Field(alias="not")

    def describe(self) -> str:
        return f"not ({self.rule.label})"


Leaf = Compare | Member | Quantile | TopFraction | Top | BestCaption | Unique | Placeholders
KINDS: dict[str, type[BaseRule]] = {
    "all": All,
    "any": AnyOf,
    "not": Not,
    "top_fraction": TopFraction,
    "top": Top,
    "best_caption": BestCaption,
    "unique": Unique,
    "placeholders": Placeholders,
    "quantile": Quantile,
    "in": Member,
    "not_in": Member,
    "column": Compare,
}


def parse_rule(value: Any) -> Any:
    """A rule from its mapping; rules pass through. Raises ValueError of one line."""
    if isinstance(value, BaseRule):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"a rule is a mapping such as {{column: itm_score, at_least: 0.5}}, not {value!r}")
    given = {str(key): entry for key, entry in value.items() if entry is not None}
    kind = next((kind for key, kind in KINDS.items() if key in given), None)
    if kind is None:
        close = [match for key in given for match in difflib.get_close_matches(key, KINDS, n=1)]
        raise ValueError(
            f"no rule in {value!r}: " + (f"did you mean {close[0]}?" if close else f"a rule has one of {', '.join(KINDS)}")
        )
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(dict(problem), kind) for problem in error.errors())) from None


Rule = Annotated[Leaf | All | AnyOf | Not, BeforeValidator(parse_rule)]
for _kind in (All, AnyOf, Not):
    _kind.model_rebuild()


def leaves(rule: Leaf | All | AnyOf | Not) -> Iterator[Leaf]:
    """The rules without combinations, in the order they are written."""
    if isinstance(rule, All | AnyOf):
        for inner in rule.all if isinstance(rule, All) else rule.any:
            yield from leaves(inner)
    elif isinstance(rule, Not):
        yield from leaves(rule.rule)
    else:
        yield rule


def _problem(problem: dict[str, Any], kind: type[BaseRule]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        names = [field.alias or name for name, field in kind.model_fields.items()]
        close = difflib.get_close_matches(where, names, n=1)
        return f"unknown key {where}: " + (f"did you mean {close[0]}?" if close else f"this rule takes {', '.join(names)}")
    return f"{where}: {message}" if where else message


def _inner(rule: BaseRule) -> str:
    return f"({rule.label})" if isinstance(rule, All | AnyOf) and rule.name is None else rule.label


def _show(bound: float | dict[str, float]) -> str:
    if isinstance(bound, dict):
        return "(" + _list([f"{key}: {value:g}" for key, value in bound.items()]) + ")"
    return f"{bound:g}"


def _list(values: list[Any], shown: int = 5) -> str:
    words = ["null" if value is None else str(value) for value in values[:shown]]
    return ", ".join(words) + (", ..." if len(values) > shown else "")
