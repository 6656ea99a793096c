"""A GPU is given as much as its memory is for, and less where that was too much."""

import pytest
import torch
from pretended_device import DEVICE, OnDevice, pretended_gpu

from d2_hloc.core.devices import in_halves, sent
from d2_hloc.features.extraction import images_at_once
from d2_hloc.features.options import ExtractionOptions

GIB = 1 << 30


def small_memory(most, seen):
    """Doubles numbers, at most so many at once."""

    def work(items):
        seen.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * item for item in items]

    return work


def test_what_is_too_much_at_once_is_done_in_halves():
    seen = []
    assert in_halves(small_memory(3, seen), range(11)) == [2 * k for k in range(11)]
    assert seen == [11, 5, 2, 3, 6, 3, 3]
    assert in_halves(small_memory(3, seen), []) == []


def test_one_that_is_too_much_alone_is_told():
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(small_memory(0, []), [1, 2])


def test_a_gpu_takes_the_images_that_half_of_its_memory_is_for(monkeypatch):
    options, image = ExtractionOptions(), torch.empty(3, 768, 1024)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (12 * GIB, 80 * GIB))
    assert images_at_once(options, image, DEVICE) == 6
    assert images_at_once(options, image[:, :8, :8], DEVICE) == 16
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * GIB))
    assert images_at_once(options, image, DEVICE) == 1
    assert images_at_once(options, image, torch.device("cpu")) == 1
    assert images_at_once(ExtractionOptions(batch_size=3), image, DEVICE) == 3


def test_to_a_gpu_values_go_from_pinned_memory(monkeypatch):
    pinned = []
    with pretended_gpu():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: (pinned.append(t), t)[1])
        assert isinstance(there := sent(torch.ones(3), DEVICE), OnDevice)
        assert sent(there, DEVICE) is there
        assert sent(torch.ones(3), torch.device("cpu")).device.type == "cpu"
        monkeypatch.undo()
    assert len(pinned) == 1
