"""Images that crash, hang or swallow memory, decoded for real: each costs its own row, and nothing is left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.config import MIB, ImagesConfig
from pipeline.images import decode as decode_here
from pipeline.isolation import DECODE, Decoder
from pipeline.schema import Reason
from tests.poison import FAULTS

POISON = "tests.poison:decode"
SIZE = 16
# Wall time is ten times that, and the worker's own limit twenty times: enough for any picture here on a busy machine.
HASTY = ImagesConfig(timeout_s=0.4, max_memory_bytes=128 * MIB)

Outcome = tuple[npt.NDArray[np.uint8] | None, str | None]


def png(seed: int, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def outcomes(files: Iterable[bytes], config: ImagesConfig = HASTY, decode: str = POISON) -> list[Outcome]:
    """Pixels, or the reason, of each file; checks that every file has one result, in order."""
    found: dict[int, Outcome] = {}
    with Decoder[int](SIZE, config, decode) as decoder:
        results = (result for number, data in enumerate(files) for result in decoder.submit(number, data))
        for source in (results, decoder.drain()):
            for image in source:
                assert image.token == len(found)
                assert (image.pixels is None) == (image.error is not None)
                pixels = None if image.pixels is None else image.pixels.copy()
                found[image.token] = (pixels, None if image.error is None else image.error.reason)
    return [found[number] for number in sorted(found)]


def decoder_processes() -> list[int]:
    """Fork servers of this process, and what they have forked."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    servers = [pid for pid, parent in parents.items() if parent == os.getpid() and b"fork_server" in command(pid)]
    return servers + [pid for pid, parent in parents.items() if parent in servers]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, what
        time.sleep(0.02)


def test_pixels_are_those_of_decoding_here() -> None:
    files = [png(seed) for seed in range(100)]
    found = outcomes(files, ImagesConfig(), DECODE)
    assert len(found) == 100
    for (pixels, reason), data in zip(found, files, strict=True):
        assert reason is None
        assert np.array_equal(pixels, decode_here(data, SIZE))  # type: ignore[arg-type]


def test_size_and_time_come_along() -> None:
    with Decoder[str](SIZE, ImagesConfig()) as decoder:
        (image,) = [*decoder.submit("a", png(0)), *decoder.drain()]
    assert (image.token, image.width, image.height) == ("a", 40, 30)
    assert image.seconds > 0


def test_files_of_every_size_pass_and_leave_no_memory_behind() -> None:
    bmp = io.BytesIO()
    Image.new("RGB", (6000, 4000), "red").save(bmp, "BMP")  # 72 MB
    files = [png(1), b"", bmp.getvalue(), png(2), bmp.getvalue(), b"x" * 5 * MIB, png(3)]
    found = outcomes(files, ImagesConfig(), DECODE)
    reasons = [reason for _, reason in found]
    assert reasons == [None, Reason.EMPTY, None, None, None, Reason.NOT_AN_IMAGE, None]
    assert np.array_equal(found[6][0], decode_here(png(3), SIZE))  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.decode().lower())
def test_a_fault_costs_its_own_image(fault: bytes) -> None:
    files = [png(seed) for seed in range(40)]
    files[20] = fault
    found = outcomes(files)
    assert [reason for _, reason in found] == [FAULTS[fault][1] if number == 20 else None for number in range(40)]
    for number in (19, 21, 39):
        assert np.array_equal(found[number][0], decode_here(files[number], SIZE))  # type: ignore[arg-type]


def test_faults_one_after_the_other_each_have_their_own_reason() -> None:
    quick = [fault for fault in FAULTS if fault not in (b"SLEEP", b"DEAF")] * 3
    assert [reason for _, reason in outcomes(quick)] == [FAULTS[fault][1] for fault in quick]


def test_an_image_whose_process_was_killed_once_is_decoded_again(tmp_path: Path) -> None:
    files = [png(seed) for seed in range(10)]
    files[4] = f"ONCE {tmp_path}/a\n".encode() + files[4]
    files[7] = f"ONCE {tmp_path}/b\n".encode() + files[7]
    found = outcomes(files)
    assert [reason for _, reason in found] == [None] * 10
    assert np.array_equal(found[4][0], decode_here(png(4), SIZE))  # type: ignore[arg-type]


