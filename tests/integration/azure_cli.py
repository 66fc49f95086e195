"""An Azure CLI that keeps an Azure in a file: what the hooks ask of the real one, its answers and its errors.

The texts of errors are those of the real one (azure-cli 2.91: storage's are its own sentences, Key Vault's the
service's). Installed as a program on a PATH of its own, so that scripts find it as they find the real one.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration import az_program

VAULT_ROLE = (
    "(Forbidden) Caller is not authorized to perform action on resource.\nIf role assignments, deny assignments or role"
    " definitions were changed recently, please observe propagation time.\n"
    'Inner error: {\n    "code": "ForbiddenByRbac"\n}'
)
VAULT_NETWORK = (
    "(Forbidden) Public network access is disabled and request is not from a trusted service nor via an approved"
    ' private link.\nCaller: appid=x\nInner error: {\n    "code": "ForbiddenByConnection"\n}'
)
VAULT_FIREWALL = (
    "(Forbidden) Client address is not authorized and caller is not a trusted service.\nClient address: 203.0.113.9\n"
    'Inner error: {\n    "code": "ForbiddenByFirewall"\n}'
)
STORAGE_ROLE = (
    "You do not have the required permissions needed to perform this operation.\nDepending on your operation, you may"
    ' need to be assigned one of the following roles:\n    "Storage Blob Data Owner"'
)
STORAGE_NETWORK = (
    "The request may be blocked by network rules of storage account. Please check network rule set using 'az storage"
    " account show -n accountname --query networkRuleSet'."
)
NO_LOGIN = "ERROR: Please run 'az login' to setup account."

TENANT = "99999999-9999-9999-9999-999999999999"
SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"


@dataclass
class Azure:
    """What there is. A test changes it before, and looks at it after."""

    home: Path
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """A PATH on which `az` is this one."""
        return f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def change(self, **values: Any) -> None:
        state = self.read()
        state.update(values)
        (self.home / "state.json").write_text(json.dumps(state))

    def read(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "state.json").read_text()))

    def refuse(self, command: str, message: str, times: int = 1000) -> None:
        """Refuse a command, named by its first words, that often."""
        self.change(refusals=[*self.read()["refusals"], {"command": command, "message": message, "times": times}])

    def run(self, command: list[str], *, cwd: Path, check: bool, **options: Any) -> "subprocess.CompletedProcess[str]":
        """What `subprocess.run` does; but the program does its work in this process, where it starts at once."""
        if command[0] != str(self.home / "bin" / "az"):
            return subprocess.run(command, cwd=cwd, check=check, **options)
        output, refusal = io.StringIO(), ""
        with contextlib.chdir(cwd), contextlib.redirect_stdout(output):
            try:
                az_program.main(str(self.home), command[1:])
            except SystemExit as error:
                refusal = str(error.code)
        return subprocess.CompletedProcess(command, 1 if refusal else 0, output.getvalue(), refusal)

    def calls(self) -> list[list[str]]:
        """The arguments of every call, in order."""
        file = self.home / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def changes(self) -> list[str]:
        """The commands that changed something, in order, by their words."""
        words = [" ".join(az_program.words_of(call)) for call in self.calls()]
        verbs = ("create", "set", "upload", "register", "recover", "purge", "delete")
        posts = [f"post {call[call.index('--url') + 1]}" if "post" in call else "" for call in self.calls()]
        found = [post or word for word, post in zip(words, posts, strict=True)]
        return [word for word in found if word.startswith("post ") or any(verb in word.split() for verb in verbs)]


def install(home: Path) -> Azure:
    """Put the program in place."""
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "az"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{az_program.__file__}" "{home}" "$@"\n')
    program.chmod(0o755)
    azure = Azure(home)
    azure_of_today: dict[str, Any] = {
        "version": "2.91.0",
        "tenant": TENANT,
        "subscription": SUBSCRIPTION,
        "regions": ["westeurope", "northeurope", "swedencentral"],
        "providers": {"Microsoft.App": "NotRegistered"},
        "groups": [],
        "deleted": [],
        "certificates": {},
        "secrets": {},
        "blobs": {},
        "references": "Resolved",
        "appsettings": {},
        "refusals": [],
    }
    (home / "state.json").write_text(json.dumps(azure_of_today))
    return azure
