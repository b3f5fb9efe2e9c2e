"""explain: its verdict is what happens to a message that is really sent."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parts.explaining import ANTS, BEES, ELSEWHERE, explained, happens
from tests.parts.mail_host import Host
from tests.parts.mailman_files import nine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@dataclass(frozen=True)
class Setting:
    """A combination of settings, each of which may divert, refuse or keep a list's mail."""

    access: str
    transport: str
    alias: str
    canonical: str
    mapping: bool
    mailman: str
    address: str

    def parameters(self, host: Host) -> dict[str, str]:
        """Return main.cf's parameters."""
        route, alias = (f"lmdb:{host.site.maps}/postfix_{name}" for name in ("lmtp", "vmap"))
        return {
            "smtpd_restriction_classes": "redirecting, allowing",
            "allowing": f"check_recipient_access inline:{{{ANTS}=OK}}",
            "redirecting": f"check_recipient_access inline:{{{{{ANTS}=REDIRECT {ELSEWHERE}}}}}",
            "smtpd_recipient_restrictions": self.access,
            "transport_maps": f"{self.transport} {route}".strip(),
            "virtual_alias_maps": f"{alias} {self.alias}".strip(),
            "canonical_maps": self.canonical,
            "default_transport": "discard:",
            "receive_override_options": "" if self.mapping else "no_address_mappings",
        }


REDIRECTED = f"check_recipient_access inline:{{{{{ANTS}=REDIRECT {ELSEWHERE}}}}}"

SETTINGS = st.builds(
    Setting,
    access=st.sampled_from(
        [
            "",
            "",
            REDIRECTED,
            "redirecting",
            f"permit_auth_destination, {REDIRECTED}",
            f"permit, {REDIRECTED}",
            f"allowing, {REDIRECTED}",
            f"check_recipient_access inline:{{{ANTS}=redirecting}}",
            f"check_recipient_access inline:{{{ANTS}=OK}}, {REDIRECTED}",
            f"check_recipient_access inline:{{example.net=DUNNO}}, {REDIRECTED}",
        ]
    ),
    transport=st.sampled_from(
        [
            "",
            f"inline:{{{ANTS}=discard:}}",
            "inline:{example.net=discard:}",
            "regexp:{{/./ discard:}}",
        ]
    ),
    alias=st.sampled_from(
        [
            "",
            f"inline:{{{ANTS}={ELSEWHERE}}}",
            f"inline:{{{ANTS}={ANTS}}}",
            f"inline:{{@example.net={ELSEWHERE}}}",
            f"inline:{{ants-owner@example.net={BEES}}}",
            f"inline:{{{ANTS}={BEES}, {ANTS}}}",
        ]
    ),
    canonical=st.sampled_from(
        ["", f"inline:{{{ANTS}={BEES}}}", "inline:{@example.net=@elsewhere.example}"]
    ),
    mapping=st.booleans(),
    mailman=st.sampled_from(["up", "up", "down", "refuses"]),
    address=st.sampled_from(
        [ANTS, "ants-owner@example.net", "ants-confirm+0a1b@example.net", BEES]
    ),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(setting=SETTINGS)
def test_verdict_is_what_happens_to_a_message(host: Host, setting: Setting) -> None:
    host.postfix.postconf(**setting.parameters(host))
    sink = host.sink
    sink.accept([] if setting.mailman == "refuses" else [*nine(ANTS), *nine(BEES)])
    if setting.mailman == "down":
        sink.stop()
    try:
        host.postfix.reload()
        verdict = explained(host, setting.address).verdict
        assert verdict == happens(host, setting.address)
    finally:
        if setting.mailman == "down":
            sink.start()
        host.postfix.command("postsuper", "-d", "ALL")
