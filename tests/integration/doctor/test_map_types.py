"""doctor's other checks, and the command, if the type of the maps can't be chosen."""

import os
import shutil
from collections.abc import Callable

import pytest

from tests.parts.doctor import examine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

ANTS = "ants@lists.example.net"
STOPPED = {"running": "warning"}


@pytest.fixture
def site(make_site: Callable[..., Site], idle_postfix: PostfixInstance) -> Site:
    """A site with one list, whose maps are built and named as btree, beside a stopped Postfix."""
    made = make_site("btree")
    idle_postfix.postconf(**mailman_parameters(made.maps, "btree"))
    made.files.write(ANTS)
    made.once()
    assert examine(made).troubles == STOPPED
    return made


def test_configured_type_is_changed_to_the_type_that_main_cf_names(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    """As hash, an index would have the name of the present one."""
    before = set(examine(site).checks)
    site.configure(postfix={"map_type": "hash"})
    # The other checks still find other problems, with their fixes.
    idle_postfix.postconf(recipient_delimiter="")
    found = examine(site)
    assert found.troubles == {**STOPPED, "map_type": "failure", "recipient_delimiter": "failure"}
    assert before - set(found.checks) == {"in_step"}
    assert "as hash their indexes would have the same names" in found["map_type"]["seen"]
    assert found.fix("recipient_delimiter").fix("map_type").troubles == STOPPED
    assert "map_type: btree" in site.config.read_text()
    site.once()


@pytest.mark.parametrize("configured", ["auto", "btree"])
def test_maps_that_main_cf_names_as_two_types_get_one_type(
    site: Site, idle_postfix: PostfixInstance, configured: str
) -> None:
    idle_postfix.postconf(
        virtual_alias_maps=f"hash:/x, hash:{site.maps}/postfix_vmap",
        relay_recipient_maps=f"hash:{site.maps}/postfix_recipients",
    )
    site.configure(postfix={"map_type": configured})
    found = examine(site)
    assert found.status("map_type") == "failure"
    assert {"mynetworks", "source:lists", "main_cf_end"} <= set(found.checks)
    found = found.fix("map_type")
    assert found.status("map_type") == "ok"
    assert found.status("in_step") == "ok"
    value = idle_postfix.command("postconf", "-h", "virtual_alias_maps").strip()
    assert value == f"hash:/x, btree:{site.maps}/postfix_vmap"
    site.once()


def test_checks_that_need_no_map_type_run_if_none_can_be_built(
    site: Site, idle_postfix: PostfixInstance
) -> None:
    """The library of lmdb is installed, but not loaded; nothing says to change main.cf."""
    site.configure(postfix={"map_type": "lmdb"})
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"), soft_bounce="yes")
    site.once()
    meta = site.directory / "meta"
    shutil.copytree("/etc/postfix", meta)
    os.chown(meta / "dynamicmaps.cf", 65534, 65534)
    idle_postfix.postconf(meta_directory=str(meta), mynetworks="0.0.0.0/0")
    found = examine(site)
    assert found.troubles["map_type"] == "failure"
    assert found.troubles["mynetworks"] == "failure"
    assert found.status("source:lists") == "ok"
    assert not {"transport_maps", "in_step", "routes"} & set(found.checks)
    assert found.fix("map_type").status("map_type") == "ok"
