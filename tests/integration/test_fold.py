"""The keys are folded as the real postmap folds them, with both values of smtputf8_enable."""

import unicodedata
from collections.abc import Callable

import pytest

from postfix_sync.mailman.names import check_address
from postfix_sync.postfix.folding import fold_ascii, fold_unicode
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site


def addresses() -> list[str]:
    """Return one address for every letter of Unicode that folding could change."""
    known = unicodedata.ucd_3_2_0  # old enough for any two releases to agree on it
    letters = [chr(code) for code in range(0x20000) if known.category(chr(code))[0] == "L"]
    changing = [letter for letter in letters if letter != letter.casefold()]
    assert len(changing) > 800
    return [check_address(f"x{letter}y@Lists.example.net") for letter in changing]


@pytest.mark.parametrize(("enabled", "fold"), [("yes", fold_unicode), ("no", fold_ascii)])
def test_keys_are_folded_as_postmap_folds_them(
    make_site: Callable[..., Site],
    idle_postfix: PostfixInstance,
    enabled: str,
    fold: Callable[[str], str],
) -> None:
    site = make_site("hash")
    idle_postfix.postconf(smtputf8_enable=enabled)
    keys = addresses()
    text = site.directory / "folded"
    text.write_text("".join(f"{key}\t{number}\n" for number, key in enumerate(keys)))
    assert site.postmap(f"hash:{text}").returncode == 0
    listed = site.postmap("-s", f"hash:{text}").stdout.splitlines()
    stored = {value: key for key, _, value in (line.partition("\t") for line in listed)}
    first: dict[str, str] = {}  # of several keys that fold to the same, postmap keeps the first
    for number, key in enumerate(keys):
        first.setdefault(fold(key), str(number))
    assert stored == {number: key for key, number in first.items()}
