"""YAML -> dataclasses: what fits is built; what does not is an error that names file and key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from d2_hloc.core.config import ConfigError, from_dict, load, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    threshold: float = 1.0
    method: Literal["auto", "none", 3] = "auto"

    def __post_init__(self):
        if self.threshold < 0:
            raise ValueError(f"threshold must be positive, not {self.threshold}.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "a"
    count: int | None = None
    scales: tuple[float, ...] = (1.0,)
    file: Path | None = None
    mutual: bool = True
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


@dataclass(frozen=True, kw_only=True)
class Required:
    path: Path


@pytest.fixture
def read(tmp_path):
    """Load a text as the configuration Outer."""

    def load_text(text):
        (tmp_path / "conf.yaml").write_text(text)
        return load(Outer, tmp_path / "conf.yaml")

    return load_text


def test_every_kind_of_value_is_read(read):
    conf = read(
        "name: b\ncount: 5\nscales: [0.5, 1, 2]\nfile: pairs/list.txt\nmutual: false\n"
        "inner:\n  threshold: 2\n  method: none\nother: {method: 3}\n"
    )
    assert conf == Outer(
        name="b",
        count=5,
        scales=(0.5, 1.0, 2.0),
        file=Path("pairs/list.txt"),
        mutual=False,
        inner=Inner(threshold=2.0, method="none"),
        other=Inner(method=3),
    )
    assert isinstance(conf.scales[1], float)
    assert isinstance(conf.inner.threshold, float)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "count: null\nother: ~\n"])
def test_what_is_left_out_has_its_default(read, text):
    assert read(text) == Outer()


def test_the_repositorys_own_options_survive_the_round_trip(tmp_path):
    import yaml

    from d2_hloc.network.options import MULTISCALE, D2NetOptions

    options = D2NetOptions(scales=MULTISCALE, max_keypoints=7, position="released")
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(to_dict(options)))
    assert load(D2NetOptions, tmp_path / "conf.yaml") == options


def test_plain_values_hold_no_path_tuple_or_dataclass():
    conf = Outer(file=Path("a/b"), other=Inner())
    assert to_dict(conf) == {
        "name": "a",
        "count": None,
        "scales": [1.0],
        "file": str(Path("a/b").resolve()),
        "mutual": True,
        "inner": {"threshold": 1.0, "method": "auto"},
        "other": {"threshold": 1.0, "method": "auto"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("treshold: 1", "unknown key 'treshold'; known are name, count, scales,"),
        ("1: 2", "unknown key 1;"),
        ("inner:\n  tresh: 1", "inner: unknown key 'tresh'; known are threshold, method."),
        ("threshold: 1", "unknown key 'threshold'"),  # belongs into the block `inner`
        ("name: 5", "name: expected str, found 5."),
        ("count: 5.0", "count: expected int, found 5.0."),
        ("count: true", "count: expected int, found True."),
        ("count: many", "count: expected int, found 'many'."),
        ("mutual: 1", "mutual: expected bool, found 1."),
        ("mutual: 'no'", "mutual: expected bool, found 'no'."),
        ("file: 3", "file: expected Path, found 3."),
        ("scales: 1.0", "scales: expected a list, found 1.0."),
        ("scales: [1.0, a]", "scales: expected float, found 'a'"),
        ("inner: 3", "inner: expected keys and values, found 3."),
        ("inner: [threshold, 3]", "inner: expected keys and values"),
        ("inner:", "inner: expected keys and values, found None."),
        ("inner:\n  threshold: true", "inner: threshold: expected float, found True"),
        ("inner:\n  method: best", "inner: method: 'best' is not one of 'auto', 'none', 3."),
        ("inner:\n  method: [auto]", "inner: method: ['auto'] is not one of"),
        ("inner:\n  threshold: -1", "inner: threshold must be positive, not -1.0."),
        ("other: 1", "other: expected keys and values, found 1."),
        ("- name", "expected keys and values, found ['name']."),
        ("just a text", "expected keys and values, found 'just a text'."),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(read, tmp_path, text, expected):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value).startswith(f"{tmp_path / 'conf.yaml'}: ")
    assert expected in str(error.value)


def test_a_number_that_yaml_reads_as_a_text_is_explained(read):
    with pytest.raises(ConfigError, match=r"found '1e-4' \(YAML needs a point.*1\.0e-4\)"):
        read("inner:\n  threshold: 1e-4")
    assert read("inner:\n  threshold: 1.0e-4").inner.threshold == 1e-4


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x", "key: !!python/object:os.system {}"])
def test_invalid_yaml_is_one_line_that_names_the_file(read, text):
    with pytest.raises(ConfigError, match=r"conf\.yaml: is not valid YAML") as error:
        read(text)
    assert "\n" not in str(error.value)


def test_a_binary_file_is_not_yaml(tmp_path):
    (tmp_path / "conf.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        load(Outer, tmp_path / "conf.yaml")


def test_a_key_that_stands_there_twice_is_named(tmp_path):
    (tmp_path / "conf.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match=r"conf\.yaml: .*the key 'name' stands there twice"):
        load(Outer, tmp_path / "conf.yaml")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        load(Outer, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Outer, tmp_path)


def test_a_required_value_that_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"configuration: .*'path'"):
        from_dict(Required, {})


@dataclass(frozen=True, kw_only=True)
class Either:
    limit: float | Literal["auto"] | None = None


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), ("auto", "auto"), (None, None)])
def test_a_value_may_be_of_several_types(value, expected):
    assert from_dict(Either, {"limit": value}) == Either(limit=expected)


def test_a_value_of_none_of_several_types_is_told_the_first():
    with pytest.raises(ConfigError, match="limit: expected float, found 'automatic'"):
        from_dict(Either, {"limit": "automatic"})


def test_build_takes_values_that_are_typed_already():
    conf = from_dict(Outer, {"file": Path("a"), "scales": (1.0, 2.0)}, "pipeline")
    assert conf == Outer(file=Path("a"), scales=(1.0, 2.0))
    with pytest.raises(ConfigError, match="pipeline: unknown key 'x'"):
        from_dict(Outer, {"x": 1}, "pipeline")
