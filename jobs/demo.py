"""See it work: score some 500 rendered pictures, out of and back into a real S3 server on this machine.

    python jobs/demo.py [--scenes N] [flags of score.py]

Starts the server, fills a bucket with pictures and a manifest of good, wrong and slightly wrong captions (and rows that must
fail), runs the same `jobs/score.py` that a cluster would, and shows the best, the worst and the failed rows. The output is
left in ./demo-output/scored, a report of it in ./demo-output/report.html. Nothing is left running, Ctrl-C included. Exit codes
are those of score.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
from console import Interrupted, interrupts_raise
from demo_bucket import BUCKET, Addresses, Contents, Kind, make_contents, upload
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.commandline import load
from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.local_s3 import LocalS3, die_with_us
from pipeline.report.run import write_report
from pipeline.storage import list_files, read_bytes

ROOT = Path(__file__).resolve().parent.parent
SCORED, PICTURES = Path("demo-output/scored"), Path("demo-output/pictures")
REPORT = Path("demo-output/report.html")
STOP_TIMEOUT_S = 20.0  # score.py stops Ray in some seconds when asked
SHOWN = 6  # rows of the best and of the worst


def main(argv: list[str]) -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=500, metavar="N", help="pictures to render (default: 500)")
    options, score_flags = parser.parse_known_args(argv)
    console = Console(highlight=False)
    try:
        with interrupts_raise():
            return demo(console, options.scenes, score_flags)
    except UserError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        print(f"demo: stopped by {interrupted}; nothing is left running", file=sys.stderr)
        return interrupted.exit_code


def demo(console: Console, n_scenes: int, score_flags: list[str]) -> int:
    """Server, bucket, scoring, tables. Raises UserError where the server cannot be started."""
    own_environment()
    # connections are taken by the system and never answered: a URL that hangs
    with LocalS3(public_buckets=[BUCKET]) as server, socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        os.environ.update(server.env())
        console.print(f"S3 server at {server.endpoint_url}; rendering {n_scenes} pictures")
        host, port = silent.getsockname()
        addresses = Addresses(server.endpoint_url, f"{host}:{port}")
        contents = make_contents(addresses, n_scenes)
        manifest, output = upload(contents, addresses), addresses.s3("scored")
        console.print(f"{len(contents.objects)} files and a manifest of {len(contents.rows)} rows uploaded to s3://{BUCKET}")
        console.print()
        code = score(console, manifest, output, score_flags)
        if code == 0:
            download(output, SCORED)
            report(output)  # while there is a server to fetch pictures from
    if code == 0:
        show(console, pd.read_parquet(SCORED), contents)
        console.print(f"report, to open in a browser: {REPORT.absolute()}", style="bold", soft_wrap=True)
    return code


def own_environment() -> None:
    """Take the user's cloud credentials and cluster out of this process: the demo must meet neither."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name == "RAY_ADDRESS":
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def score(console: Console, manifest: str, output: str, flags: list[str]) -> int:
    """Run score.py as a user would; returns its exit code. It ends when we do."""
    arguments = ["--config", "configs/demo.yaml", "--input.manifest", manifest, "--output.path", output, *flags]
    console.print("$ python jobs/score.py " + " ".join(arguments), style="bold", soft_wrap=True)
    arguments[1] = str(ROOT / arguments[1])
    # In a session of its own, so that a Ctrl-C reaches only us, and we end it in order.
    command = die_with_us([sys.executable, str(ROOT / "jobs" / "score.py"), *arguments])
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a child that leads a session to stop, then end it with whatever it started there."""
    try:
        with suppress(subprocess.TimeoutExpired):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):  # as it should be: nobody is left in the group
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def download(url: str, folder: Path) -> None:
    """Copy the scored files to a local folder, over those of an earlier demo."""
    empty(folder, "*.parquet")
    for file in list_files(url, StorageConfig()):
        name = file.url.removeprefix(url + "/")
        if "/" not in name:
            (folder / name).write_bytes(read_bytes(file.url, StorageConfig()))


def report(url: str) -> None:
    """Write the page about the scored rows, as report.py does, with the demo's settings."""
    names = {"input": {"manifest": url}, "output": {"path": str(REPORT)}, "report": {"title": "capsieve's demo"}}
    write_report(load(str(ROOT / "configs/demo.yaml"), names))


