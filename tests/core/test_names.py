"""Names that an image may have, and those that it may not."""

import pytest

from d2_hloc.core.names import UnsafeName, image_name, image_names, split_entry


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "db/1/photo 1.jpg",
        "..a/b..jpg",
        ".hidden.png",
        "ä/日本.png",
        "ab:c/d.jpg",
    ],
)
def test_names_below_the_folder_stay_as_they_are(name):
    assert image_name(name, "list.txt") == name


@pytest.mark.parametrize("name", ["./a/b.jpg", "a/./b.jpg", "a//b.jpg", ".//./a/b.jpg"])
def test_an_image_has_one_name(name):
    assert image_name(name, "list.txt") == "a/b.jpg"


@pytest.mark.parametrize(
    ("line", "name", "fields"),
    [
        ("a.jpg 1 2", "a.jpg", "1 2"),
        ("a b\t1 2", "a b", "1 2"),
        ("IMG 5\t1 2", "IMG 5", "1 2"),
        ("my photo 1.jpg 1 2e3", "my photo 1.jpg", "1 2e3"),
        ("my  photo.jpg PINHOLE 640 480", "my  photo.jpg", "PINHOLE 640 480"),
        ("旅行 写真.png -1 .5", "旅行 写真.png", "-1 .5"),
        ("a.jpg day 1 2", "a.jpg", "day 1 2"),
        ("0012 1 2", "0012", "1 2"),
        ("12 13", "12", "13"),
        ("a.jpg", "a.jpg", ""),
    ],
)
def test_a_line_is_a_name_and_its_fields(line, name, fields):
    assert split_entry(line, {"PINHOLE"}) == (name, fields.split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "is absolute"),
        ("//host/share.jpg", "is absolute"),
        ("\\\\host\\share.jpg", "is absolute"),
        ("C:\\a.jpg", "is absolute"),
        ("C:a.jpg", "is absolute"),
        ("../a.jpg", "leads out of"),
        ("a/../../b.jpg", "leads out of"),
        ("a/..", "leads out of"),
        ("a\\..\\b.jpg", "leads out of"),
        ("", "names no file"),
        ("..", "names no file"),
        ("a\0.jpg", "holds control characters"),
        ("a\nb.jpg", "holds control characters"),
        ("x" * 2000, "has more than 1024 characters"),
    ],
)
def test_names_that_lead_elsewhere_are_refused_with_the_entry(name, reason):
    with pytest.raises(UnsafeName, match=reason) as error:
        image_name(name, "list.txt, line 3")
    text = str(error.value)
    assert text.startswith("list.txt, line 3: the image name '")
    assert text.endswith("so it is not used.")
    assert "\n" not in text
    assert len(text) < 250


def test_the_first_bad_name_of_many_is_told():
    with pytest.raises(UnsafeName, match=r"'\.\./b'"):
        image_names(["a", "../b", "/c"], "list.txt")
