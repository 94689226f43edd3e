"""Our dropout against the distribution it promises, torch's attention and Hugging Face's model."""

import copy
import math

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional
from transformers import Wav2Vec2ForCTC

from adakd import config as configuration
from adakd.models import dropout as module
from adakd.models.dropout import ATTENTION, Dropout, drop
from adakd.models.wav2vec2 import Wav2Vec2

COUNT = 1 << 20


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_it_drops_as_many_as_it_says_and_scales_up_the_others(p):
    found = drop(torch.ones(COUNT), p)
    assert found.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1e-3)]
    share = (found == 0).double().mean().item()
    # Five standard deviations of a binomial share, and what p is rounded by
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / COUNT) + 2**-17
    assert found.double().mean() == pytest.approx(1, abs=5 * math.sqrt(p / (1 - p) / COUNT))


def test_values_that_share_a_draw_are_dropped_independently():
    dropped = (drop(torch.ones(COUNT), 0.5) == 0).view(-1, 4)
    patterns = (dropped.long() * torch.tensor([1, 2, 4, 8])).sum(dim=1)
    counts = torch.bincount(patterns, minlength=16).double()
    expected = COUNT / 4 / 16
    # Chi-square of 15 degrees of freedom: 37.7 is its 99.9 % quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 37.7


def test_a_seed_gives_a_mask_and_every_call_another():
    first, second = drop(torch.ones(1000), 0.3), drop(torch.ones(1000), 0.3)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(drop(torch.ones(1000), 0.3), first)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_goes_where_the_value_went(shape, dtype):
    states = torch.full(shape, 2.0, dtype=dtype, requires_grad=True)
    found = drop(states, 0.4)
    assert found.shape == states.shape and found.dtype == dtype
    found.sum().backward()
    torch.testing.assert_close(states.grad * 2, found.detach())


def test_the_module_does_nothing_in_evaluation_or_without_a_probability():
    states = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(states), states)
    assert torch.equal(Dropout(0.0).train()(states), states)
    assert (Dropout(1.0).train()(states) == 0).all()
    assert (Dropout(0.5).train()(states) == 0).any()


def attended(p, mask, draws=1):
    query, key, value = (torch.randn(2, 3, length, 8) for length in (5, 6, 6))
    plain = functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    several = [
        module.attention(nn.Module(), query, key, value, mask, p, is_causal=False)[0]
        for _ in range(draws)
    ]
    return plain, torch.stack(several)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_dropped_weights_is_torchs(masked, monkeypatch):
    mask = None
    if masked:
        mask = torch.ones(2, 1, 5, 6, dtype=torch.bool)
        mask[1, :, :, 4:] = False
    plain, found = attended(0.0, mask)
    torch.testing.assert_close(found[0], plain)
    monkeypatch.setattr(module, "drop", lambda weights, p: weights)
    plain, found = attended(0.1, mask)
    torch.testing.assert_close(found[0], plain)


def test_attention_with_dropped_weights_is_torchs_on_average():
    plain, found = attended(0.2, None, draws=4000)
    error = found.std(dim=0) / math.sqrt(len(found))
    assert found.std(dim=0).min() > 0
    assert ((found.mean(dim=0) - plain) / error).abs().max() < 5


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """A tiny wav2vec2 that drops everywhere, and another just like it that is not prepared."""
    made = tiny.family("wav2vec2", tmp_path_factory.mktemp("dropping"), seed=1)
    for name in ("hidden", "attention", "activation", "feat_proj"):
        setattr(made.hf.config, f"{name}_dropout", 0.1)
    settings = copy.deepcopy(made.hf.config)
    plain = Wav2Vec2ForCTC(settings)
    prepared = Wav2Vec2(copy.deepcopy(plain), made.tokenizer, made.extractor)
    with pytest.MonkeyPatch.context() as patch:  # what is prepared for a CPU stays on it
        patch.setattr(torch.cuda, "is_available", lambda: False)
        prepared.prepare_training(configuration.Train(mask_time=0.0))
    return plain, prepared


def test_a_model_in_training_drops_by_ours_alone(dropping, monkeypatch):
    plain, prepared = dropping
    kinds = [type(each) for each in prepared.hf.modules() if isinstance(each, nn.Dropout)]
    assert kinds and set(kinds) == {Dropout}
    assert prepared.hf.config._attn_implementation == ATTENTION
    waves = torch.from_numpy(tiny.noise(0.5, 1)).unsqueeze(0)
    assert not torch.equal(prepared.hf.train()(waves).logits, prepared.hf(waves).logits)

    def refused(*_, **__):
        raise AssertionError("torch's dropout")

    monkeypatch.setattr(functional, "dropout", refused)
    prepared.hf.train()(waves)
    with pytest.raises(AssertionError, match="torch's dropout"):
        plain.train()(waves)


def test_in_evaluation_the_model_is_the_same(dropping):
    plain, prepared = dropping
    waves = torch.randn(2, 8000)
    mask = torch.ones(2, 8000, dtype=torch.long)
    mask[1, 5000:] = 0
    with torch.no_grad():
        expected = plain.eval()(waves, attention_mask=mask).logits
        found = prepared.hf.eval()(waves, attention_mask=mask).logits
    torch.testing.assert_close(found, expected)


def test_a_saved_model_names_no_attention_of_ours(dropping, tmp_path):
    plain, prepared = dropping
    prepared.save(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text(encoding="utf-8")
    opened = Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert opened.config._attn_implementation == "sdpa"
    for name, value in opened.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value)
