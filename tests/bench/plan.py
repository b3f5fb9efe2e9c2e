"""How much is measured: by `make bench`, by `make bench-full`, and by the test of the harness."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """The sizes and rounds of one kind of run."""

    name: str
    sync_rounds: Mapping[int, int]
    """Rounds of sync.py by the number of lists."""
    map_types: tuple[str, ...]
    acceptance_lists: tuple[int, ...]
    acceptance_samples: Mapping[str, int]
    """Additions for each number of lists, by map type."""
    migration_lists: int
    migration_seconds: int
    migration_types: tuple[str, ...]
    fetch_bytes: int
    fetch_rounds: int
    losses_lists: int = 100
    losses_changes: int = 20
    losses_watch: float = 12.0
    """Seconds of mail to each list that is added: more than trivial-rewrite(8)'s ten."""
    losses_cron: int = 10
    """Seconds between two runs of the script that stands for cron."""
    throughput_lists: tuple[int, ...] = (100, 1_000, 10_000)
    throughput_rounds: int = 5
    throughput_seconds: float = 5.0
    backlog: int = 20_000
    """Messages in backlog.py."""
    down: float = 120.0
    """Seconds for which Mailman is down in recovery.py."""

    def limited(self, most_lists: int) -> "Plan":
        """Return the plan without the sizes that have more lists."""
        return replace(
            self,
            sync_rounds={n: rounds for n, rounds in self.sync_rounds.items() if n <= most_lists},
            acceptance_lists=tuple(n for n in self.acceptance_lists if n <= most_lists),
            migration_lists=min(self.migration_lists, most_lists),
            losses_lists=min(self.losses_lists, most_lists),
            throughput_lists=tuple(n for n in self.throughput_lists if n <= most_lists),
        )


QUICK = Plan(
    name="quick",
    sync_rounds={10: 1},
    map_types=("lmdb",),
    acceptance_lists=(10,),
    acceptance_samples={"lmdb": 2},
    migration_lists=20,
    migration_seconds=2,
    migration_types=("lmdb",),
    fetch_bytes=100_000,
    fetch_rounds=1,
    losses_lists=3,
    losses_changes=1,
    losses_watch=1.5,
    losses_cron=1,
    throughput_lists=(3,),
    throughput_rounds=1,
    throughput_seconds=0.2,
    backlog=20,
)

BENCH = Plan(
    name="bench",
    sync_rounds={10: 5, 1_000: 5, 10_000: 5, 100_000: 3},
    map_types=("lmdb", "hash"),
    acceptance_lists=(10, 1_000, 10_000, 20_000),
    acceptance_samples={"lmdb": 100},
    migration_lists=20_000,
    migration_seconds=120,
    migration_types=("lmdb",),
    fetch_bytes=68_000_000,
    fetch_rounds=5,
)

FULL = Plan(
    name="full",
    sync_rounds={10: 5, 1_000: 5, 10_000: 5, 100_000: 5},
    map_types=("lmdb", "hash", "btree", "cdb"),
    acceptance_lists=(10, 1_000, 10_000, 20_000),
    acceptance_samples={"lmdb": 200, "hash": 40},
    migration_lists=20_000,
    migration_seconds=120,
    migration_types=("lmdb", "hash"),
    fetch_bytes=68_000_000,
    fetch_rounds=5,
)
