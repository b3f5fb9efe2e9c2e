"""Which module may import which: downwards only, and what is pure stays pure."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "postfix_sync"

# From the top down; a module imports only from lines below its own.
LAYERS = [
    {"__main__"},
    {"cli"},
    {
        "commands.doctor",
        "commands.probe",
        "commands.serve",
        "commands.setup",
        "commands.status",
    },
    {"commands.resume", "commands.rollback"},
    {"commands.once"},
    {"commands"},
    {"main_cf.setup"},
    {"daemon", "doctor", "nagios", "show"},
    {"destinations"},
    {"ledger"},
    {
        "checks.container",
        "checks.generations",
        "checks.instance",
        "checks.lookups",
        "checks.mail",
        "checks.monitoring",
        "checks.names",
        "checks.network",
        "checks.sources",
        "checks.upkeep",
    },
    {"checks.files", "checks.main_cf"},
    {"checks"},
    {"monitoring", "recovery"},
    {"monitoring.health", "monitoring.metrics"},
    {"follow", "retire"},
    {"state"},
    {"sync"},
    {"main_cf.address_classes", "apply", "fetch", "retirement_record"},
    {"retirement"},
    {"as_lmtp", "main_cf.lookup", "sources.contained"},
    {
        "config",
        "generations",
        "hosts_files",
        "lmtp",
        "maps",
        "records",
        "sources.ssh",
        "sources.volume",
    },
    {"monitoring.http_server"},
    {"main_cf.edit", "main_cf.smtpd"},
    {
        "containers.engine",
        "postfix",
        "sources.ssh_connection",
        "systemd",
        "wanted",
        "main_cf.wiring",
    },
    {
        "changes",
        "containers.base_hosts_file",
        "containers.container",
        "merge",
        "main_cf.parameter",
        "containers.relocate",
        "main_cf.setup_steps",
        "sources.ssh_errors",
    },
    {"sources"},
    {
        "connections",
        "dial",
        "guard",
        "hosts",
        "main_cf.match_list",
        "plan",
        "queue",
        "system",
        "threads",
    },
    {"visibility"},
    {"log", "tables"},
    {"model", "strict_yaml", "terminal"},
    {"errors", "interfaces", "name_lookup", "stored"},
    {"__init__", "containers", "main_cf"},
]
PURE = {
    "changes",
    "containers.base_hosts_file",
    "containers.container",
    "errors",
    "guard",
    "monitoring.health",
    "hosts",
    "main_cf.match_list",
    "main_cf.setup_steps",
    "merge",
    "model",
    "main_cf.parameter",
    "plan",
    "queue",
    "retirement",
    "containers.relocate",
    "show",
    "sources.ssh_errors",
    "stored",
    "tables",
    "visibility",
    "wanted",
    "main_cf.wiring",
}
IMPURE = {"asyncio", "subprocess", "socket"}
LIBRARIES = {
    "aiosmtplib": "lmtp",
    "asyncssh": "sources.ssh_connection",
    "prometheus_client": "monitoring.metrics",
    "pydantic": "config",
    "watchfiles": "sources.volume",
    "yaml": "strict_yaml",
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """The dotted names that a module imports, those for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int:
    return next(i for i, modules in enumerate(LAYERS) if module in modules)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    names = {name.removeprefix("postfix_sync.") for name in imported(MODULES[module])}
    ours = names & set(MODULES) - {module}
    type_checking_only = {("main_cf.wiring", "postfix"), ("main_cf.parameter", "postfix")}
    for other in ours:
        assert layer(module) < layer(other) or (module, other) in type_checking_only


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_do_no_input_or_output(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported(MODULES[module])}
    assert not roots & (IMPURE | LIBRARIES.keys())


def test_each_module_stands_in_the_table_of_the_architecture() -> None:
    text = (PACKAGE.parent / "docs/architecture.md").read_text()
    paths = [path.relative_to(PACKAGE) for path in MODULES.values() if path.stem[0] != "_"]
    assert "`commands/`" in text
    assert [p for p in paths if p.parent.name != "commands" and f"`{p}`" not in text] == []


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_each_library_is_imported_in_one_module(library: str) -> None:
    users = {
        module
        for module, path in MODULES.items()
        if library in {name.partition(".")[0] for name in imported(path)}
    }
    assert users == {LIBRARIES[library]}
