"""Microsoft's own parser of the Kusto Query Language on the queries in infra/queries: `python3 run.py lint` runs this.

A log alert is deployed without validation, as a workspace has a table only from its first row on: a query that cannot
be compiled would be an alert that never fires.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dev.azurite import node

ROOT: Final = Path(__file__).parents[1]
QUERIES: Final = ROOT / "infra" / "queries"
_SCRIPT: Final = ROOT / "dev" / "node" / "check_kql.js"

# What every App* table has.
_COMMON: Final = {
    "TimeGenerated": "datetime",
    "OperationId": "string",
    "OperationName": "string",
    "Properties": "dynamic",
    "SDKVersion": "string",
    "AppRoleInstance": "string",
    "_BilledSize": "real",
}
TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "AppAvailabilityResults": {**_COMMON, "Name": "string", "Success": "bool", "ItemCount": "int"},
    "AppDependencies": {**_COMMON, "Name": "string", "DurationMs": "real", "Success": "bool", "ItemCount": "int"},
    "AppExceptions": {**_COMMON, "ExceptionType": "string", "OuterMessage": "string", "ItemCount": "int"},
    "AppMetrics": {**_COMMON, "Name": "string", "Sum": "real", "Min": "real", "Max": "real", "ItemCount": "int"},
    "AppPerformanceCounters": {**_COMMON, "Name": "string", "Value": "real"},
    "AppRequests": {
        **_COMMON,
        "Name": "string",
        "Url": "string",
        "Success": "bool",
        "ResultCode": "string",
        "DurationMs": "real",
        "ItemCount": "int",
    },
    "AppTraces": {**_COMMON, "Message": "string", "SeverityLevel": "int", "ItemCount": "int"},
    "AZKVAuditLogs": {"TimeGenerated": "datetime", "OperationName": "string", "ResultType": "string"},
    "Usage": {"TimeGenerated": "datetime", "DataType": "string", "Quantity": "real", "IsBillable": "bool"},
}
"""The columns that queries may name, with their types: "Azure Monitor Logs reference", a page for each table."""


class Diagnostic(NamedTuple):
    """What the parser minds, and where, counted from 1."""

    query: str
    line: int
    column: int
    message: str


class ParserError(Exception):
    """The parser is not installed, or did not run."""


def load(folder: Path = QUERIES) -> dict[str, str]:
    """The queries by file name, with a size where the workbook puts that of its time axis."""
    return {
        path.name: path.read_text(encoding="utf-8").replace("{range:grain}", "5m")
        for path in sorted(folder.glob("*.kql"))
    }


def check(queries: Mapping[str, str]) -> list[Diagnostic]:
    """What Microsoft's parser minds in queries, each a text by its name, over `TABLES`.

    Raises:
        ParserError: it is not installed, or did not run.
    """
    done = subprocess.run(
        [node(), str(_SCRIPT)],
        input=json.dumps({"tables": TABLES, "queries": queries}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise ParserError(f"the parser did not run; python3 run.py lint installs it: {done.stderr.strip()[-500:]}")
    return [Diagnostic(**found) for found in json.loads(done.stdout)]


def main() -> int:
    """Print what is wrong; 1 where anything is."""
    queries = load()
    found = check(queries)
    for one in found:
        print(f"infra/queries/{one.query}:{one.line}:{one.column}: {one.message}")
    if not found:
        print(f"{len(queries)} queries: no issues found by Microsoft's parser")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