def empty(folder: Path, pattern: str) -> None:
    """Make the folder, and remove what an earlier demo put there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(pattern):
        old.unlink()


# ------------------------------------------------------------------ tables


def show(console: Console, scored: pd.DataFrame, contents: Contents) -> None:
    """Print the best, the worst, the failed, the means by kind, and where the output is."""
    done = scored[scored["status"] == "success"].sort_values("itm_logit", ascending=False)
    best, worst = done.head(SHOWN), done.tail(SHOWN).iloc[::-1]
    for table in (
        pairs_table("best captions", best),
        pairs_table("worst captions", worst),
        failures_table(scored[scored["status"] != "success"]),
        kinds_table(done),
    ):
        console.print()
        console.print(table)
    empty(PICTURES, "*.jpg")
    for url in [*best["url"], *worst["url"]]:
        (PICTURES / file_name(url)).write_bytes(contents.objects[f"images/{file_name(url)}"])
    console.print()
    console.print(
        f"{len(contents.rows)} rows in, {len(scored)} out; order and input columns unchanged: {same_rows(scored, contents)}"
    )
    console.print(f"pictures of the best and the worst: {PICTURES.absolute()}", soft_wrap=True)
    console.print(f"scored Parquet: {SCORED.absolute()}", soft_wrap=True)
    console.print(f">>> import pandas as pd; df = pd.read_parquet({str(SCORED)!r})", style="bold", soft_wrap=True)


def new_table(title: str, *columns: str) -> Table:
    """A table without lines."""
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def pairs_table(title: str, rows: pd.DataFrame) -> Table:
    """Scores, ground truth and caption."""
    table = new_table(title, "match", "cosine", "truth", "picture", "caption")
    for row in rows.itertuples():
        style = "green" if row.kind == Kind.GOOD else "red"
        scores = f"{row.itm_score:.3f}", f"{row.itc_similarity:+.3f}"
        table.add_row(*scores, f"[{style}]{row.kind}[/]", file_name(row.url), Text(str(row.caption)))
    return table


def failures_table(rows: pd.DataFrame) -> Table:
    """What was wrong, and what score.py said of it."""
    table = new_table("failed rows", "what is wrong", "status", "error_message", "file")
    for row in rows.itertuples():
        table.add_row(
            str(row.note or "nothing: this should not have failed"), str(row.status), str(row.error_message), file_name(row.url)
        )
    return table


def kinds_table(rows: pd.DataFrame) -> Table:
    """Mean scores by ground truth, and how often a good caption has the higher score."""
    table = new_table("by kind", "truth", "rows", "mean match", "mean cosine", "good is above it")
    good = rows.loc[rows["kind"] == Kind.GOOD, "itm_logit"]
    for kind in (Kind.GOOD, Kind.SLIGHTLY_WRONG, Kind.WRONG):
        own = rows[rows["kind"] == kind]
        above = f"{above_share(good, own['itm_logit']):.0%}" if kind is not Kind.GOOD else ""
        table.add_row(kind, str(len(own)), f"{own['itm_score'].mean():.3f}", f"{own['itc_similarity'].mean():+.3f}", above)
    return table


def above_share(first: pd.Series[float], second: pd.Series[float]) -> float:
    """Share of the pairs of one value of each where the first is higher: the area under the ROC curve."""
    values = pd.concat([first, second]).rank()
    n, m = len(first), len(second)
    return float((values.iloc[:n].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def same_rows(scored: pd.DataFrame, contents: Contents) -> str:
    """`yes`, if the manifest's columns came out as they went in."""
    columns = ["url", "caption", "kind", "note"]
    found = scored[columns].astype(object).where(scored[columns].notna(), None).to_numpy().tolist()
    return "yes" if found == [list(row) for row in contents.rows] else "NO, and that is a bug"


def file_name(url: object) -> str:
    """The end of a URL."""
    return str(url).rpartition("/")[2] if isinstance(url, str) else ""


if __name__ == "__main__":
    start = time.monotonic()
    code = main(sys.argv[1:])
    if code == 0:
        print(f"({time.monotonic() - start:.0f} s)")
    sys.exit(code)
