"""The live view of a run: what it shows, to whom, and until when."""

import http.client
import json
import re
import shutil
import socket
from urllib.parse import urlsplit

import pytest
from tqdm import tqdm

from d2_hloc.app import cli
from d2_hloc.app.live import HOST, served
from d2_hloc.files.outputs import Outputs
from d2_hloc.reports.live import RunView


@pytest.fixture
def view(small_run) -> RunView:
    outputs = Outputs(small_run.output)
    return RunView("d2-hloc reconstruct", outputs, [outputs])


def ask(address, path="", method="GET", **headers):
    """Status, headers and text of an answer."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    connection.request(method, url.path + path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_state_is_that_of_the_run_and_of_its_bars(view, small_run):
    with served(view) as address, tqdm(total=8, desc="match", unit="pair", disable=False) as bar:
        bar.update(2)
        status, headers, text = ask(address, "state.json")
        state = json.loads(text)
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    (shown,) = state["bars"]
    assert (shown["name"], shown["done"], shown["total"]) == ("match", 2, 8)
    assert shown["left"] == pytest.approx(3 * bar.format_dict["elapsed"], abs=20)
    assert list(state["stages"]) == list(json.loads(view.outputs.run_record.read_text())["timings"])
    assert "sparse" in state["model"]


def test_the_model_is_drawn_and_a_damaged_one_leaves_the_one_before(view, small_run, tmp_path):
    figure = json.loads(view.model())
    assert any(trace["type"] == "scatter3d" for trace in figure["data"])
    shutil.copytree(small_run.output, tmp_path / "out")
    images = tmp_path / "out" / "sparse" / "images.bin"
    images.write_bytes(images.read_bytes()[:-10])
    view.models = [Outputs(tmp_path / "out")]
    assert json.loads(view.model()) == figure
    view.models = [Outputs(tmp_path / "nothing")]
    assert json.loads(view.state())["model"] == ""
    assert view.newest_model() is None


def test_nobody_else_is_answered(view):
    with served(view) as address:
        root = address.removesuffix("/").rpartition("/")[0]
        port = urlsplit(address).port
        token = urlsplit(address).path.strip("/")
        assert ask(address)[0] == 200
        assert ask(address, Host=f"localhost:{port}")[0] == 200
        for path in (
            "/",
            "/state.json",
            f"/{token[:-1]}/",
            f"/{token}",
            f"/{token}/../{token}/run.json",
        ):
            assert ask(root, path)[0] == 404
        assert ask(address, Host="evil.example")[0] == 404  # a name that was made to lead here
        for method in ("POST", "PUT", "DELETE"):
            assert ask(address, method=method)[0] == 501
        assert ask(address)[1]["Referrer-Policy"] == "no-referrer"
        with socket.socket() as listener:  # it listens at no other of this machine's addresses
            listener.bind(("127.0.0.2", port))
    with served(view) as other:
        assert urlsplit(other).path != urlsplit(address).path
        assert urlsplit(other).hostname == HOST


def test_serve_prints_an_address_that_ends_with_the_run(small_run, capsys):
    assert cli.main([*small_run.arguments(small_run.output), "--serve", "--quiet"]) == 0
    shown = capsys.readouterr()
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/[-\w]{32}/", shown.err)
    assert "http" not in shown.out
    with pytest.raises(ConnectionRefusedError):
        ask(address)


def test_a_browser_shows_it_and_says_when_it_ended(view, browser):
    browser.width(1200)
    with served(view) as address, tqdm(total=8, desc="match", unit="pair", disable=False) as bar:
        bar.update(4)
        browser.open(address)
        browser.until("document.querySelector('#model canvas') !== null")
        assert "match: 4 of 8 pairs" in browser.value("document.querySelector('#bars').innerText")
        assert "extract" in browser.value("document.querySelector('#stages').innerText")
        assert browser.errors() == []
        hosts = {urlsplit(url).netloc for url in browser.requests() if url.startswith("http")}
        assert hosts == {urlsplit(address).netloc}
    browser.until("!document.querySelector('#ended').hidden")
