"""d2-hloc doctor: it says what is here, and what is missing."""

from importlib.metadata import PackageNotFoundError

from d2_hloc.app import cli
from d2_hloc.app.commands import doctor


def test_it_prints_versions_devices_weights_and_disk(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "pycolmap", "d2_ots", "GB free on", "threads"):
        assert word in shown


def test_a_package_that_is_missing_is_named_with_its_remedy(monkeypatch, capsys):
    def version(name):
        if name == "poselib":
            raise PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    assert cli.main(["doctor"]) == 0
    assert "poselib: pip install poselib" in capsys.readouterr().out
