"""Shell completion of the three commands: `teleport completion bash`, and the same of `tctl` and `tsh`.

The script of a shell asks the command itself, `PROGRAM __complete SHELL BREAKS LINE`, for what may stand at the end of
the line. That call is silent whatever happens: no error, no question, an end after `PATIENCE`. Nothing but plain words
is offered: what a host or a user is called must not become a command when somebody presses the tab key.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import click

CALL = "__complete"
SHELLS = ("bash", "zsh", "fish")
PATIENCE = 2.0  # seconds; then nothing is offered
MOST = 500  # values of one listing
FILES = ":file"  # what tells a shell to complete files by itself
Values = Callable[[click.Context], Iterable[str]]
Table = Mapping[str, Values]
_PLAIN = re.compile(r"[A-Za-z0-9@._:/+=,-]{1,256}")
_FILE_NAMES = frozenset({"FILE", "[FILE]", "PEM", "SID|FILE"})

_BASH = """\
_{name}_complete() {{
    local value _help line="${{COMP_LINE:0:COMP_POINT}}"
    COMPREPLY=()
    while IFS=$'\\t' read -r value _help; do
        if [[ $value == :file ]]; then
            compopt -o default -o filenames 2>/dev/null
            return
        fi
        [[ $value == *[@=/] ]] && compopt -o nospace 2>/dev/null
        COMPREPLY+=("$value")
    done < <("$1" __complete bash "$COMP_WORDBREAKS" "$line" 2>/dev/null </dev/null)
}}
complete -o nosort -F _{name}_complete {name} 2>/dev/null || complete -F _{name}_complete {name}
"""
_ZSH = """\
#compdef {name}
_{name}_complete() {{
    local line value typed="${{(j: :)words[1,CURRENT-1]}} $PREFIX"
    local -a values shown open
    for line in "${{(@f)$(${{(Q)words[1]}} __complete zsh '' "$typed" 2>/dev/null </dev/null)}}"; do
        value=${{line%%$'\\t'*}}
        [[ -z $value ]] && continue
        if [[ $value == :file ]]; then
            compset -P '--*='
            _files
            return
        fi
        if [[ $value == *[@=/] ]]; then
            open+=("$value")
        else
            values+=("$value")
            shown+=("${{line/$'\\t'/  -- }}")
        fi
    done
    (( $#open )) && compadd -S '' -a open
    (( $#values )) && compadd -l -d shown -a values
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _{name}_complete "$@"
else
    compdef _{name}_complete {name}
fi
"""
_FISH = """\
function __{name}_complete
    for item in ({name} __complete fish '' (commandline -cp | string collect) 2>/dev/null </dev/null)
        if string match -q ':file*' -- $item
            __fish_complete_path (commandline -ct)
        else
            printf '%s\\n' $item
        end
    end
end
complete --no-files --command {name} --arguments '(__{name}_complete)'
"""


def script(program: str, shell: str) -> str:
    """What the shell reads once, at its start."""
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell].format(name=program)


def command(program: str) -> click.Command:
    """`completion SHELL` of one of the commands."""

    def show(shell: str) -> None:
        from teleport.cli import render

        render.out(script(program, shell))

    return click.Command(
        "completion",
        callback=show,
        params=[click.Argument(["shell"], type=click.Choice(SHELLS))],
        help=f"""Print what makes a shell complete commands, flags and names.

        \b
        bash: eval "$({program} completion bash)" in ~/.bashrc
        zsh:  eval "$({program} completion zsh)" in ~/.zshrc, after compinit
        fish: {program} completion fish > ~/.config/fish/completions/{program}.fish
        """,
        short_help="Print the completion for bash, zsh or fish.",
    )


def candidates(root: click.Group, program: str, line: str, table: Table) -> list[tuple[str, str]]:
    """What may stand at the end of `line`, each with a word of help. May raise anything for a line that is odd."""
    from click.shell_completion import CompletionItem, _resolve_context, _resolve_incomplete

    words = shlex.split(line)
    last = "" if not words or line[-1:].isspace() else words.pop()
    before = words[1:]
    context = _resolve_context(root, {}, program, list(before))
    part, typed = _resolve_incomplete(context, list(before), last)
    head = last[: len(last) - len(typed)]  # --option=
    items: Iterable[CompletionItem[str]]
    if isinstance(part, click.Parameter):
        values = _values_of(context, part, table)
        if values is not None:
            done, comma, _ = typed.rpartition(",") if _is_list(part) else ("", "", "")
            head += done + comma
            typed = typed[len(done + comma) :]
            context.meta["typed"] = typed
            items = [CompletionItem(value) for value in values(context)]
        elif part.make_metavar(context) in _FILE_NAMES or isinstance(part.type, click.Path | click.File):
            return [(FILES, "")]
        else:
            items = part.shell_complete(context, typed)
    else:
        items = part.shell_complete(context, typed)
    found = [
        (head + str(item.value), " ".join((item.help or "").split()))
        for item in items
        if str(item.value).startswith(typed) and _PLAIN.fullmatch(head + str(item.value))
    ]
    return sorted(dict(found).items())[:MOST]


def _values_of(context: click.Context, part: click.Parameter, table: Table) -> Values | None:
    _, _, path = context.command_path.partition(" ")
    return table.get(f"{path} {part.name}", table.get(str(part.name)))


def _is_list(part: click.Parameter) -> bool:
    return "," in (part.metavar or "") or part.name in ("specs", "names")


def answer(root: click.Group, program: str, arguments: list[str], table: Callable[[], Table]) -> NoReturn:
    """Prints the candidates and ends the process, silently and soon."""
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    found: list[tuple[str, str]] = []

    def work() -> None:
        with contextlib.suppress(BaseException):  # a half-typed line is no error
            found.extend(candidates(root, program, arguments[2], table()))

    worker = threading.Thread(target=work, name="completion", daemon=True)
    worker.start()
    worker.join(PATIENCE)
    shell, breaks, line = [*arguments, "", "", ""][:3]
    with contextlib.suppress(OSError, UnicodeError):
        text = "".join(f"{_for_shell(value, shell, breaks, line)}\t{_help(told)}\n" for value, told in list(found))
        os.write(1, text.encode()) if len(text) < 4096 else _write(text.encode())
    os._exit(0)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _for_shell(value: str, shell: str, breaks: str, line: str) -> str:
    """bash replaces what follows the last of its word breaks only, so it gets no more than that; an @ is part of what
    it replaces."""
    if shell != "bash" or value == FILES:
        return value
    typed = "" if line[-1:].isspace() else line.rsplit(None, 1)[-1]
    ends = [typed.rfind(one) + 1 for one in breaks if one in "=:,"]
    return value[max([*ends, typed.rfind("@") if "@" in breaks else 0, 0]) :]


def _help(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:100]
