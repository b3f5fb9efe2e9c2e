"""All shapes of the corpus."""

from tests.corpus import (
    shapes_gateways,
    shapes_local,
    shapes_plain,
    shapes_rewriting,
    shapes_smtpd,
    shapes_virtual,
)

SHAPES = (
    *shapes_plain.SHAPES,
    *shapes_gateways.SHAPES,
    *shapes_virtual.SHAPES,
    *shapes_rewriting.SHAPES,
    *shapes_smtpd.SHAPES,
    *shapes_local.SHAPES,
)
