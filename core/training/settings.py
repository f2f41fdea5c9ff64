"""Settings as frozen dataclasses: each default once, its help with the unit beside it; flags and config files are made from the fields."""

import argparse
import difflib
from contextlib import suppress
from dataclasses import MISSING, field, fields
from typing import Any

from core.errors import InputError


def setting(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with a default, its help text and, where it is one of few words, these words."""
    return field(default=default, metadata={"help": text, "choices": choices})


def add_flags(parser: argparse._ActionsContainer, config: type, prefix: str = "") -> None:
    """One flag for each field of a config dataclass; --no-... as well for a switch."""
    for entry in fields(config):
        flag = f"--{prefix}{entry.name.replace('_', '-')}"
        options: dict[str, Any] = {"default": entry.default, "help": f"{entry.metadata['help']} (default {entry.default})"}
        if isinstance(entry.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(entry.default, tuple):
            options |= {"nargs": "*", "default": list(entry.default)}
        else:
            options |= {"type": type(entry.default), "choices": entry.metadata.get("choices")}
        parser.add_argument(flag, **options)


def from_flags(options: argparse.Namespace, config: type, prefix: str = "") -> Any:
    """The config that the flags of `add_flags` describe."""
    values = {entry.name: getattr(options, f"{prefix}{entry.name}".replace("-", "_")) for entry in fields(config)}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def from_mapping(values: Any, config: type, where: str) -> Any:
    """The config that a part of a file describes. Raises InputError for unknown fields and values of the wrong type.

    values: a mapping, None for an empty one; where: how errors call it
    """
    if not isinstance(values, dict | None):
        raise InputError(f"config {where}: got {values!r}, expected settings: {', '.join(entry.name for entry in fields(config))}")
    known = {entry.name: entry for entry in fields(config)}
    for name in values or {}:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"config {where}: unknown setting {name!r}; {meant}known: {', '.join(known)}")
    missing = [name for name, entry in known.items() if entry.default is MISSING and name not in (values or {})]
    if missing:
        raise InputError(f"config {where}: lacks {', '.join(missing)}")
    return config(**{name: _typed(value, known[name].default, f"{where}.{name}") for name, value in (values or {}).items()})


def _typed(value: Any, default: Any, where: str) -> Any:
    """`value` in the type of `default`. YAML takes 1e-4 for a word, and nothing for None; a whole number may stand for a real one."""
    wanted = str if default is MISSING else type(default)
    if wanted is str and value is None and default is not MISSING:
        return ""
    if wanted is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # a word that is no number is refused below
            return float(value)
    if type(value) is not wanted:
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}
        raise InputError(f"config {where}: got {value!r}, expected {names[wanted]}")
    return value
