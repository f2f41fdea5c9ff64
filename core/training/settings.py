"""Settings as frozen dataclasses: each default once, its help with the unit beside it; flags and config files are made from the fields."""

import argparse
from dataclasses import field, fields
from typing import Any


def setting(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with a default, its help text and, where it is one of few words, these words."""
    return field(default=default, metadata={"help": text, "choices": choices})


def add_flags(parser: argparse.ArgumentParser, config: type, prefix: str = "") -> None:
    """One flag for each field of a config dataclass."""
    for entry in fields(config):
        flag = f"--{prefix}{entry.name.replace('_', '-')}"
        text = f"{entry.metadata['help']} (default {entry.default})"
        choices = entry.metadata.get("choices")
        parser.add_argument(flag, type=type(entry.default), default=entry.default, choices=choices, help=text)


def from_flags(options: argparse.Namespace, config: type, prefix: str = "") -> Any:
    """The config that the flags of `add_flags` describe."""
    return config(**{entry.name: getattr(options, f"{prefix}{entry.name}".replace("-", "_")) for entry in fields(config)})