def test_a_fork_server_that_is_killed_is_replaced() -> None:
    with Decoder[int](SIZE, HASTY, POISON) as decoder:
        first = [*decoder.submit(0, png(0)), *decoder.drain()]
        for pid in decoder_processes():
            if command(pid).endswith(POISON.encode() + b"\0"):
                os.kill(pid, signal.SIGKILL)
        second = [image.error for image in [*decoder.submit(1, png(1)), *decoder.submit(2, png(2)), *decoder.drain()]]
    assert first[0].error is None
    assert second == [None, None]


def test_results_are_good_while_more_is_submitted() -> None:
    """Pixels are a view of shared memory: it must not be written to before the next result is asked for."""
    files = [png(seed) for seed in range(60)]
    with Decoder[int](SIZE, ImagesConfig()) as decoder:
        for number, data in enumerate(files):
            for image in decoder.submit(number, data):
                time.sleep(0.002)  # the process goes on meanwhile
                assert np.array_equal(image.pixels, decode_here(files[image.token], SIZE))  # type: ignore[arg-type]
        assert len(list(decoder.drain())) <= 60


def test_several_threads_have_a_decoder_each() -> None:
    failures: list[int] = []

    def work(which: int) -> None:
        files = [png(1000 * which + seed) for seed in range(30)]
        files[10] = b"SEGFAULT"
        for number, (pixels, reason) in enumerate(outcomes(files)):
            good = (
                reason == Reason.DECODER_CRASHED if number == 10 else np.array_equal(pixels, decode_here(files[number], SIZE))
            )  # type: ignore[arg-type]
            failures.extend([number] * (not good))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def test_a_decoder_leaves_neither_processes_nor_descriptors() -> None:
    outcomes([png(0), b"SEGFAULT", png(1)])
    servers = len([pid for pid in decoder_processes() if b"fork_server" in command(pid)])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    outcomes([png(0), b"SEGFAULT", png(1)])
    with Decoder[int](SIZE, HASTY, POISON) as decoder:  # one that is left in the middle
        list(decoder.submit(0, png(0)))
        list(decoder.submit(1, b"SLEEP"))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert len(decoder_processes()) <= servers


PROGRAM = """
import os, signal, sys, time
from pipeline.config import ImagesConfig
from pipeline.isolation import Decoder

decoder = Decoder(16, ImagesConfig(), "tests.poison:decode").__enter__()
list(decoder.submit(0, b"SLEEP"))
print(decoder._child[0], flush=True)
ACTION
"""


@pytest.mark.parametrize(
    "action", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSEGV)"]
)
def test_decoder_processes_end_with_their_worker(action: str) -> None:
    program = textwrap.dedent(PROGRAM).replace("ACTION", action)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr
    decoder = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{decoder}").exists(), "the decoder process outlived its worker")


def test_a_decoder_process_is_confined() -> None:
    """No core files, no files, no new privileges; and the fork server that it comes from has a single thread."""
    with Decoder[int](SIZE, HASTY, POISON) as decoder:
        assert len([*decoder.submit(0, png(0)), *decoder.drain()]) == 1  # it is past its beginning
        list(decoder.submit(1, b"SLEEP"))
        processes = decoder_processes()
        (child,) = [pid for pid in processes if "PPid:\t" + str(os.getpid()) not in Path(f"/proc/{pid}/status").read_text()]
        status = Path(f"/proc/{child}/status").read_text()
        limits = Path(f"/proc/{child}/limits").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Threads:\t1\n" in status
        assert all("Threads:\t1\n" in Path(f"/proc/{pid}/status").read_text() for pid in processes), (
            "forking is safe with one thread only"
        )
        for limit in ("Max core file size", "Max file size"):
            (line,) = [line for line in limits.splitlines() if line.startswith(limit)]
            assert line.removeprefix(limit).split()[:2] == ["0", "0"]


def test_credentials_do_not_reach_decoders() -> None:
    program = (
        "import os; os.environ['AWS_SECRET_ACCESS_KEY'] = 'hunter2'\n"
        "from pipeline.config import ImagesConfig\n"
        "from pipeline.isolation import Decoder\n"
        "with Decoder(16, ImagesConfig(), 'tests.poison:decode') as decoder:\n"
        "    list(decoder.submit(0, b'SLEEP'))\n"
        "    print(b'hunter2' in open(f'/proc/{decoder._child[0]}/environ', 'rb').read())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
