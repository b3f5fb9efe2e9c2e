"""Whether the tables of a source only add entries to its last good lists. Pure.

Mailman renames its files one after the other, so a set of files may be half-updated although they
agree with each other: a removed list may be created again in the next file, and a moved one may be
on its way. Tables that keep every entry as it was lose no mail, whatever follows.
"""

from postfix_sync.model.source import MailmanTables


def only_adds(old: MailmanTables, new: MailmanTables) -> bool:
    """Return whether `new` has all entries of `old`, and each list the aliases that it must have.

    The tables are compared as they are held: a list that is held in another way than before, which
    is rare, counts as a change.
    """
    return (
        old.routes.lists.items() <= new.routes.lists.items()
        and old.routes.others.items() <= new.routes.others.items()
        and old.aliases.lists.items() <= new.aliases.lists.items()
        and old.aliases.others.items() <= new.aliases.others.items()
        and old.domains.items() <= new.domains.items()
        and _has_all_aliases(new)
    )


def _has_all_aliases(tables: MailmanTables) -> bool:
    """Return whether an alias leads to each list in an alias_domain.

    Mailman renames postfix_vmap last, so the lists of such a domain are there before their aliases.
    """
    ends = tuple(f"@{domain}" for domain, host in tables.domains.items() if host != domain)
    if not ends:
        return True
    lists = {name for name in tables.routes.names() if name.endswith(ends)}
    return lists <= tables.aliases.targets().names()
