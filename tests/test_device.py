"""Where a process computes, on machines that are not at hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adakd import device
from adakd.errors import UserError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two cards of compute capability 8.6, and a torch made for 7.5 and later."""
    for name, value in {
        "is_available": True,
        "device_count": 2,
        "get_device_capability": (8, 6),
        "get_device_name": "a card",
        "get_arch_list": ["sm_75", "sm_80", "sm_120", "compute_120"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return monkeypatch


def test_each_process_of_a_launcher_has_its_own_gpu(gpus: pytest.MonkeyPatch) -> None:
    assert device.device() == torch.device("cuda:0")
    gpus.setenv("LOCAL_RANK", "1")
    assert device.device() == torch.device("cuda:1") and device.described() == "on a card"
    gpus.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"Process 3 .* torch sees 2\. .*--nproc"):
        device.device()


@pytest.mark.parametrize("capability", [(7, 0), (6, 1)])
def test_a_card_that_torch_was_not_made_for(
    gpus: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    gpus.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with pytest.raises(UserError, match=rf"capability {capability[0]}\..* begins with 7\.5"):
        device.device()
    gpus.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90a", "sm_75"])
    gpus.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert device.device().type == "cuda"
    gpus.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a"])  # not NVIDIA's
    assert device.device().type == "cuda"


def test_a_gpu_that_is_not_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    assert device.described() == "on the CPU"
    (tmp_path / "version").touch()
    assert "torch finds no GPU here, though there is an NVIDIA driver" in device.described()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on purpose
    assert device.described() == "on the CPU"


@pytest.fixture
def as_torch_has_it() -> Iterator[None]:
    """TF32 as it is where nothing has set it: off for products, on for convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = False, True
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.parametrize("order", ["device", "speechbrain device", "device speechbrain"])
@pytest.mark.usefixtures("as_torch_has_it")
def test_float32_on_a_gpu_is_the_same_in_every_stage(gpus: pytest.MonkeyPatch, order: str) -> None:
    """Whether SpeechBrain, which only training imports, comes before, after or not at all."""
    from speechbrain.utils import quirks

    assert "allow_tf32" in quirks.applied_quirks  # by the import of SpeechBrain
    for name in order.split():
        device.device() if name == "device" else quirks.allow_tf32()
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    assert (products.allow_tf32, convolutions.allow_tf32) == (True, True)
    # Torch's newer names agree: of a mixture one of the two would raise.
    assert (products.fp32_precision, convolutions.conv.fp32_precision) == ("tf32", "tf32")


@pytest.mark.usefixtures("as_torch_has_it")
def test_tf32_is_off_for_a_while_and_then_as_it_was() -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    products.allow_tf32 = True
    with pytest.raises(KeyError), device.without_tf32():
        assert not products.allow_tf32 and not convolutions.allow_tf32
        raise KeyError
    assert products.allow_tf32 and convolutions.allow_tf32


@pytest.mark.usefixtures("as_torch_has_it")
def test_the_cpu_leaves_a_gpus_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.device().type == "cpu" and not torch.backends.cuda.matmul.allow_tf32
