"""The machines that can be rented, and what they cost: configs/instances.yaml, or a copy of it with your own figures.

Everything in it is an assumption and is called one wherever it is shown. Knows nothing of what is made of the figures.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.sections import Section

SHIPPED = "configs/instances.yaml"
_PACKAGE = Path(__file__).resolve().parents[1]


class Gpu(Section):
    """A kind of GPU."""

    tflops: float = Field(gt=0)
    """Dense products in 16 bits, at best."""
    name: str
    """Part of what CUDA calls it: where this machine has one, its measured rate takes the place of the assumed one."""


class Instance(Section):
    """A kind of machine."""

    name: str
    cpus: int = Field(ge=1)
    """As Ray counts them: hardware threads."""
    gpus: int = Field(default=0, ge=0)
    gpu: str | None = None
    """Key of `gpus`."""
    memory_gib: float = Field(gt=0)
    network_gbps: float = Field(gt=0)
    """That can be had all the time, not for minutes."""
    usd_per_hour: float = Field(ge=0)
    usd_per_hour_spot: float | None = Field(default=None, ge=0)


class Requests(Section):
    """What object stores charge for requests."""

    get_usd_per_million: float = Field(default=0.0, ge=0)


class Catalogue(Section):
    """The whole file."""

    gpus: dict[str, Gpu] = Field(default_factory=dict)
    gpu_utilisation: float = Field(default=0.4, gt=0, le=1)
    """Share of `tflops` that the model reaches."""
    requests: Requests = Requests()
    instances: list[Instance] = Field(min_length=1)

    @model_validator(mode="after")
    def _kinds_are_known(self) -> Catalogue:
        for instance in self.instances:
            if bool(instance.gpus) != (instance.gpu is not None):
                raise ValueError(f"{instance.name}: gpus and gpu go together")
            if instance.gpu is not None and instance.gpu not in self.gpus:
                raise ValueError(f"{instance.name}: no GPU {instance.gpu} among {', '.join(sorted(self.gpus))}")
        return self


def read_catalogue(path: str) -> Catalogue:
    """The file at `path`, or the shipped one. Raises ConfigError, one line, for what is no such file."""
    file = Path(path) if path else _shipped()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--plan.instances {file}: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--plan.instances {file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--plan.instances {file}: expected `instances:` at the top, found {type(content).__name__}")
    try:
        return Catalogue.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
        raise ConfigError(f"--plan.instances {file}: {'; '.join(problems).replace('.: ', ': ')}") from None


def _shipped() -> Path:
    """In the wheel, configs/ lies in the package; in the repository beside it."""
    inside = _PACKAGE / SHIPPED
    return inside if inside.is_file() else _PACKAGE.parent / SHIPPED
