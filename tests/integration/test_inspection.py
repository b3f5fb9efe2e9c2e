"""Postfix is inspected again when anything changes on which the answer depends, and only then."""

import asyncio
import os
from collections.abc import Callable

import pytest

from postfix_sync.errors import ConfigError
from postfix_sync.postfix.inspection import Inspector
from tests.parts.postfix_instance import PostfixInstance

pytestmark = pytest.mark.usefixtures("root")

SERVICE = "lmtp unix - - n - - lmtp\n"

CHANGES: dict[str, Callable[[PostfixInstance], object]] = {
    "main.cf": lambda postfix: postfix.postconf(recipient_delimiter="="),
    "master.cf": lambda postfix: (postfix.config_directory / "master.cf").write_text(SERVICE),
    "a map type": lambda postfix: (postfix.config_directory / "dynamicmaps.cf").write_text("# x\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_configuration_is_inspected_again(
    idle_postfix: PostfixInstance, change: str
) -> None:
    async def compared() -> None:
        inspector = Inspector(idle_postfix.config_directory)
        first = await inspector.inspect()
        assert await inspector.inspect() is first
        CHANGES[change](idle_postfix)
        second = await inspector.inspect()
        assert second is not first
        assert second == await Inspector(idle_postfix.config_directory).inspect()

    asyncio.run(compared())


def test_change_that_keeps_size_and_time_is_inspected(idle_postfix: PostfixInstance) -> None:
    async def changed() -> None:
        idle_postfix.postconf(recipient_delimiter="+")
        main_cf = idle_postfix.config_directory / "main.cf"
        inspector = Inspector(idle_postfix.config_directory)
        assert (await inspector.inspect()).parameters["recipient_delimiter"] == "+"
        before = main_cf.stat()
        text = main_cf.read_text()
        main_cf.write_text(text.replace("recipient_delimiter = +", "recipient_delimiter = -"))
        os.utime(main_cf, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert main_cf.stat().st_size == before.st_size
        assert (await inspector.inspect()).parameters["recipient_delimiter"] == "-"

    asyncio.run(changed())


def test_configuration_that_is_gone_is_an_error_until_it_is_back(
    idle_postfix: PostfixInstance,
) -> None:
    async def removed() -> None:
        main_cf = idle_postfix.config_directory / "main.cf"
        inspector = Inspector(idle_postfix.config_directory)
        first = await inspector.inspect()
        main_cf.rename(main_cf.with_name("aside"))
        with pytest.raises(ConfigError):
            await inspector.inspect()
        with pytest.raises(ConfigError):
            await inspector.inspect()
        main_cf.with_name("aside").rename(main_cf)
        assert await inspector.inspect() == first

    asyncio.run(removed())
