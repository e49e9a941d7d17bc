"""The first pass: a reason for every row, or none for those that stay.

Rules apply one after the other, each to the rows that those before it left. The leading rules that look at one row at a time
drop rows while they stream by; of the rows that are left, the columns that the other rules need are kept as arrays, and the
other rules are decided on these. Knows nothing of what is written.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.filter_rules import BestCaption, Leaf, Placeholders, Quantile, Rule, Top, TopFraction, Unique, leaves
from pipeline.filters import ranking
from pipeline.filters.ranking import Verdict
from pipeline.filters.rules import Need, check_types, combine, is_local, local_mask, needs
from pipeline.filters.source import Dataset, Layout, read_batches
from pipeline.filters.values import Mask, View
from pipeline.schema import Status
from pipeline.shards import Shard

Reasons = npt.NDArray[np.uint8]  # (n,) 0: kept, else an index into `Plan.reasons`
State = dict[Need, npt.NDArray[Any]]  # of the rows that are left, by what it is needed as

KEPT = "kept"
UNKNOWN_STATUS = "unknown status"
FAILURES = (*(status.value for status in Status if status is not Status.SUCCESS), UNKNOWN_STATUS)
MAX_RULES = 200
MASK = "mask"  # kind of a Need: what a rule of one row at a time said, under the rule's JSON

T = TypeVar("T")


class Plan(NamedTuple):
    """What the passes do."""

    layout: Layout
    rules: tuple[Rule, ...]
    streamed: int  # so many leading rules are decided while rows stream by
    reasons: tuple[str, ...]  # KEPT, the failures, then the rules' labels, each different

    @property
    def columns(self) -> list[str]:
        """What the first pass reads."""
        found = [need.column for rule in self.rules for leaf in leaves(rule) for need in needs(leaf, self.layout)]
        lists = [self.layout.ranking] if set(found) & set(self.layout.lists) else []
        return list(dict.fromkeys([*([self.layout.status] if self.layout.status else []), *found, *lists]))


class Selection(NamedTuple):
    """The outcome of the first pass."""

    runs: tuple[Reasons, ...]  # of each of the dataset's runs
    counts: tuple[int, ...]  # rows by reason, as `Plan.reasons`
    found: tuple[dict[str, Any], ...]  # by rule: what it found out, such as a quantile's value


def plan_rules(dataset: Dataset, rules: Sequence[Rule]) -> Plan:
    """Check the rules against the columns. Raises ConfigError."""
    if len(rules) > MAX_RULES:
        raise ConfigError(f"{len(rules)} rules: at most {MAX_RULES}")
    for rule in rules:
        check_types(rule, dataset.layout, dataset.schemas)
    labels: list[str] = []
    for rule in rules:
        again = sum(rule.label == other.partition(" #")[0] for other in labels)
        labels.append(f"{rule.label} #{again + 1}" if again else rule.label)
    streamed = len(list(itertools.takewhile(is_local, rules)))
    return Plan(dataset.layout, tuple(rules), streamed, (KEPT, *FAILURES, *labels))


def select(
    dataset: Dataset, plan: Plan, storage: StorageConfig, threads: int, progress: Callable[[int], None] | None = None
) -> Selection:
    """Decide every row. `progress` is called with the rows of each run that was read."""
    runs: list[Reasons] = []
    states: list[State] = []
    with closing(in_order(lambda run: scan_run(run, plan, storage), dataset.runs, threads)) as scans:
        for scan in scans:
            runs.append(scan.reasons)
            states.append(scan.state)
            if progress:
                progress(len(scan.reasons))
    reasons = np.concatenate(runs) if runs else np.zeros(0, np.uint8)
    found = decide(reasons, _join(states), plan)
    borders = np.cumsum([len(run) for run in runs])[:-1]
    counts = np.bincount(reasons, minlength=len(plan.reasons))
    return Selection(tuple(np.split(reasons, borders)), tuple(int(count) for count in counts), found)


class Scan(NamedTuple):
    """What the first pass took of a run."""

    reasons: Reasons
    state: State


def scan_run(run: Shard, plan: Plan, storage: StorageConfig) -> Scan:
    """Stream a run: apply the leading rules, and take of the rows that are left what the other rules need."""
    reasons: list[Reasons] = []
    states: list[State] = []
    for batch in read_batches(run, plan.layout, storage, plan.columns):
        view = View(batch, plan.layout)
        found = _failures(view)
        for number, rule in enumerate(plan.rules[: plan.streamed]):
            kept = combine(rule, functools.partial(local_mask, view))
            found[~kept & (found == 0)] = 1 + len(FAILURES) + number
        reasons.append(found)
        if plan.streamed < len(plan.rules):
            left = found == 0
            states.append(_state(View(batch if left.all() else batch.filter(left), plan.layout), plan))
    return Scan(np.concatenate(reasons) if reasons else np.zeros(0, np.uint8), _join(states))


def _failures(view: View) -> Reasons:
    """The reason of each row that was not scored, 0 of the others."""
    if view.layout.status is None:
        return np.zeros(view.batch.num_rows, np.uint8)
    statuses = [Status.SUCCESS.value, *FAILURES[:-1]]
    column = view.array(view.layout.status)
    index = pc.index_in(column.cast(pa.string()), value_set=pa.array(statuses))
    found: Reasons = pc.fill_null(index, len(FAILURES)).to_numpy(zero_copy_only=False).astype(np.uint8)
    return found


def _state(view: View, plan: Plan) -> State:
    state: State = {}
    for rule in plan.rules[plan.streamed :]:
        for leaf in leaves(rule):
            if is_local(leaf):
                state.setdefault(_mask_of(leaf), local_mask(view, leaf))
                continue
            for need in needs(leaf, plan.layout):
                if need not in state:
                    take = {"number": view.numbers, "key": view.keys, "others": view.others}[need.kind]
                    state[need] = take(need.column)
    return state


def _mask_of(leaf: Leaf) -> Need:
    return Need(leaf.model_dump_json(), MASK)


def _join(states: list[State]) -> State:
    """One after the other; a column at a time, so that few are held twice."""
    return {need: np.concatenate([state.pop(need) for state in states]) for need in (list(states[0]) if states else [])}


def decide(reasons: Reasons, state: State, plan: Plan) -> tuple[dict[str, Any], ...]:
    """Apply the rules that look at all rows, in place, to the rows that have no reason yet. Returns what each rule found."""
    found: list[dict[str, Any]] = [{} for _ in plan.rules]
    rows = np.flatnonzero(reasons == 0) if plan.streamed < len(plan.rules) else np.zeros(0, np.int64)
    for number in range(plan.streamed, len(plan.rules)):
        rule = plan.rules[number]
        kept = combine(rule, functools.partial(_leaf_mask, rule, state, plan.layout, len(rows), found[number]))
        reasons[rows[~kept]] = 1 + len(FAILURES) + number
        rows = rows[kept]
        later = {need for other in plan.rules[number + 1 :] for need in _needs_of(other, plan.layout)}
        for need in list(state):
            values = state.pop(need)
            if need in later:
                state[need] = values[kept]
    return tuple(found)


def _leaf_mask(rule: Rule, state: State, layout: Layout, rows: int, found: dict[str, Any], leaf: Leaf) -> Mask:
    """What a leaf of `rule` keeps of the rows that are left; what it finds out is noted in `found`."""
    if is_local(leaf):
        mask: Mask = state[_mask_of(leaf)]
        return mask
    verdict = _judge(leaf, state, layout, rows)
    found.update({key if leaf is rule else f"{leaf.label}: {key}": value for key, value in verdict.found.items()})
    return verdict.keep


def _needs_of(rule: Rule, layout: Layout) -> Iterator[Need]:
    for leaf in leaves(rule):
        yield from [_mask_of(leaf)] if is_local(leaf) else needs(leaf, layout)


def _judge(leaf: Leaf, state: State, layout: Layout, rows: int) -> Verdict:
    columns = [state[need] for need in needs(leaf, layout)]
    match leaf:
        case TopFraction() | Top():
            return ranking.top(columns[0], leaf.count(rows))
        case Quantile():
            return ranking.quantile(columns[0], leaf.quantile)
        case Unique():
            return ranking.best_of_group(columns[0], columns[1] if len(columns) > 1 else None)
        case BestCaption():
            return ranking.best_of_group(columns[0], columns[1], leaf.min_margin, columns[2] if len(columns) > 2 else None)
        case Placeholders():
            return ranking.placeholders(columns[0], columns[1], leaf.placeholders)
        case _:
            raise TypeError(f"{leaf.label} looks at one row at a time")


def in_order(work: Callable[[Shard], T], runs: Iterable[Shard], threads: int) -> Generator[T, None, None]:
    """Results in the order of the runs, `threads` runs at a time; closing it drops those not begun."""
    with ThreadPoolExecutor(threads, thread_name_prefix="filter") as pool:
        waiting: list[Future[T]] = [pool.submit(work, run) for run in runs]
        waiting.reverse()
        try:
            while waiting:
                yield waiting.pop().result()
        finally:
            for future in waiting:
                future.cancel()
