"""Which wheels the image of Azure Functions can use."""

from pathlib import Path

import pytest

from dev.package_check import unusable, wheels


class TestUnusable:
    @pytest.mark.parametrize(
        "tag",
        [
            "py3-none-any",
            "cp313-cp313-manylinux_2_28_x86_64",
            "cp311-abi3-manylinux_2_36_x86_64",
            "cp313-cp313-manylinux2014_x86_64",
        ],
    )
    def test_not_what_the_image_can_use(self, tag: str) -> None:
        assert not unusable([tag])

    @pytest.mark.parametrize(
        "tag",
        [
            "cp313-cp313-manylinux_2_37_x86_64",  # a newer glibc
            "cp313-cp313-manylinux_3_0_x86_64",
            "cp313-cp313-manylinux_2_28_aarch64",
            "cp313-cp313-musllinux_1_2_x86_64",
            "cp313-cp313-linux_x86_64",  # built on the machine that installs
        ],
    )
    def test_what_the_image_cannot_use(self, tag: str) -> None:
        assert unusable([tag])

    def test_one_tag_of_several_is_enough(self) -> None:
        assert not unusable(["cp313-cp313-manylinux_2_39_x86_64", "cp313-cp313-manylinux_2_17_x86_64"])


def test_wheels_are_listed_with_their_tags(tmp_path: Path) -> None:
    (tmp_path / "msgspec-0.22.0.dist-info").mkdir()
    (tmp_path / "msgspec-0.22.0.dist-info" / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\nTag: b-c-d\n")

    assert list(wheels(tmp_path)) == [("msgspec-0.22.0", ["py3-none-any", "b-c-d"])]
