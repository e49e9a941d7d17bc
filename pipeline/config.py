"""Every setting: one frozen section a stage, YAML read in, command-line flags over it.

Defaults live here and nowhere else, the unit in the name and the reason beside. No other module reads YAML, flags or the
environment (cloud credentials excepted: their SDKs read their own). Knows nothing of what the settings are used for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from pipeline.dataset_settings import ExplainConfig, FilterConfig, ReportConfig
from pipeline.nightly_settings import NightlyConfig
from pipeline.plan_settings import PlanConfig
from pipeline.schema import Status
from pipeline.sections import Section, StrList, as_list
from pipeline.sections import absolute_path as absolute_path

MIB = 1024 * 1024
Scheme = Literal["http", "https", "s3", "gs", "az", "file"]
SCHEMES: tuple[Scheme, ...] = ("http", "https", "s3", "gs", "az", "file")
DEFAULT_BLOCK_ROWS = 128  # for whoever calls a stage alone, without a cluster to choose by


class ColumnsConfig(Section):
    """Names of the manifest's columns; unset ones are recognised by the names that LAION, DataComp and CC use."""

    url: str | None = None
    """Column of image URLs or paths."""
    caption: str | None = None
    """Column of captions: string or list<string>."""
    image: str | None = None
    """Column of image bytes (binary, or Hugging Face's struct of bytes and path); read before the URL where it is set."""
    sha256: str | None = None
    """Column of the SHA-256 that an image had, in hexadecimal; other bytes fail. Never recognised: name it to check it."""
    key: str | None = None
    """Column of the user's row id, quoted in logs and reports; rows are identified by file and row number without it."""


class InputConfig(Section):
    """What is read."""

    manifest: StrList = Field(default_factory=list)
    """Parquet manifests: files, folders or globs; local, s3://, gs:// or any fsspec URL."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which columns hold what."""

    @field_validator("manifest")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        return [absolute_path(path) for path in value]


class OutputConfig(Section):
    """What is written."""

    path: str = ""
    """Folder of the annotated Parquet: local, s3://, gs:// or any fsspec URL."""
    rows_per_output_file: int = Field(default=100_000, ge=1)
    """At most so many rows a file: the unit of commit. 100,000 rows of URLs and scores are some 20 MB."""
    column_prefix: str = ""
    """Put before each of our column names, where the manifest has columns of the same names."""
    image_embedding: bool = False
    """Add the image's normalised embedding as a fixed-size list<float32> (1 KB a row)."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Exit with 3 if a larger share of rows failed. Web manifests of some age lose a third to dead links."""
    placeholder_urls: int = Field(default=10, ge=2)
    """The same bytes under so many URLs are listed in the summary: pictures of "image not available", pages of "not found"."""
    overwrite: bool = False
    """Delete what an earlier run wrote to the output folder, and start over."""
    retry: StrList = Field(default_factory=list)
    """Score rows of an output once more: a status, or status:reason, e.g. failed_to_download or failed_to_download:timeout."""
    lease_s: float = Field(default=60.0, ge=1)
    """A run that gave no sign of life for so long counts as dead, and another may write to its output."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute_path(value)

    @field_validator("retry")
    @classmethod
    def _statuses(cls, value: list[str]) -> list[str]:
        failures = [status.value for status in Status if status is not Status.SUCCESS]
        for name in value:
            if name.partition(":")[0] not in failures:
                raise ValueError(f"{name} is no status of failed rows: {', '.join(failures)}")
        return value


class StorageConfig(Section):
    """How object stores are reached. Credentials come from the usual AWS_* / GOOGLE_* chain, never from here."""

    endpoint_url: str | None = None
    """S3 endpoint of a non-AWS store (MinIO, R2, Ceph, SeaweedFS); AWS_ENDPOINT_URL works as well."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    timeout_s: float = Field(default=20.0, gt=0)
    """Connect and read limit of one storage request."""
    retry_s: float = Field(default=300.0, ge=0)
    """So long a run that has begun waits for a store that is down or throttles, before it ends (and can be resumed)."""


class ModelConfig(Section):
    """Which weights score, and how."""

    checkpoint: str = ""
    """.pth, .safetensors, folder, URL or Hugging Face hub id of a BLIP_ITM; empty: the embedded demo model."""
    image_size: int | None = Field(default=None, ge=16, multiple_of=16)
    """Pixels a side; unset: the checkpoint's own (384 for the published ones)."""
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """auto: bfloat16 or float16 by what the GPU has, float32 on CPUs. int8: CPUs alone, faster and slightly other scores."""
    device: str = "auto"
    """auto: a GPU where the replica is given one, else the CPU; or a torch device string."""
    compile: bool = False
    """torch.compile on few fixed shapes: minutes at the start of each replica, for long runs on GPUs; a CPU needs g++."""
    tf32: bool = False
    """Let float32 on GPUs round the inputs of products to 10 bits of mantissa: faster, differences of 1e-3."""
    itm_first_token: Literal["cls", "enc"] = "cls"
    """First token of the ITM head's text: cls as the published demo and Hugging Face do, enc as LAVIS does."""

    @field_validator("checkpoint")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute_path(value) if value and Path(value).expanduser().exists() else value


