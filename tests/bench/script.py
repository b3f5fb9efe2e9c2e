"""The shell script that people use: it copies Mailman's files, compiles them, reloads Postfix."""

from pathlib import Path

SCRIPT = """\
#!/bin/sh
# Of the form that docs/from-cron.md replaces.
cd {data} || exit
for map in postfix_lmtp postfix_domains postfix_vmap; do
    [ -e $map ] || continue
    cp $map {maps}/$map
    /usr/sbin/postmap -c {etc} {map_type}:{maps}/$map || exit
done
exec /usr/sbin/postfix -c {etc} reload
"""


def write_script(data: Path, maps: Path, map_type: str, config_directory: Path) -> Path:
    """Write the script into the directory of the maps; return its path."""
    script = maps / "script"
    text = SCRIPT.format(data=data, maps=maps, map_type=map_type, etc=config_directory)
    script.write_text(text)
    return script
