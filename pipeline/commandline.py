"""From a command line to settings: a YAML file read in, flags of the same paths over it, every mistake one clear line.

Knows nothing of what the settings mean (`config` does) or of what a program does with them (`jobs/` do).
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from pipeline.config import Config
from pipeline.errors import ConfigError

NO_DEFAULT = re.compile(r" \(default: (None|\[\]|)\)$")


class Invocation(NamedTuple):
    """What a program was asked to do."""

    config: Config
    options: argparse.Namespace  # `config`, `json` and the program's own flags


class _Flags(BaseSettings, Config):
    model_config = SettingsConfigDict(frozen=True, extra="forbid")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _Help(argparse.HelpFormatter):
    """Wide, and silent about defaults that are nothing."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=40, width=120)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return NO_DEFAULT.sub("", action.help) if action.help else action.help


def new_parser(prog: str, description: str, operand: str = "") -> argparse.ArgumentParser:
    """A parser with `--config` and `--json`; a program adds its own flags, then calls `parse`.

    operand: what the usage line has before all flags.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=_Help,
        usage=" ".join(["%(prog)s", *operand.split(), "[--config FILE] [--section.key VALUE ...] [--json]"]),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; flags are laid over it")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and nothing else, on stdout")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Invocation:
    """Read the command line. Raises ConfigError; exits with 0 on --help."""
    known = dict(_setting_types(Config))
    programs_own = {option for action in parser._actions for option in action.option_strings}
    _refuse_unknown(argv, known, programs_own)
    arguments = _spell_out_booleans(argv, known)
    source: CliSettingsSource[_Flags] = CliSettingsSource(
        _Flags,
        root_parser=parser,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str="null",
        case_sensitive=True,
    )
    options = parser.parse_args(arguments)
    flags = source(parsed_args=options)()
    own = {name: getattr(options, name) for name in vars(options) if "." not in name}
    return Invocation(load(options.config, flags), argparse.Namespace(**own))


def load(path: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Settings of a YAML file with nested `overrides` over it. Raises ConfigError naming file, setting and remedy."""
    settings = _read_yaml(path) if path else {}
    try:
        return Config.model_validate(_merge(settings, overrides or {}))
    except ValidationError as error:
        raise ConfigError(_one_line(error, path)) from None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path}: expected sections such as `input:` at the top, found {type(settings).__name__}")
    return settings


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below or {}, value) if isinstance(value, Mapping) and isinstance(below, Mapping | None) else value
    return merged


def _one_line(error: ValidationError, path: str | None) -> str:
    known = [name for name, _ in _setting_types(Config)]
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}{_suggestion(name, known)}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message} (got {problem['input']!r})")
    where = f"{path}: " if path else ""
    return where + "; ".join(lines)


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else "; --help lists them"


def _setting_types(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _setting_types(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def _refuse_unknown(argv: Sequence[str], known: Mapping[str, Any], programs_own: set[str]) -> None:
    for argument in argv:
        flag = argument.split("=", 1)[0]
        name = flag.removeprefix("--")
        known_name = name in known or known.get(name.removeprefix("no-")) is bool
        if flag.startswith("--") and flag != "--" and not known_name and flag not in programs_own:
            raise ConfigError(f"unknown setting {flag}{_suggestion(name, list(known))}")


def _spell_out_booleans(argv: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """`--a.b true` and `--a.b=false` become `--a.b` and `--no-a.b`, so that YAML's spelling works as well."""
    words: list[str] = []
    for argument in (part for arg in argv for part in _split_boolean(arg, known)):
        if words and words[-1].startswith("--") and known.get(words[-1][2:]) is bool and argument.lower() in ("true", "false"):
            words[-1] = words[-1] if argument.lower() == "true" else f"--no-{words[-1][2:]}"
        else:
            words.append(argument)
    return words


def _split_boolean(argument: str, known: Mapping[str, Any]) -> list[str]:
    flag, equals, value = argument.partition("=")
    return [flag, value] if equals and known.get(flag.removeprefix("--")) is bool else [argument]
