"""A local host for Python function apps, on the library that runs them in Azure. See docs/local-host.md."""

from dev.host.process import HostProcess, HostStartError

__all__ = ["HostProcess", "HostStartError"]
