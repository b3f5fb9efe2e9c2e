"""What a shell offers where somebody presses Tab: the completions, run by bash and by zsh."""

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
"""A zsh in a terminal of its own; LINE is typed there, and Tab pressed."""

ZSHRC = r"""
PROMPT= RPROMPT=
fpath=($COMPLETIONS $fpath)
autoload -Uz compinit
compinit -D -u
# Each match is told on a line of its own, and nothing is inserted.
compadd() {
  # Called to fill an array, or only to ask: that is the completion's own business.
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
    """COMPREPLY of bash, for words as readline breaks them; the last one is being typed."""
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
    """What zsh offers after a line that was typed; `scratch` is an empty directory."""
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
    found = [one.strip() for one in done.stdout.splitlines()]
    return [one.removeprefix("offer: ") for one in found if one.startswith("offer: ")]
