"""Settings from YAML and flags: what wins, and the one line that each mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.commandline import Invocation, load, new_parser, parse
from pipeline.config import Config
from pipeline.errors import ConfigError


def invoke(*argv: str) -> Invocation:
    return parse(new_parser("score.py", "test"), list(argv))


def test_no_arguments_give_the_defaults() -> None:
    invocation = invoke()
    assert invocation.config == Config()
    assert invocation.options.json is False


def test_flags_are_laid_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"fetch": {"timeout_s": 3, "retries": 7}, "input": {"manifest": "s3://b/m"}}))
    config = invoke("--config", str(file), "--fetch.timeout_s", "4.5").config
    assert (config.fetch.timeout_s, config.fetch.retries, config.input.manifest) == (4.5, 7, ["s3://b/m"])


@pytest.mark.parametrize(
    "argv",
    [("--input.manifest", "s3://a", "--input.manifest", "s3://b"), ("--input.manifest", '["s3://a", "s3://b"]')],
    ids=["repeated", "json"],
)
def test_lists_are_repeated_or_json(argv: tuple[str, ...]) -> None:
    assert invoke(*argv).config.input.manifest == ["s3://a", "s3://b"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--output.overwrite",), True),
        (("--output.overwrite", "true"), True),
        (("--output.overwrite=true",), True),
        (("--output.overwrite", "false"), False),
        (("--no-output.overwrite",), False),
    ],
)
def test_booleans_are_bare_or_spelt_out(argv: tuple[str, ...], expected: bool) -> None:
    assert invoke(*argv).config.output.overwrite is expected


def test_null_takes_an_optional_setting_back(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {image_size: 224}\n")
    assert invoke("--config", str(file), "--model.image_size", "null").config.model.image_size is None


def test_local_paths_become_absolute_and_urls_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = invoke("--input.manifest", "m", "--output.path", "s3://b/out/").config
    assert config.input.manifest == [str(tmp_path / "m")]
    assert config.output.path == "s3://b/out"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--fetch.timeot_s", "3"), ["unknown setting --fetch.timeot_s", "did you mean fetch.timeout_s"]),
        (("--bogus", "3"), ["unknown setting --bogus", "--help"]),
        (("--compute.replicas", "many"), ["compute.replicas", "integer", "'many'"]),
        (("--compute.replicas", "0"), ["compute.replicas", "greater than or equal to 1"]),
        (("--model.precision", "int3"), ["precision", "float32"]),
        (("--fetch.allowed_networks", "10.0.0.1/8"), ["fetch.allowed_networks", "10.0.0.1/8"]),
        (("--input.manifest",), ["--input.manifest", "expected one argument"]),
        (("stray",), ["stray"]),
        (("--config", "/nowhere/c.yaml"), ["/nowhere/c.yaml", "No such file"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(argv: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        invoke(*argv)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input: {kolumns: 1}", ["unknown setting input.kolumns"]),
        ("- a\n- b", ["expected sections", "list"]),
        ("input: [", ["not YAML"]),
        ("input: 3", ["input"]),
        ("fetch: {timeout_s: 0}", ["fetch.timeout_s", "greater than 0"]),
    ],
)
def test_a_mistake_in_the_file_names_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    message = str(caught.value)
    assert "\n" not in message
    for word in [*words, "bad.yaml"]:
        assert word in message


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().fetch.timeout_s = 3  # type: ignore[misc]


def test_every_setting_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        invoke("--help")
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    for section, field in Config.model_fields.items():
        for name, setting in field.annotation.model_fields.items():  # type: ignore[union-attr]
            assert setting.description, f"{section}.{name}"
            assert f"--{section}.{name}" in help_text


def test_help_is_silent_about_defaults_that_are_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(new_parser("program.py", "What it does.", "FOLDER"), ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: program.py FOLDER [--config FILE] [--section.key VALUE ...] [--json] What it does.")
    assert "--output.rows_per_output_file int" in text
    assert "(default: 100000)" in text
    assert not any(nothing in text for nothing in ("(default: None)", "(default: [])", "(default: )"))
