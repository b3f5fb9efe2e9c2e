"""The completions that bash and zsh offer when Tab is pressed."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

COMPLETIONS = Path(__file__).parents[2] / "completions"

ZSH = r"""
zmodload zsh/zpty
zpty shell zsh --no-global-rcs -i
zpty -r shell before '*all is set*'
zpty -w -n shell "$LINE"$'\t'
zpty -r shell answer '*end of offers*'
print -r -- $answer
"""
"""A script that runs zsh in a terminal, types LINE, and presses Tab."""

ZSHRC = r"""
PROMPT= RPROMPT=
fpath=($COMPLETIONS $fpath)
autoload -Uz compinit
compinit -D -u
# Each match is printed on a line of its own, and none is inserted.
compadd() {
  # Calls that only fill an array or query matches are passed on unchanged.
  if [[ -n ${@[(r)-[OAD]]} ]]; then builtin compadd "$@"; return; fi
  local -a offered
  builtin compadd -A offered "$@"
  print -lr -- "offer: "${(Q)^offered}
  (( $#offered ))
}
offer() {
  print
  _main_complete
  print -r -- "end of offers"
}
ready() { print -r -- "all is set" }
zle -C offer complete-word offer
zle -N zle-line-init ready
bindkey '^I' offer
"""


def bash_offers(*words: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return bash's COMPREPLY for words as readline splits them; the last is to be completed."""
    quoted = " ".join(map(shlex.quote, words))
    script = (
        f"source {shlex.quote(str(COMPLETIONS / 'postfix-sync.bash'))}\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        "$(complete -p postfix-sync | sed 's/.* -F \\([^ ]*\\).*/\\1/')\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-u", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
        timeout=120,
    )
    assert not done.stderr
    return [line for line in done.stdout.split("\n") if line]


def zsh_offers(line: str, scratch: Path) -> list[str]:
    """Return what zsh offers for a typed line; `scratch` is an empty directory."""
    (scratch / ".zshrc").write_text(ZSHRC)
    variables = {
        "COMPLETIONS": str(COMPLETIONS),
        "LINE": line,
        "TERM": "dumb",
        "ZDOTDIR": str(scratch),
    }
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line.removeprefix("offer: ") for line in lines if line.startswith("offer: ")]
