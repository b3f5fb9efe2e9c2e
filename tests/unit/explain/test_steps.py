"""The verdict of an explanation: which of its steps decides."""

import pytest

from postfix_sync.explain.steps import Explanation, Step, Verdict

FINE = Step("smtpd", "RCPT", "250")
THERE = Step("canonical", "a at submission", "b", outcome=Verdict.DIVERTED, service="submission")
REFUSED = Step("transport", "a", "error:", outcome=Verdict.REFUSED)
UNKNOWN = Step("filter", "a", "scan:", outcome=Verdict.UNKNOWN)


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ((FINE,), Verdict.DELIVERED),
        ((FINE, THERE), Verdict.DIVERTED),
        ((FINE, THERE, REFUSED), Verdict.REFUSED),
        ((FINE, UNKNOWN, THERE), Verdict.UNKNOWN),
    ],
)
def test_step_of_another_service_decides_only_if_mail_from_other_hosts_is_delivered(
    steps: tuple[Step, ...], verdict: Verdict
) -> None:
    assert Explanation("a", steps).verdict is verdict


def test_known_step_of_another_service_is_an_obstacle_beside_an_unknown_one() -> None:
    assert Explanation("a", (FINE, UNKNOWN, THERE)).obstacle is THERE
