"""The paths of a message from the services that take it: which are followed, and through what."""

from postfix_sync.explain.paths import PARAMETERS, other_paths, path_from
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.smtp_listeners import Listener

MAIN_CF = {**dict.fromkeys(PARAMETERS, ""), "cleanup_service_name": "cleanup"}
UNMAPPED = {"receive_override_options": "no_address_mappings"}
UNFILTERED = {"content_filter": ""}


def inet(name: str, **overrides: str) -> Service:
    return Service(
        name, "inet", unprivileged=False, chrooted=False, command="smtpd", overrides=overrides
    )


def unix(name: str, command: str, **overrides: str) -> Service:
    return Service(
        name, "unix", unprivileged=False, chrooted=False, command=command, overrides=overrides
    )


CLEANUP, PICKUP = unix("cleanup", "cleanup"), unix("pickup", "pickup")


def listening(*services: Service) -> list[Listener]:
    ports = {"smtp": 25, "submission": 587}
    return [
        Listener("127.0.0.1", ports.get(one.name) or int(one.name.rpartition(":")[2]), one)
        for one in services
    ]


def test_submission_and_pickup_are_followed_by_their_own_cleanup() -> None:
    public = inet("smtp")
    submission = inet("submission", cleanup_service_name="sub")
    own = unix("sub", "cleanup", canonical_maps="inline:{a=b}")
    pickup = unix("pickup", "pickup", **UNMAPPED)
    services = [public, submission, pickup, CLEANUP, own]
    found = other_paths(listening(public, submission), services, MAIN_CF)
    assert {*found} == {"submission", "pickup"}
    assert found["submission"].passages[0].overrides == own.overrides
    assert found["submission"].passages[0].maps
    assert not found["pickup"].passages[0].maps


def test_listener_where_a_filter_returns_mail_is_not_followed() -> None:
    public, again = inet("smtp"), inet("127.0.0.1:10025", **UNFILTERED, **UNMAPPED)
    submission = inet("submission", **UNFILTERED)
    services = [public, submission, again, CLEANUP, PICKUP]
    main_cf = {**MAIN_CF, "content_filter": "scan:[127.0.0.1]:10024"}
    found = other_paths(listening(public, submission, again), services, main_cf)
    assert {*found} == {"submission", "pickup"}


def test_listener_without_a_filter_is_followed_if_there_is_no_filter_at_all() -> None:
    public, other = inet("smtp"), inet("127.0.0.1:10025", **UNMAPPED)
    found = other_paths(listening(public, other), [public, other, CLEANUP], MAIN_CF)
    assert {*found} == {"127.0.0.1:10025"}


def test_mail_from_a_filter_comes_back_at_the_listener_that_is_not_for_users() -> None:
    public, again = inet("smtp"), inet("127.0.0.1:10025", **UNFILTERED, **UNMAPPED)
    submission = inet("submission", **UNFILTERED)
    services = [public, submission, again, CLEANUP]
    main_cf = {**MAIN_CF, "content_filter": "scan:[127.0.0.1]:10024"}
    found = path_from(listening(public)[0], services, main_cf)
    assert [passage.service for passage in found.passages] == ["smtp", "127.0.0.1:10025"]


def test_proxy_filter_of_main_cf_does_not_concern_pickup() -> None:
    public, again = inet("smtp"), inet("127.0.0.1:10025", smtpd_proxy_filter="")
    main_cf = {**MAIN_CF, "smtpd_proxy_filter": "127.0.0.1:10024"}
    found = other_paths(listening(public, again), [public, again, CLEANUP, PICKUP], main_cf)
    assert [passage.service for passage in found["pickup"].passages] == ["pickup"]
    assert found["pickup"].filter == ""


def test_path_is_uncertain_if_filters_return_mail_at_services_that_map_differently() -> None:
    public, submission = (
        inet("smtp", content_filter="scan:"),
        inet("submission", content_filter="sign:"),
    )
    scanned, signed = inet("127.0.0.1:10025"), inet("127.0.0.1:10028", **UNMAPPED)
    services = [public, submission, scanned, signed, CLEANUP]
    assert not other_paths(listening(public, submission), services, MAIN_CF)["submission"].certain
    services.remove(signed)
    assert other_paths(listening(public, submission), services, MAIN_CF)["submission"].certain
