"""Function groups on another Functions host than the local one: a host for each group, all at one storage."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dev.host.process import FUNCTIONS_HOST, HostProcess, has_groups

_STARTED_AT_ONCE: Final = 3
_TRIGGERS: Final = """
import json, function_app
print(json.dumps({each.get_function_name(): each.get_trigger().type for each in function_app.app.get_functions()}))
"""


class HostFleet(HostProcess):
    """The host of an app's HTTP functions and, started and ended with it, one for each other function.

    Such a host has one process for all functions, so each of these has the others' functions taken out.
    """

    def __init__(self, app: Path, env: Mapping[str, str], *, port: int = 0, lease_seconds: int = 600) -> None:
        """Prepare; nothing is started yet. See `HostProcess`.

        Raises:
            subprocess.CalledProcessError: the app cannot be imported.
        """
        triggers = _triggers(app, env)
        alone = sorted(name for name, trigger in triggers.items() if trigger != "httpTrigger")
        super().__init__(app, {**env, **_without(alone)}, port=port, lease_seconds=lease_seconds)
        self._others = {
            name: HostProcess(app, {**env, **_without(triggers.keys() - {name})}, lease_seconds=lease_seconds)
            for name in alone
        }

    @property
    def logs(self) -> str:
        """The standard error of all hosts since they were last started."""
        return super().logs + "".join(f"\n{name}:\n{host.logs}" for name, host in self._others.items())

    @property
    def log_files(self) -> tuple[Path, ...]:
        """See `HostProcess`."""
        return (*super().log_files, *(file for host in self._others.values() for file in host.log_files))

    def start(self) -> None:
        """See `HostProcess`."""
        try:
            self._each(HostProcess.start, at_once=_STARTED_AT_ONCE)
            super().start()
        except BaseException:
            self.kill()
            raise

    def start_again_if_ended(self) -> bool:
        """See `HostProcess`; each host by itself."""
        found = [host.start_again_if_ended() for host in self._others.values()]
        self.ends += sum(found)
        return super().start_again_if_ended() or any(found)

    def start_function(self, name: str, text: str = "") -> None:
        """See `HostProcess`."""
        if name in self._others:
            self._others[name].start_function(name, text)
        else:
            super().start_function(name, text)

    def terminate(self) -> int | None:
        """See `HostProcess`; the exit code is that of the HTTP functions' host."""
        self._each(HostProcess.terminate, at_once=len(self._others) or 1)
        return super().terminate()

    def kill(self) -> None:
        """See `HostProcess`."""
        for host in self._others.values():
            host.kill()
        super().kill()

    def _each(self, do: Callable[[HostProcess], object], *, at_once: int) -> None:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(do, self._others.values()))


def host_of(app: Path, env: Mapping[str, str], *, port: int = 0, lease_seconds: int = 600) -> HostProcess:
    """A host as `use_host` was told to start them: with function groups, of another host several."""
    several = has_groups() and bool(os.environ.get(FUNCTIONS_HOST))
    return (HostFleet if several else HostProcess)(app, env, port=port, lease_seconds=lease_seconds)


def _triggers(app: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The type of each function's trigger."""
    done = subprocess.run([sys.executable, "-c", _TRIGGERS], cwd=app, env=dict(env), stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _without(functions: Iterable[str]) -> dict[str, str]:
    return {f"AzureWebJobs.{name}.Disabled": "true" for name in functions}
