"""debian/ says the same as the rest of the project."""

import re
import tomllib
from pathlib import Path

import postfix_sync

CHECKOUT = Path(__file__).parents[2]


def test_the_version_is_the_program_s() -> None:
    """A pre-release, 0.2.0rc1, is 0.2.0~rc1 to Debian: it comes before 0.2.0."""
    found = re.match(r"postfix-sync \((.+)\) ", (CHECKOUT / "debian/changelog").read_text())
    assert found
    assert found[1] == re.sub(r"(?=(a|b|rc|\.dev)\d)", "~", postfix_sync.__version__)


def test_every_library_is_a_package_of_debian_s() -> None:
    """With its lower bound: dh_python3 makes dependencies of these lines."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    libraries = {one.partition(">")[0].replace("-", "_") for one in project["dependencies"]}
    lines = (CHECKOUT / "debian/py3dist-overrides").read_text().splitlines()
    assert {line.split()[0] for line in lines} == libraries
    assert all(line.endswith("; PEP386") for line in lines)


def test_make_deb_installs_what_the_build_needs() -> None:
    """It does not have dpkg-buildpackage look, which would ask for a compiler."""
    control = (CHECKOUT / "debian/control").read_text()
    found = re.search(r"^Build-Depends: (.+(?:\n .+)*)", control, re.MULTILINE)
    assert found
    needed = {one.split()[0].replace("-compat", "") for one in found[1].split(",")}
    makefile = (CHECKOUT / "Makefile").read_text()
    installed = re.search(r"^DEB_PACKAGES := (.+)", makefile, re.MULTILINE)
    assert installed
    assert set(installed[1].split()) == needed | {"dpkg-dev"}
