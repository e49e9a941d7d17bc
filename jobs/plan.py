"""What a run will take: rows, bytes, time here, and time and dollars on machines that can be rented; and what binds.

    python jobs/plan.py --input.manifest s3://bucket/manifests/ --model.checkpoint Salesforce/blip-itm-base-coco
    python jobs/plan.py --config configs/score.yaml --plan.instances my_instances.yaml --plan.machines 4

Takes the settings of score.py. Fetches, decodes and scores a sample of the manifest here (--plan.rows, --plan.seconds), sends
a few rows through Ray to see how long starting takes (--no-plan.pilot leaves that out), and computes the rest. Writes nothing,
and reads nothing of output.path. docs/planning.md says how, and how far off it was. Exit codes: 0 done; 2 a mistake in
settings or data, one line on stderr; 130 and 143 interrupted; 1 a bug.
"""

from __future__ import annotations

import json
import math
import os
import sys

from console import Console, interrupts_raise, report_errors
from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table

from pipeline.commandline import new_parser, parse
from pipeline.planning.estimate import Binds, Estimate
from pipeline.planning.run import Offer, RunPlan, make_plan

TABLE_WIDTH = 140  # also where there is no terminal: a table that wraps cannot be read or searched
BUSY_LOAD = 2.0  # a core: a plan's own work comes to some 1.5
ADVICE = {
    Binds.NETWORK: "the network: images come no faster",
    Binds.DOWNLOADS: "waiting for hosts: more fetch tasks, or more downloads in flight, would make it faster",
    Binds.CPU: "the CPUs, most of them for {most}: more of them would make it faster",
    Binds.SCORE: "scoring: more replicas would make it faster",
    Binds.DRIVER: "the one driver: larger blocks, or several runs on parts of the manifest, would make it faster",
}


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("plan.py", "Say what scoring a manifest will take: time here, time and dollars on machines for rent.")
    with report_errors("plan"):
        config, options = parse(parser, argv)
        console = Console(quiet=options.json)
        with interrupts_raise(), console:
            plan = make_plan(config, console)
        if options.json:
            print(json.dumps(plan.as_json()))
        else:
            show(plan)
    return 0


def show(plan: RunPlan) -> None:
    """Print what is expected, what a row costs, how long it takes here, and what it takes elsewhere."""
    out = Terminal(width=TABLE_WIDTH, highlight=False)
    costs, rows = plan.costs, plan.manifest.rows
    out.print(
        f"{rows:,} rows, {_bytes(rows * costs.bytes_read)} to fetch; {costs.rows:,} rows fetched and {costs.rows_scored:,} "
        f"scored for this, in {_time(plan.planning_s)}"
    )
    if plan.load > BUSY_LOAD * (os.cpu_count() or 1):
        out.print(
            f"[yellow]other work ran here meanwhile (load {plan.load:.1f}): measured times are too long for an idle machine[/]"
        )
    out.print()
    out.print(_expected(plan))
    out.print()
    out.print(_here(plan), soft_wrap=True)
    out.print()
    out.print(_offers(plan))
    out.print(
        "\nPrices, networks and the GPUs' rates marked * are assumptions out of the file of instances, not measured; cores are "
        "taken to be as fast as here.\nTime to start is as here; machines that have to boot come on top.",
        soft_wrap=True,
    )
    if plan.requests_usd:
        out.print(f"Requests to the object store: {_usd(plan.requests_usd)} on top, on any machine.")


def _expected(plan: RunPlan) -> Table:
    table = Table("status", "reason", "sampled", "share", "rows expected", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    costs = plan.costs
    for (status, reason), sampled in sorted(costs.counts.items(), key=lambda item: (item[0][0] != "success", -item[1])):
        share = sampled / costs.rows
        table.add_row(status, escape(reason or ""), f"{sampled:,}", f"{share:.1%}", f"{plan.manifest.rows * share:,.0f}")
    return table


def _here(plan: RunPlan) -> str:
    """Lines about this machine, or the cluster that was joined."""
    here, resources, starts = plan.here, plan.resources, plan.starts
    spent = ", ".join(f"{name} {1000 * seconds:,.1f} ms" for name, seconds in here.cpu_s.items())
    where = f"{resources.replicas} on GPUs" if resources.device == "cuda" else f"{resources.replicas} on CPUs"
    rate = here.rates.rows_per_s
    return "\n".join(
        (
            f"of one core, a row takes: {spent}; a replica ({where}) takes {1000 * plan.costs.score_s:,.1f} ms by the clock",
            f"[bold]here: {_time(here.wall_s)}[/] on {resources.cpus} CPUs: {_time(starts.total_s)} to start and end "
            f"(program {starts.program_s:.1f}, Ray {starts.ray_s:.1f}, workers and model {starts.stream_s:.1f}, end "
            f"{starts.end_s:.1f} s{'' if starts.measured else ': assumed'}), then {rate:,.1f} rows/s",
            f"what binds here is {_binds(here)}",
        )
    )


def _offers(plan: RunPlan) -> Table:
    table = Table(
        "instances", "GPUs", "rows/s", "time", "GPU hours", "cores a GPU: needed, there", "$", "$ spot", "binds",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for column in table.columns[2:8]:
        column.justify = "right"
    for offer in plan.offers:
        table.add_row(*_offer(offer))
    return table


def _offer(offer: Offer) -> tuple[str, ...]:
    instance, found = offer.instance, offer.estimate
    name = f"{offer.machines} x {instance.name}"
    gpus = f"{instance.gpus * offer.machines} {instance.gpu}" if instance.gpu else "none"
    if found is None:
        return name, gpus, *[""] * 6, escape(offer.why_not)
    mark = "" if offer.score_measured else "*"
    cores = f"{found.cores_a_replica:,.1f}, {instance.cpus / instance.gpus:,.0f}" if instance.gpus else ""
    return (
        name,
        gpus + mark,
        f"{found.rates.rows_per_s:,.1f}",
        _time(found.wall_s),
        f"{found.gpu_hours:,.2f}" if found.gpu_hours else "",
        cores,
        _usd(offer.usd(instance.usd_per_hour)),
        _usd(offer.usd(instance.usd_per_hour_spot)),
        f"{found.rates.binds}: {_most(found)}" if found.rates.binds is Binds.CPU else found.rates.binds,
    )


def _binds(found: Estimate) -> str:
    return ADVICE[found.rates.binds].format(most=_most(found))


def _most(found: Estimate) -> str:
    return max(found.cpu_s, key=lambda name: found.cpu_s[name])


def _usd(amount: float | None) -> str:
    if amount is None:
        return "-"
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}" if amount >= 0.01 else "< $0.01"


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
