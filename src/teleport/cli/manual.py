"""Manual pages, made from the same declarations as `--help`: `PROGRAM man` prints a program's page as man(7) reads it.

    tsh man | man -l -

There is no copy to keep in step: a page says what the program says of itself at that moment. Names, flags, defaults
and variables come from the command tree, the text around them from `_PAGES`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from teleport import __version__

HELP_NAMES = ["-h", "--help"]


@dataclass(frozen=True, slots=True)
class _Page:
    section: int
    files: tuple[tuple[str, str], ...]
    see: tuple[tuple[str, int], ...]


_PAGES = {
    "teleport": _Page(
        8,
        (("/etc/teleport.yaml", "Configuration."), ("/var/lib/teleport", "State, unless data_dir says otherwise.")),
        (("tctl", 8), ("tsh", 1)),
    ),
    "tctl": _Page(
        8,
        (("/etc/teleport.yaml", "Configuration of the daemon on this host."), ("~/.tsh", "Logins, by tsh.")),
        (("teleport", 8), ("tsh", 1)),
    ),
    "tsh": _Page(
        1,
        (
            ("~/.tsh", "Profiles, keys and certificates; TELEPORT_HOME names another folder."),
            ("~/.ssh/config", "Takes in ~/.tsh/ssh_config after tsh config --install."),
        ),
        (("ssh", 1), ("ssh_config", 5), ("tctl", 8)),
    ),
}
_STATUS = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong use"),
    ("3", "not found"),
    ("4", "exists already"),
    ("5", "denied"),
    ("6", "not reachable"),
    ("130", "interrupted"),
)


def command(program: str) -> click.Command:
    """`man` of one of the commands."""

    @click.pass_context
    def show(context: click.Context) -> None:
        from teleport.cli import render

        root = context.find_root().command
        assert isinstance(root, click.Group)
        render.out(page(root, program))

    return click.Command(
        "man",
        callback=show,
        help=f"Print the manual page: {program} man | man -l -",
        short_help="Print the manual page.",
    )


def page(root: click.Group, program: str) -> str:
    """The page of a program, as roff. It bears no date, so that equal programs give equal pages."""
    about = _PAGES[program]
    lines = [
        f'.TH "{program.upper()}" "{about.section}" "" "Teleport {_text(__version__)}" "Teleport"',
        ".SH NAME",
        f"{program} \\- {_text(_first_sentence(root))}",
        ".SH SYNOPSIS",
        f".B {program}",
        "[OPTIONS] COMMAND [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_paragraphs(root),
    ]
    if options := list(_options(root, click.Context(root, info_name=program, help_option_names=HELP_NAMES))):
        lines += [".SH OPTIONS", *options]
    lines.append(".SH COMMANDS")
    for context in visible(root, program):
        lines += _command(context)
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUS:
        lines += [".TP", f".B {status}", meaning]
    lines += [".SH FILES"]
    for path, meaning in about.files:
        lines += [".TP", f".I {_text(path)}", _text(meaning)]
    lines += [
        ".SH SEE ALSO",
        ",\n".join(f".BR {name} ({section})" for name, section in about.see).replace(",\n", " ,\n"),
    ]
    return "\n".join(lines) + "\n"


def visible(group: click.Group, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """A context for each command that help shows, groups before what is in them."""
    context = click.Context(group, info_name=name, parent=parent, help_option_names=HELP_NAMES)
    hidden = getattr(group, "hidden_names", frozenset[str]())
    for sub in group.list_commands(context):
        found = group.get_command(context, sub)
        if found is None or found.hidden or sub in hidden:
            continue
        if isinstance(found, click.Group):
            yield click.Context(found, info_name=sub, parent=context, help_option_names=HELP_NAMES)
            yield from visible(found, sub, context)
        else:
            yield click.Context(found, info_name=sub, parent=context, help_option_names=HELP_NAMES)


def _command(context: click.Context) -> list[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.SS "{_text(context.command_path)} {_text(usage)}"', *_paragraphs(command)]
    root = context.find_root().command
    shared = {name for option in root.params if isinstance(option, click.Option) for name in option.opts}
    return [*lines, *_options(command, context, frozenset(shared))]


def _options(command: click.Command, context: click.Context, shared: frozenset[str] = frozenset()) -> Iterator[str]:
    """Those that help shows, without the `shared` ones, which stand at the top."""
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden or shared.intersection(option.opts):
            continue
        record = option.get_help_record(context)
        if record is None:
            continue
        variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
        told = [record[1] and record[1].rstrip(".") + ".", f"Variable: {', '.join(variables)}." if variables else ""]
        yield ".TP"
        yield f".B {_text(record[0])}"
        yield _text(" ".join(text for text in told if text) or "See above.")


def _paragraphs(command: click.Command) -> list[str]:
    lines: list[str] = []
    for paragraph in inspect.cleandoc(command.help or command.short_help or "").split("\n\n"):
        as_it_is = paragraph.startswith("\b")
        text = paragraph.removeprefix("\b").strip("\n")
        if as_it_is:
            lines += [".PP", ".nf", *(_text(line) for line in text.split("\n")), ".fi"]
        else:
            lines += [".PP", _text(" ".join(text.split()))] if lines else [_text(" ".join(text.split()))]
    return [line for line in lines if line]


def _first_sentence(command: click.Command) -> str:
    text = " ".join(inspect.cleandoc(command.help or "").split())
    return re.split(r"(?<=[a-z])[.:] ", text, maxsplit=1)[0].rstrip(".")


def _text(text: str) -> str:
    """Text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("'", "\\(aq")
    escaped = escaped.replace("^", "\\(ha").replace("~", "\\(ti").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
