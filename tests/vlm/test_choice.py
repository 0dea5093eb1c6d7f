"""From a command's options to the model that they name."""

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from agevlm.errors import DataError
from agevlm.terminal import CHECKPOINT, CKPT, MODEL, with_options
from agevlm.vlm.choice import ModelChoice


def chosen(options, *given):
    """The choice of a command with these options, and the names of its parameters."""
    found = []

    @click.command()
    @CKPT
    @with_options(*options)
    @click.option("--other", default=3)
    def command(**values):
        found.append(ModelChoice.of(values))

    result = CliRunner().invoke(command, list(given), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0], [parameter.name for parameter in command.params]


def test_every_option_of_a_model_reaches_it(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }} é", encoding="utf-8")
    values = {
        "name": ("--ckpt", "org/name"),
        "dtype": ("--dtype", "bfloat16"),
        "device": ("--device", "cuda:1"),
        "batch_size": ("--batch-size", 7),
        "chat_template": ("--chat-template", str(template)),
        "device_map": ("--device-map", "balanced"),
        "concurrency": ("--concurrency", 5),
        "timeout": ("--timeout", 2.5),
    }
    assert list(values) == [field.name for field in fields(ModelChoice)]
    choice, names = chosen(MODEL, *(str(part) for pair in values.values() for part in pair))
    assert sorted(names) == sorted(["ckpt", "other", *values.keys() - {"name"}])
    expected = {name: value for name, (_, value) in values.items()} | {"chat_template": "{{ messages }} é"}
    assert choice == ModelChoice(**expected)
    plain = ModelChoice("scenes/age-vlm")
    assert all(getattr(choice, field.name) != getattr(plain, field.name) for field in fields(ModelChoice))


@pytest.mark.parametrize("options", [MODEL, CHECKPOINT])
def test_without_options_it_is_the_default_choice_and_options_stand_in_their_order(options):
    choice, names = chosen(options)
    assert choice == ModelChoice("scenes/age-vlm")
    assert names[:4] == ["ckpt", "dtype", "device", "device_map"]
    assert names[-1] == "other"


def test_a_template_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"--chat-template .*none\.jinja: cannot read"):
        chosen(CHECKPOINT, "--chat-template", str(tmp_path / "none.jinja"))
