"""Images of more than 8 bits in dense stereo: COLMAP would keep next to nothing of 12."""

import numpy as np
from PIL import Image

from d2_hloc.mvs.workspace import eight_bit_images


def test_images_of_many_bits_are_stretched_and_others_linked(tmp_path):
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    values = np.linspace(0, 4095, 4800).reshape(60, 80).astype(np.uint16)
    Image.fromarray(values).save(images / "a" / "wide.png")
    Image.new("RGB", (80, 60), (1, 2, 3)).save(images / "plain.jpg")
    assert eight_bit_images(images, ["plain.jpg"], tmp_path / "part") == images
    folder = eight_bit_images(images, ["a/wide.png", "plain.jpg"], tmp_path / "part")
    stretched = np.asarray(Image.open(folder / "a" / "wide.png"))
    assert stretched.dtype == np.uint8
    assert stretched.max() == 255
    assert (folder / "plain.jpg").resolve() == images / "plain.jpg"
