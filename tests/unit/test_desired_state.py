"""Reading the desired state from where the setting says."""

from pathlib import Path

import pytest

from shared.adapters.desired_state import DesiredStateSource
from shared.domain.desired import DesiredStateError

TENANT = "aaaaaaaa-0000-4000-8000-000000000001"


class Blobs:
    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    async def get(self, container: str, name: str) -> bytes | None:
        return self.content if (container, name) == ("config", "here/subscriptions.toml") else None


def source(location: str, root: Path, content: bytes | None = None) -> DesiredStateSource:
    where = location if location.startswith("blob:") else str(root / location)
    return DesiredStateSource(where, Blobs(content), [TENANT])  # type: ignore[arg-type]


async def test_a_file_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "wanted.toml").write_text("[[callRecords]]\n")
    assert len((await source("wanted.toml", tmp_path).load()).subscriptions) == 1


async def test_a_blob(tmp_path: Path) -> None:
    state = await source("blob:config/here/subscriptions.toml", tmp_path, b"[[callRecords]]").load()
    assert len(state.subscriptions) == 1


@pytest.mark.parametrize("location", ["nowhere.toml", "blob:config/nowhere.toml", ".", "blob:"])
async def test_nothing_there_is_not_nothing_desired(tmp_path: Path, location: str) -> None:
    with pytest.raises(DesiredStateError, match="it is not there"):
        await source(location, tmp_path, b"").load()


async def test_problems_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "wanted.toml").write_bytes(b"\xff")
    with pytest.raises(DesiredStateError, match=r"wanted\.toml.*UTF-8|UTF-8"):
        await source("wanted.toml", tmp_path).load()
    with pytest.raises(DesiredStateError, match="blob:config/here"):
        await source("blob:config/here/subscriptions.toml", tmp_path, b"x = 1").load()
