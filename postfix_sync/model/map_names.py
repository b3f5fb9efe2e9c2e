"""The maps' names, and the files of their indexes. Pure."""

ROUTES = "postfix_lmtp"
RECIPIENTS = "postfix_recipients"
DOMAINS = "postfix_domains"
ALIASES = "postfix_vmap"

MAP_NAMES = (ROUTES, RECIPIENTS, DOMAINS, ALIASES)
"""The maps in map_directory: the routes first, then the maps that decide which mail is accepted."""

INDEX_SUFFIX = {"lmdb": ".lmdb", "hash": ".db", "btree": ".db", "cdb": ".cdb"}
"""By map type, the suffix that postmap(1) adds to a text's name for its index."""
