"""The pages that are followed step by step: how they are read, and that their links lead somewhere.

tests/booted/test_pages.py follows them.
"""

import re
from pathlib import Path

import pytest

from tests.parts import page
from tests.parts.page import DOCS, Step, steps

README = DOCS.parent / "README.md"
FOLLOWED = DOCS.parent / "tests/booted/test_pages.py"

_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = (title.lower() for title in _HEADING.findall(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", [README, *sorted(DOCS.glob("*.md"))], ids=lambda one: one.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Within the repository: to a file that is there, and a heading that it has."""
    for link in _LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


MANUAL = DOCS / "man/postfix-sync.8"


@pytest.mark.parametrize(
    "document", [README, MANUAL, *sorted(DOCS.glob("*.md"))], ids=lambda one: one.name
)
def test_commands_for_cron_and_containers_work_where_they_are_printed(document: Path) -> None:
    """cron looks in /usr/bin and /bin only, and Mailman refuses to run as root."""
    text = document.read_text().replace("\\-", "-")
    for line in re.findall(r"^ *([*\d/]+ \* .*postfix-sync --once.*)$", text, re.MULTILINE):
        assert re.fullmatch(
            r"\* \* \* \* \* root (/usr/bin/postfix-sync|\$\(command -v postfix-sync\)) --once",
            line,
        )
    for options in re.findall(r"docker exec (.*?)mailman (?:aliases|create|remove)\b", text):
        assert options.startswith("-u mailman "), options


def test_pages_are_found_and_followed() -> None:
    """README leads to each page for what people have, and some test follows it."""
    pages = [document.name for document in DOCS.glob("from-*.md")]
    assert pages
    assert [page for page in pages if f"(docs/{page})" not in README.read_text()] == []
    assert [page for page in pages if f'"{page}"' not in FOLLOWED.read_text()] == []


def test_a_page_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, where they are made, and what they print."""
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "# Page\n\n## One\n\n```text\nwhat people have\n```\n\n```sh\nfirst\n\nmore\n```\n\n"
        "```text\na\n\nb\n```\n\n## Two\n\n```text\nno more of it\n```\n\n```sh mm\nthere\n```\n"
    )
    assert steps("page.md") == [
        Step("docs/page.md:9", "first\n\nmore\n", printed=("a", "b")),
        Step("docs/page.md:27", "there\n", "mm"),
    ]


@pytest.mark.parametrize(
    ("output", "missing"),
    [
        ("x\nants  is\n up since 1 s\n50 ok\n", ""),
        ("ants is up, 49 ok", ""),
        ("50 ok\nants is up", "49 ok"),
        ("ants is down\n49 ok", "ants is up"),
    ],
)
def test_what_a_step_prints(output: str, missing: str) -> None:
    """The lines in their order; blanks, line ends and numbers are free."""
    assert Step("", "", printed=("ants is up", "49 ok")).missing(output) == missing


def test_what_stands_for_anything() -> None:
    """Dots do, within a line of the page."""
    assert not Step("", "", printed=("a … d",)).missing("a b\nc d")
    assert Step("", "", printed=("a … e",)).missing("a b\nc d")
