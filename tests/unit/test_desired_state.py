"""Reading the desired state from where the setting says."""

from pathlib import Path

import pytest

from dev.simulation.storage_model import StorageModel
from shared.subscriptions.desired import DesiredStateError
from shared.subscriptions.desired_source import DesiredStateSource
from tests.fakes import write_blob

TENANT = "aaaaaaaa-0000-4000-8000-000000000001"


class Unreachable:
    """Storage, for addresses that must not be asked for: its SDK raises errors of its own for them."""

    async def get(self, container: str, name: str) -> bytes | None:
        raise ValueError(f"{container}/{name}")


def source(location: str, root: Path, content: bytes | None = None) -> DesiredStateSource:
    where = location if location.startswith("blob:") else str(root / location)
    storage = StorageModel()
    if content is not None:
        write_blob(storage, "config", "here/subscriptions.toml", content)
    return DesiredStateSource(where, storage.blobs, [TENANT])


async def test_a_file_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "wanted.toml").write_text("[[callRecords]]\n")
    assert len((await source("wanted.toml", tmp_path).load()).subscriptions) == 1


async def test_a_blob(tmp_path: Path) -> None:
    state = await source("blob:config/here/subscriptions.toml", tmp_path, b"[[callRecords]]").load()
    assert len(state.subscriptions) == 1


@pytest.mark.parametrize("location", ["nowhere.toml", "blob:config/nowhere.toml", "."])
async def test_nothing_there_is_not_nothing_desired(tmp_path: Path, location: str) -> None:
    with pytest.raises(DesiredStateError, match="it is not there"):
        await source(location, tmp_path, b"").load()


@pytest.mark.parametrize(
    "location",
    ["blob:", "blob:nocontainer", "blob:/x", "blob:config/", "blob:Config/x", "blob:a/x", f"blob:config/{'x' * 1025}"],
)
async def test_a_place_where_no_blob_can_be(tmp_path: Path, location: str) -> None:
    with pytest.raises(DesiredStateError, match=r"write blob:\{container\}/\{blob\}"):
        await DesiredStateSource(location, Unreachable(), [TENANT]).load()  # type: ignore[arg-type]


async def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(DesiredStateError, match="not a path"):
        await source("nul\0.toml", tmp_path).load()


@pytest.mark.parametrize(
    ("content", "problem"), [(b"x = " + b"[" * 20_000, "nested"), (b"#" * (16 * 1024 * 1024 + 1), "bytes")]
)
async def test_what_no_parser_should_be_given(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(DesiredStateError, match=problem):
        await source("blob:config/here/subscriptions.toml", tmp_path, content).load()


async def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf[[callRecords]]"
    state = await source("blob:config/here/subscriptions.toml", tmp_path, content).load()
    assert len(state.subscriptions) == 1


async def test_problems_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "wanted.toml").write_bytes(b"\xff")
    with pytest.raises(DesiredStateError, match=r"wanted\.toml.*UTF-8|UTF-8"):
        await source("wanted.toml", tmp_path).load()
    with pytest.raises(DesiredStateError, match="blob:config/here"):
        await source("blob:config/here/subscriptions.toml", tmp_path, b"x = 1").load()
