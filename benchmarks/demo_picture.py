"""The demo's picture in README: a view, the model, and the query by night as it was localized.

    python benchmarks/demo_picture.py OUT docs/images/demo.jpg

OUT is a folder of `d2-hloc demo`, or a new one. Chromium draws the model.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image, ImageOps

from d2_hloc.app.commands.demo import run_demo
from d2_hloc.core.images import open_image
from d2_hloc.reports.localization import draw_localized
from d2_hloc.reports.model import draw_model

VIEW, QUERY = "view_05.jpg", "night_1.jpg"
MODEL_SIZE = (680, 380)
GAP = 6  # pixels between the pictures
SECONDS = 60  # that Chromium may take
FLAGS = (
    "--headless=new --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--hide-scrollbars --virtual-time-budget=15000"
)


def draw(figure: go.Figure, size: tuple[int, int]) -> Image.Image:
    """The figure as Chromium shows it, on white, drawn twice as large."""
    width, height = 2 * size[0], 2 * size[1]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise ValueError("there is no Chromium to draw the model with; install chromium.")
    figure.update_layout(width=width, height=height, showlegend=False, margin_t=0)
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        config = {"displayModeBar": False}
        body = figure.to_html(full_html=False, include_plotlyjs=True, config=config)
        page.write_text(f'<meta charset="utf-8"><body style="margin:0">{body}</body>')
        options = f"--window-size={width},{height + 200} --screenshot={shot}"
        command = [program, *FLAGS.split(), *options.split(), page.as_uri()]
        subprocess.run(command, check=True, timeout=SECONDS, capture_output=True)
        image = open_image(shot).crop((0, 0, width, height))
    return image.resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    """Arguments -> the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder of the demo")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    model, run = run_demo(args.output)
    pictures = draw_localized(run)
    query = next(image for image, caption in pictures if caption.startswith(QUERY))
    panels = [open_image(model.images / VIEW), draw(draw_model(model.model), MODEL_SIZE), query]
    height = MODEL_SIZE[1]
    panels = [ImageOps.contain(panel, (10 * height, height)) for panel in panels]
    canvas = Image.new("RGB", (sum(p.width + GAP for p in panels) - GAP, height), "white")
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + GAP
    canvas.save(args.picture, quality=88, optimize=True)


if __name__ == "__main__":
    main()
