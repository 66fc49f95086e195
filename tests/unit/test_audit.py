"""The audit of what is shipped."""

import json

import pytest

from dev.audit import LOCK, Package, bill_of_materials, is_allowed, licence_of, locked

TEXT = """\
aiohttp==3.14.5 \\
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000001 \\
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000002
nobody-has-this==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000003
"""


def test_a_lock_file_is_read_with_its_hashes() -> None:
    first, second = locked(TEXT)
    assert (first.name, first.version, len(first.hashes)) == ("aiohttp", "3.14.5", 2)
    assert (second.name, second.version, second.licence) == ("nobody-has-this", "1.0", None)


def test_all_that_is_shipped_is_locked_with_hashes_and_has_an_allowed_licence() -> None:
    packages = locked(LOCK.read_text(encoding="utf-8"))
    assert len(packages) > 20
    assert all(package.hashes for package in packages)
    assert [p for p in packages if p.licence is not None and not is_allowed(p.licence)] == []


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR Apache-2.0", True),
        ("(GPL-3.0-only AND MIT) OR LGPL-2.1-only", False),
        ("not stated", False),
    ],
)
def test_licences(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed


@pytest.mark.parametrize(("name", "licence"), [("requests", "Apache-2.0"), ("no-such-package", None)])
def test_the_licence_of_an_installed_package(name: str, licence: str | None) -> None:
    assert licence_of(name) == licence


def test_the_bill_of_materials_is_cyclonedx_and_lists_everything() -> None:
    packages = [Package("a", "1", (f"sha256:{1:064x}",), "MIT"), Package("b", "2", (), None)]
    bill = json.loads(bill_of_materials(packages))
    assert bill["bomFormat"] == "CycloneDX"
    assert {(found["name"], found["version"], found["purl"]) for found in bill["components"]} == {
        ("a", "1", "pkg:pypi/a@1"),
        ("b", "2", "pkg:pypi/b@2"),
    }
    (first,) = (found for found in bill["components"] if found["name"] == "a")
    assert first["hashes"] == [{"alg": "SHA-256", "content": f"{1:064x}"}]
    assert first["licenses"] == [{"license": {"id": "MIT"}}]