class ComputeConfig(Section):
    """How the work is spread. None: chosen from the cluster's resources."""

    address: str | None = None
    """Ray cluster to join (host:port or auto); unset: RAY_ADDRESS, as `ray job submit` sets it, else a local one."""
    replicas: int | None = Field(default=None, ge=1)
    """Copies of the model. None: one a GPU; without GPUs one for every 8 CPUs."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images of one model call. None: by the model's size; 128 on GPUs and 16 on CPUs for base at 384 px."""
    chunk_rows: int = Field(default=2_048, ge=1)
    """Rows of one fetch task at most: the unit of work. Large, so that the slow tail of one is a small part of it; of a small
    manifest each fetch task gets several."""
    block_rows: int | None = Field(default=None, ge=1)
    """Images that a fetch task hands on at a time, and rows of a staged part at least. None: three seconds of a replica's
    work, 512 at most (226 MB of pixels at 384), and no more than the object store holds."""
    worker_deaths: int = Field(default=3, ge=0)
    """How often the same work is given to another process after the one that had it died; then the run ends, resumable."""
    fetch_cpus: float = Field(default=0.5, gt=0)
    """CPUs that a fetch task reserves; below 1, two share a core, and one decodes while the other waits for hosts."""
    wait_for_gpus: int = Field(default=0, ge=0)
    """GPUs that an autoscaling cluster is asked for before the run is planned. 0: the run takes what is there."""
    wait_for_cpus: int = Field(default=0, ge=0)
    """CPUs that it is asked for, those beside the GPUs included."""
    wait_s: float = Field(default=900.0, gt=0)
    """How long to wait for them; then the run begins with what has come. Spot machines are scarce at times."""


class FetchConfig(Section):
    """What may be fetched, and within which limits."""

    timeout_s: float = Field(default=10.0, gt=0)
    """One attempt, from resolving the name to the last byte, redirects included."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """To resolve, connect and shake hands."""
    read_timeout_s: float = Field(default=5.0, gt=0)
    """Silence of a host that is connected: before its headers, and between two pieces of its body."""
    retries: int = Field(default=1, ge=0)
    """Further attempts after failures that may pass: resets, 429, 5xx, and timeouts of hosts that have answered before."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Wait before the first further attempt; doubles with each, and is cut by up to a half at random."""
    max_backoff_s: float = Field(default=8.0, ge=0)
    """Where the doubling ends."""
    max_retry_after_s: float = Field(default=20.0, ge=0)
    """Longest wait that a host may ask for with Retry-After; one that asks for more is not asked again for this row."""
    host_failures: int = Field(default=5, ge=1)
    """So many connections in a row that fail, or get no answer in time, and the host counts as down: its rows fail at once.
    Until it has answered once, no more are made to it at a time."""
    host_down_s: float = Field(default=60.0, ge=0)
    """After which one row asks a host that was down again; doubles each time in vain, up to 16 times as long."""
    max_bytes: int = Field(default=32 * MIB, ge=1)
    """Largest body read; enforced while reading."""
    max_in_flight: int = Field(default=256, ge=1)
    """Downloads at a time in one fetch task. Those of silent hosts, up to `max_silent`, are not counted."""
    max_silent: int = Field(default=2_048, ge=0)
    """Further downloads beside hosts that have sent nothing for a while: each costs a socket, and no more than that."""
    max_per_host: int = Field(default=32, ge=1)
    """Connections at a time from one fetch task to one host."""
    max_redirects: int = Field(default=5, ge=0)
    """Hops followed; each is checked like the first address."""
    user_agent: str = "capsieve/0.1 (+https://pypi.org/project/capsieve)"
    """Sent with every request; name a contact of yours."""
    respect_opt_out: bool = True
    """Honour X-Robots-Tag: noai, noimageai, noindex, noimageindex, as img2dataset does."""
    schemes: Annotated[list[Scheme], BeforeValidator(as_list)] = Field(default_factory=lambda: list(SCHEMES))
    """What URLs of rows may begin with. Stores are read with the workers' credentials: leave them out where strangers wrote the
    manifest. Relative paths start from the manifest's folder, whatever is listed here."""
    allowed_networks: StrList = Field(default_factory=list)
    """Private networks (CIDR) that may be fetched from all the same, e.g. 10.1.0.0/16 or 127.0.0.0/8."""
    file_roots: StrList = Field(default_factory=list)
    """Local folders that images may be read from, besides the folder of a local manifest itself."""

    @field_validator("file_roots")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        return [absolute_path(path) for path in value]

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        import ipaddress

        return [str(ipaddress.ip_network(network)) for network in value]


class ImagesConfig(Section):
    """What may be decoded."""

    max_pixels: int = Field(default=50_000_000, ge=1)
    """Largest width times height, checked before decoding. 50 megapixels cost up to 1 GB while a GIF or PNG is decoded."""
    min_side: int = Field(default=4, ge=1)
    """Smaller images (tracking pixels, spacers) fail."""
    max_aspect_ratio: float = Field(default=20.0, ge=1)
    """Longer banners fail."""
    allow_truncated: bool = False
    """Score images whose file ends early, with what was there (not WebP and AVIF, whose decoders return no part)."""
    apply_icc: bool = False
    """Convert colours to sRGB where a file has an ICC profile. Off, as in BLIP's own preprocessing; slower for such files."""
    isolate: bool = True
    """Decode in a process that may die of an image without the run. Needs Linux; without it, one bad image can hang a run."""
    timeout_s: float = Field(default=20.0, gt=0)
    """CPU time that one image may take to decode, and ten times as much by the clock, before it fails."""
    max_memory_bytes: int = Field(default=1536 * MIB, ge=64 * MIB)
    """Memory that decoding may take, above what an idle decoder has."""


class Config(Section):
    """All settings of a run."""

    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    fetch: FetchConfig = FetchConfig()
    images: ImagesConfig = ImagesConfig()
    filter: FilterConfig = FilterConfig()
    report: ReportConfig = ReportConfig()
    nightly: NightlyConfig = NightlyConfig()
    explain: ExplainConfig = ExplainConfig()
    plan: PlanConfig = PlanConfig()
