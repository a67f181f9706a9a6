"""`make docs`: writes the generated parts of docs/ from the code. `--check` writes nothing and fails when one differs.

A page holds its generated parts between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; what stands around them
is written by people. tests/docs runs the check.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("teleport", "tctl", "tsh")


# --- Markdown


def cell(text: str) -> str:
    """Text inside a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


# --- docs/configuration.md


def configuration_keys() -> str:
    """Every key, a table for each top-level section."""
    from teleport.daemon.config.describe import describe_keys

    keys = describe_keys()
    sections = list(dict.fromkeys(key.path.partition(".")[0] for key in keys))
    parts = []
    for section in sections:
        rows = [
            (code(key.path), cell(key.type), cell(key.default), cell(key.meaning))
            for key in keys
            if key.path.partition(".")[0] == section
        ]
        parts.append(f"### `{section}`\n\n{table(('Key', 'Takes', 'Default', 'Meaning'), rows)}")
    return "\n".join(parts)


def not_built() -> str:
    """What the file can ask for that this version cannot do."""
    from teleport.daemon.config.describe import describe_keys
    from teleport.daemon.config.not_built import NOT_BUILT

    types = {key.path: key.type for key in describe_keys()}
    rows = []
    for row in NOT_BUILT:
        words = [word.removeprefix("each ") for word in re.split(r", | or ", types[row.path])]
        words = [word for word in words if " " not in word]
        asked = [word for word in words if row.asks(word)]
        values = ", ".join(map(code, ["yes"] if "yes" in asked else asked)) if asked != words else "any value"
        says = f"refused; allowed: {row.text}" if row.is_error else f"warning: {row.text}"
        rows.append((code(row.path), values, cell(says)))
    return table(("Key", "Value", "This version"), rows)


def default_ports() -> str:
    from teleport.daemon.config.ports import DEFAULT_PORTS

    return table(("Key", "Port"), ((code(path), str(port)) for path, port in DEFAULT_PORTS.items()))


# --- docs/api.md


def routes() -> str:
    from teleport.api.routes import ROUTES, Stream

    rows = []
    for route in ROUTES.values():
        body = {Stream.NONE: "JSON", Stream.DOWN: "reply is a stream", Stream.UP: "request is bytes"}[route.stream]
        rows.append(
            (
                f"{route.method} {code(route.path)}",
                code(route.verb.value) if route.verb is not None else "open",
                code(route.kind),
                ", ".join(map(code, route.events)) or "none",
                body,
            )
        )
    return table(("Route", "Verb", "Kind", "Events", "Body"), rows)


def open_routes() -> str:
    from teleport.api.routes import ROUTES

    return table(
        ("Route", "Why it is open"),
        ((f"{route.method} {code(route.path)}", cell(route.reason)) for route in ROUTES.values() if route.verb is None),
    )


# --- docs/cli.md


def openapi() -> str:
    from teleport.api.openapi import document

    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def metrics() -> str:
    """Everything that `/metrics` can show."""
    from teleport.daemon.monitoring.catalogue import catalogue

    rows = [
        (code(f"{one.name}{{{one.label}}}" if one.label else one.name), one.kind, cell(one.of), cell(one.meaning))
        for one in catalogue()
    ]
    return table(("Metric", "Kind", "Of", "Is"), rows)


def program(name: str) -> click.Group:
    """The click group behind one of the three commands."""
    import importlib

    for module in (f"teleport.cli.{name}", f"teleport.cli.{name}.root", f"teleport.cli.{name}.command"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        for value in vars(found).values():
            if isinstance(value, click.Group):
                return value
    raise SystemExit(f"docs: no click group is found for {name}")


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that help shows, with its full name, the group itself first. Aliases of one command follow it."""
    yield name, group
    context = click.Context(group, info_name=name)
    lazy = getattr(group, "_lazy", {})
    for sub in group.list_commands(context):
        command = group.get_command(context, sub)
        if command is None or command.hidden or (sub in lazy and not lazy[sub][1]):
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {sub}")
        else:
            yield f"{name} {sub}", command


def aliases(group: click.Group) -> dict[str, str]:
    return dict(getattr(group, "_aliases", {}))


def option_row(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    names = ", ".join(code(one) for one in [*option.opts, *option.secondary_opts])
    if not option.is_flag and not option.count:
        names += f" {code(option.make_metavar(ctx=context))}"
    default = ""
    if not option.is_flag and isinstance(option.default, str | int) and option.default != "":
        default = code(str(option.default))
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if option.multiple:
        notes.append("" if "repeat" in notes[0] else "May be repeated.")
    if option.envvar:
        variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar
        notes.append("Variable: " + ", ".join(map(code, variables)) + ".")
    text = " ".join(note if note.endswith((".", ")")) else note + "." for note in notes if note)
    return names.replace("|", "\\|"), default, cell(text)


def command_part(name: str, command: click.Command, shared: frozenset[str], level: int) -> str:
    """Heading, use, meaning and options of one command; `shared` are flags shown once at the top."""
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    usage = " ".join([name, *command.collect_usage_pieces(context)]).strip()
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [f"{'#' * level} `{name}`", "", f"    {usage}", "", help_text]
    shown = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not shared.intersection(option.opts)
    ]
    text = "\n".join(lines).rstrip() + "\n"
    if shown:
        text += "\n" + table(("Option", "Default", "Meaning"), (option_row(option, context) for option in shown))
    if isinstance(command, click.Group) and (other := aliases(command)):
        text += "\nAliases: " + ", ".join(f"{code(alias)} for {code(real)}" for alias, real in other.items()) + ".\n"
    return text


def command_pages(name: str) -> str:
    root = program(name)
    own = frozenset(flag for option in root.params if isinstance(option, click.Option) for flag in option.opts)
    parts = []
    for full, command in commands(root, name):
        parts.append(command_part(full, command, frozenset() if command is root else own, 2 if command is root else 3))
    return "\n".join(parts)


# --- the pages

PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/configuration.md": {"keys": configuration_keys, "not built": not_built, "default ports": default_ports},
    "docs/metrics.md": {"metrics": metrics},
    "docs/api.md": {"routes": routes, "open routes": open_routes},
    "docs/cli.md": {name: (lambda name=name: command_pages(name)) for name in PROGRAMS},  # type: ignore[misc]
}


WHOLE: dict[str, Callable[[], str]] = {"docs/openapi.json": openapi}


def filled(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """The page with its generated parts as the code has them now. Raises `ValueError` for a part without a place."""
    for name, make in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, also, after = rest.partition(end)
        if not found or not also:
            raise ValueError(f"the page has no part {name!r}")
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def differing() -> dict[Path, str]:
    """The pages that are not as the code has them, with what they should hold."""
    found = {}
    for page, parts in PARTS.items():
        path = ROOT / page
        text = path.read_text()
        wanted = filled(text, parts)
        if wanted != text:
            found[path] = wanted
    for page, make in WHOLE.items():
        path, wanted = ROOT / page, make()
        if not path.exists() or path.read_text() != wanted:
            found[path] = wanted
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page differs")
    check = parser.parse_args().check
    pages = differing()
    for path, text in pages.items():
        if not check:
            path.write_text(text)
        sys.stdout.write(f"docs: {path.relative_to(ROOT)} {'differs from the code' if check else 'written'}\n")
    if check and pages:
        raise SystemExit("docs: run `make docs`")


if __name__ == "__main__":
    main()
