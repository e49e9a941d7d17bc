"""BLIP_ITM, complete and usable alone: `from pipeline.model import blip_itm`.

Names are imported when they are first used, so that `pipeline.model.source` and `pipeline.model.tokenizer`, which need no
torch, can be had without paying for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.model.blip_itm import BLIP_ITM, blip_itm
    from pipeline.model.checkpoint import load_checkpoint, load_model, save_checkpoint
    from pipeline.model.tokenizer import init_tokenizer
    from pipeline.model.vit import create_vit

__all__ = ["BLIP_ITM", "blip_itm", "create_vit", "init_tokenizer", "load_checkpoint", "load_model", "save_checkpoint"]

_HOME = {
    "BLIP_ITM": "blip_itm",
    "blip_itm": "blip_itm",
    "create_vit": "vit",
    "init_tokenizer": "tokenizer",
    "load_checkpoint": "checkpoint",
    "load_model": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `pipeline.model.blip_itm` the function: importing the file of the same name would bind the submodule there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "blip_itm" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
