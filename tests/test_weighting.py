"""The weighting module against closed forms, SciPy, finite differences and plain KD."""

import json
import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch

from adakd import methods
from adakd.errors import UserError
from adakd.weighting import (
    METHODS,
    AdaKD,
    AnnealingKD,
    FineTune,
    FixedWeight,
    FocalLoss,
    SuperLoss,
    Weighted,
    Weighting,
    adaptive_alpha,
    build,
    lambert_w,
    wrong_transcript,
)

INVERSE_E = math.exp(-1)
EXTREMES = [-1e6, -300.0, -1.0, -1e-6, 0.0, 1e-6, 0.02, 1.0, 17.0, 300.0, 1e6]


def closed_form(x: float, t: float, k: float) -> float:
    """exp(-exp(k (x - t) / 2)) in Python's float64; the inner overflow is the limit 0."""
    try:
        return math.exp(-math.exp(k * (x - t) / 2))
    except OverflowError:
        return 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_alpha_is_the_closed_form_over_extreme_values(dtype):
    finite = [value for value in EXTREMES if abs(value) <= torch.finfo(dtype).max]
    x, t, k = torch.tensor(list(product(finite, repeat=3)), dtype=dtype).unbind(dim=1)
    alpha = adaptive_alpha(x, t, k)
    assert alpha.dtype == torch.promote_types(dtype, torch.float32)
    rows = zip(x.tolist(), t.tolist(), k.tolist(), strict=True)
    truth = torch.tensor([closed_form(*row) for row in rows], dtype=torch.float64)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(alpha.double(), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_derivative_of_alpha_is_nan(dtype):
    rows = torch.tensor(list(product([*EXTREMES, 1e30], repeat=3)), dtype=dtype)
    x, t, k = (column.clone().requires_grad_() for column in rows.unbind(dim=1))
    for derivative in torch.autograd.grad(adaptive_alpha(x, t, k).sum(), [x, t, k]):
        assert derivative.isfinite().all()


def test_derivative_of_alpha_by_k_is_the_closed_form():
    x, t = torch.linspace(-5, 5, 41, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    k = torch.full_like(x, 0.7, requires_grad=True)
    adaptive_alpha(x, t, k).sum().backward()
    inner = torch.exp(0.7 * (x - t) / 2)
    torch.testing.assert_close(k.grad, -torch.exp(-inner) * inner * (x - t) / 2)


def test_the_two_steps_of_the_paper_give_the_same_alpha():
    x, t, k = torch.linspace(0, 4, 9, dtype=torch.float64), torch.tensor(1.5), torch.tensor(2.0)
    difficulty_factor = torch.exp(-k * (x - t))
    torch.testing.assert_close(adaptive_alpha(x, t, k), torch.exp(-1 / difficulty_factor.sqrt()))


def test_alpha_is_1_over_e_for_all_at_k_0_and_for_x_at_the_threshold():
    x = torch.tensor([-1e6, 0.0, 0.5, 1e6])
    for alpha in (
        AdaKD(threshold=0.5, k=0.0).alpha(x, 0.0),
        AdaKD(threshold=0.5, k=1e6).alpha(x, 1.0),
        AdaKD(threshold=0.5, k=1e6).alpha(x[2:3], 0.0),
    ):
        torch.testing.assert_close(alpha, torch.full_like(alpha, INVERSE_E))


@pytest.mark.parametrize("a", [1e-9, 0.1, INVERSE_E, 0.5, 0.999])
def test_alpha_is_a_power_of_the_alpha_at_the_threshold(a):
    x, t, k = torch.tensor(list(product(EXTREMES, repeat=3)), dtype=torch.float64).unbind(dim=1)
    powers = np.float64(a) ** np.exp(np.clip((k * (x - t) / 2).numpy(), -700, 700))
    found = adaptive_alpha(x, t, k, a)
    torch.testing.assert_close(found, torch.from_numpy(powers), rtol=0, atol=1e-13)


@pytest.mark.parametrize("a", [0.1, 0.7])
def test_at_k_0_adakd_is_kd_with_that_alpha(a):
    task, distill, x = torch.rand(3, 6, generator=torch.Generator().manual_seed(2))
    adakd, kd = AdaKD(threshold=0.5, k=4.0, alpha=a), FixedWeight(a)
    torch.testing.assert_close(adakd(task, distill, x, 1.0), kd(task, distill, None, 1.0))
    auto = AdaKD(alpha=a, scale="log")
    auto.fit(skewed())
    assert auto.k_start.item() == fitted(scale="log").k_start.item()
    assert auto.alpha(skewed().quantile(0.95), 0.0).item() == pytest.approx(
        a ** math.log(10), abs=2e-3
    )
    assert auto.summary()["alpha"] == a and auto.summary()["end"]["p90"] == pytest.approx(a)


@pytest.mark.parametrize("alpha", [0, 1.0, -0.5])
def test_an_alpha_that_leaves_no_room_is_a_sentence(alpha):
    with pytest.raises(UserError, match=r"lies above 0 and below 1"):
        AdaKD(alpha=alpha)


def test_easy_utterances_are_distilled_first_and_hard_ones_later():
    weighting = AdaKD(threshold=1.0, k=4.0)
    easy, hard = torch.tensor([0.2]), torch.tensor([2.5])
    alphas = [
        (weighting.alpha(easy, p).item(), weighting.alpha(hard, p).item()) for p in (0, 0.5, 1)
    ]
    assert alphas[0][0] > alphas[1][0] > alphas[2][0]
    assert alphas[0][1] < alphas[1][1] < alphas[2][1]
    assert alphas[0][1] < 0.01


def test_k_falls_linearly_from_k_start_to_k_end():
    weighting = AdaKD(threshold=0.0, k=8.0, k_end=2.0)
    assert [weighting.k_at(p).item() for p in (0.0, 0.25, 0.5, 1.0)] == [8.0, 6.5, 5.0, 2.0]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [("mean", 22.0), ("p25", 2.0), ("p50", 3.0), ("p75", 4.0), (1.25, 1.25), (3, 3.0)],
)
def test_threshold(threshold, expected):
    weighting = AdaKD(threshold=threshold, k=1.0)
    weighting.fit([1.0, 2.0, 3.0, 4.0, 100.0])
    assert weighting.t.item() == expected


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("threshold", ["mean", "p25", "p50", "p75"])
def test_auto_k_starts_the_95th_percentile_at_a_tenth_on_any_scale(scale, threshold):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5000, generator=generator).exp() * scale
    weighting = AdaKD(threshold=threshold)
    weighting.fit(x)
    assert weighting.alpha(x.quantile(0.95), 0.0).item() == pytest.approx(0.1, abs=1e-5)


def test_auto_k_on_skewed_losses_leaves_the_easiest_near_a_half():
    """The limit that the method's notes state: 0.47 for a mean of 0.005 and a p95 of 0.02."""
    x = torch.full((10_000,), 1.25e-5)
    x[:600], x[0] = 0.02, 0.0
    x[600:] += (0.005 - x.mean()) * 10_000 / 9_400
    weighting = AdaKD()
    weighting.fit(x)
    assert weighting.t.item() == pytest.approx(0.005, rel=1e-4)
    assert weighting.summary()["start"]["max"] == pytest.approx(0.47, abs=0.01)


def test_below_zero_k_ends_with_the_teacher_where_it_is_hard():
    weighting = AdaKD(threshold=1.0, k=4.0, k_end=-2.0)
    x = torch.tensor([0.2, 1.0, 2.5])
    start, end = weighting.alpha(x, 0.0).tolist(), weighting.alpha(x, 1.0).tolist()
    assert start[0] > start[1] > start[2] and end[0] < end[1] < end[2]
    assert start[1] == end[1] == pytest.approx(INVERSE_E)
    assert end == pytest.approx([closed_form(value, 1.0, -2.0) for value in x.tolist()])
    # On the way, two thirds through, k is 0 and all are alike.
    assert weighting.alpha(x, 2 / 3).tolist() == pytest.approx([INVERSE_E] * 3)


# ---- AdaKD: scales and controls ------------------------------------------------------------------


def skewed(count: int = 400) -> torch.Tensor:
    """Difficulties as a teacher has them on its own training set, in no order."""
    generator = torch.Generator().manual_seed(4)
    return (torch.randn(count, generator=generator, dtype=torch.float64) * 1.5 - 6).exp()


def fitted(**options) -> AdaKD:
    weighting = AdaKD(**options)
    weighting.fit(skewed())
    return weighting


def test_the_log_scale_is_adakd_on_log_x():
    weighting, plain = fitted(scale="log"), AdaKD()
    x = skewed()
    plain.fit(x.log())
    assert weighting.t.item() == pytest.approx(x.log().mean().item())
    assert weighting.k_start.item() == pytest.approx(plain.k_start.item())
    for progress in (0.0, 0.6):
        torch.testing.assert_close(weighting.alpha(x, progress), plain.alpha(x.log(), progress))
    assert weighting.alpha(torch.tensor([0.0, -1e-9]), 0.0).isfinite().all()


def test_the_rank_scale_is_adakd_on_ranks():
    from scipy.stats import rankdata

    x = skewed()
    x[10:14] = x[20]  # equals
    weighting, plain = AdaKD(scale="rank"), AdaKD()
    weighting.fit(x)
    ranks = torch.from_numpy((rankdata(x.numpy()) - 0.5) / len(x))
    plain.fit(ranks)
    for progress in (0.0, 0.6):
        ours = weighting.alpha(x.float(), progress).double()
        torch.testing.assert_close(ours, plain.alpha(ranks, progress), rtol=1e-5, atol=1e-6)
    # Which scale x has does not matter any more, and no alpha is squeezed against another.
    stretched = AdaKD(scale="rank")
    stretched.fit(x**3)
    torch.testing.assert_close(
        stretched.alpha((x**3).float(), 0.3), weighting.alpha(x.float(), 0.3)
    )
    # exp(-exp(k (r - 1/2) / 2)) at r = 0 and r = 1, with alpha 0.1 at r = 0.95
    summary = weighting.summary()["start"]
    assert summary["max"] == pytest.approx(0.673, abs=0.005)
    assert summary["min"] == pytest.approx(0.080, abs=0.005)
    # What is easier or harder than anything in the training set has the first or the last rank.
    ends = weighting.alpha(torch.tensor([-1.0, 1e9]), 0.0).tolist()
    assert ends[0] >= summary["max"] and ends[1] <= summary["min"]


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_auto_k_works_on_every_scale(scale):
    weighting = fitted(scale=scale)
    hard = skewed().sort().values[379:381]  # of 400, around the 95th percentile
    above, below = weighting.alpha(hard, 0.0).tolist()
    assert above >= 0.1 - 0.01 and below <= 0.1 + 0.01 and above > below


@pytest.mark.parametrize("control", ["permuted", "inverted"])
@pytest.mark.parametrize("scale", ["linear", "rank"])
def test_exchanged_difficulties_give_the_same_alphas_to_others(control, scale):
    x = skewed().float()
    plain, changed = fitted(scale=scale), fitted(scale=scale, control=control)
    assert (changed.t, changed.k_start) == (plain.t, plain.k_start)
    for progress in (0.0, 0.5):
        before, after = plain.alpha(x, progress), changed.alpha(x, progress)
        torch.testing.assert_close(after.sort().values, before.sort().values)
        order = np.corrcoef(before.argsort().argsort(), after.argsort().argsort())[0, 1]
        assert order == pytest.approx(-1.0) if control == "inverted" else abs(order) < 0.15
        # An utterance has its x for good, whoever shares its batch.
        torch.testing.assert_close(changed.alpha(x[5:9], progress), after[5:9])
    torch.manual_seed(99)  # the exchange is the same for all seeds of a training
    assert torch.equal(fitted(scale=scale, control=control).known, changed.known)


def test_the_mean_control_gives_all_the_mean_of_the_training_set():
    x = skewed().float()
    plain, control = fitted(k_end=-3.0), fitted(k_end=-3.0, control="mean")
    for progress in (0.0, 0.5, 1.0):
        alpha = control.alpha(x[:3], progress)
        assert alpha.tolist() == pytest.approx([plain.alpha(x, progress).mean().item()] * 3)


def test_the_mean_control_is_of_what_it_was_fitted_to_last():
    x = skewed().float()
    control = fitted(control="mean", threshold=1.0, k=1.0)
    before = control.alpha(x[:1], 0.5).item()
    control.fit(2 * x)
    twice = AdaKD(1.0, 1.0, control="mean")
    twice.fit(2 * x)
    assert control.alpha(x[:1], 0.5).item() == twice.alpha(x[:1], 0.5).item() != before
    other = fitted(control="mean", threshold=1.0, k=1.0)
    control.load_state_dict(other.state_dict())
    assert control.alpha(x[:1], 0.5).item() == before


def test_the_threshold_control_has_two_alphas():
    x = skewed().float()
    plain, control = fitted(threshold="p75"), fitted(threshold="p75", control="threshold")
    easy = x <= plain.t
    assert 0 < easy.sum() < len(x)
    for progress in (0.0, 0.5):
        alphas, every = control.alpha(x, progress), plain.alpha(x, progress)
        assert alphas[easy].tolist() == pytest.approx([every[easy].mean().item()] * int(easy.sum()))
        assert alphas[~easy].unique().item() == pytest.approx(every[~easy].mean().item())
        assert alphas.mean().item() == pytest.approx(every.mean().item())


def test_an_utterance_at_the_threshold_is_easy():
    control, plain = AdaKD(2.0, 1.0, control="threshold"), AdaKD(2.0, 1.0)
    control.fit([1.0, 2.0, 3.0])
    easy = plain.alpha(torch.tensor([1.0, 2.0]), 0.0).mean().item()
    hard = plain.alpha(torch.tensor([3.0]), 0.0).item()
    found = control.alpha(torch.tensor([1.0, 2.0, 3.0]), 0.0).tolist()
    assert found == pytest.approx([easy, easy, hard])


@pytest.mark.parametrize("level", [1 / math.e, 0.1])
@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_controls_that_average_do_so_on_every_scale_and_level(scale, level):
    """Against NumPy: alpha = level ** exp(k (s - t) / 2), with s the scaled x."""
    x = skewed().float()
    for control in ("mean", "threshold"):
        weighting = fitted(scale=scale, alpha=level, control=control)
        t, k = weighting.t.item(), weighting.k_start.item()
        values = x.double().numpy()
        s = {
            "linear": values,
            "log": np.log(values),
            "rank": (scipy.stats.rankdata(values) - 0.5) / len(x),
        }
        for progress in (0.0, 0.5):
            exponents = np.exp(k * (1 - progress) * (s[scale] - t) / 2)
            alphas, easy = level**exponents, s[scale] <= t
            if control == "mean":
                truth = np.full(len(x), alphas.mean())
            else:
                truth = np.where(easy, alphas[easy].mean(), alphas[~easy].mean())
            found = weighting.alpha(x, progress).tolist()
            assert found == pytest.approx(truth.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "options", [{"scale": "rank"}, {"control": "permuted"}, {"scale": "log", "control": "mean"}]
)
def test_scales_and_controls_travel_with_a_checkpoint(options):
    ours, fresh = fitted(**options), AdaKD(**options)
    fresh.load_state_dict(ours.state_dict())
    x = skewed().float()
    assert torch.equal(fresh.alpha(x, 0.4), ours.alpha(x, 0.4))
    summary = fresh.summary()
    assert summary == ours.summary()
    assert (summary["scale"], summary["control"]) == (ours.scale, ours.control)
    with pytest.raises(UserError, match=r"call fit\(\)"):
        AdaKD(threshold=0.5, k=1.0, **options | {"control": "mean"}).alpha(x, 0.0)


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_below_zero_k_mirrors_the_start_on_every_scale_with_auto_k(scale):
    """k runs through 0 and on; the closed form by hand, with t and k found by `fit`."""
    weighting = fitted(scale=scale, k_end=-3.0)
    x, t, k = skewed(), weighting.t.item(), weighting.k_start.item()
    assert k > 0
    share = {"linear": x, "log": x.log(), "rank": (x.argsort().argsort() + 0.5) / len(x)}[scale]
    for progress in (0.0, 0.5, 1.0):
        now = k + (-3.0 - k) * progress
        truth = [closed_form(value, t, now) for value in share.tolist()]
        found = weighting.alpha(x.float(), progress).tolist()
        assert found == pytest.approx(truth, abs=2e-5)
    end = weighting.alpha(x, 1.0)
    assert end[x.argmax()] == end.max() and end[x.argmin()] == end.min()
    assert weighting.summary()["end"]["max"] == pytest.approx(end.max().item(), abs=1e-5)
    # At k_end = -k_start the hardest of the start is the easiest of the end: alpha(t + a) there is
    # alpha(t - a) here.
    offsets = torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0])
    for end in (-4.0, "mirror"):
        mirrored = AdaKD(threshold=0.5, k=4.0, k_end=end)
        torch.testing.assert_close(
            mirrored.alpha(0.5 + offsets, 1.0), mirrored.alpha(0.5 - offsets, 0.0)
        )


def test_a_mirrored_end_has_no_unit():
    """Where the teacher's losses are a hundred times as large, every alpha is the same."""
    x = torch.from_numpy(np.random.default_rng(5).lognormal(-3, 1, 200))
    small, large = (AdaKD(k_end="mirror") for _ in range(2))
    small.fit(x)
    large.fit(100 * x)
    for progress in (0.0, 0.4, 1.0):
        found = small.alpha(x, progress), large.alpha(100 * x, progress)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert large.summary()["k_end"] == -large.k_start.item()


def test_a_single_number_is_no_training_set():
    with pytest.raises(UserError, match=r"shape \(\): it needs one of each"):
        AdaKD().fit(torch.tensor(0.5))


def test_a_threshold_that_tells_nothing_apart_is_a_sentence():
    for x, options in (([0.1, 0.2, 0.7, 0.7, 0.7], {"threshold": "p75"}), ([0.7] * 4, {})):
        with pytest.raises(UserError, match=r"on one side of the threshold t = 0\.7"):
            AdaKD(k=2.0, control="threshold", **options).fit(x)


# ---- AdaKD: the guard against wrong transcripts --------------------------------------------------


def heard(count: int, wrong: float, unseen: float, seed: int = 0, cost: float = 5.0):
    """A made-up teacher's losses: on transcripts (N,), on its own hypotheses (N,), and the truth.

    Three utterances in ten are hard: there the teacher is unsure, and its hypothesis is not the
    transcript; of right transcripts it then has gaps as a teacher of espeak/hi has them, 0.4 times
    its own losses. `unseen` is the scale of its losses; the share `wrong` of the transcripts says
    something else, which costs it `cost` nats a unit on average.
    """
    draw = np.random.default_rng(seed)
    hard = draw.random(count) < 0.3
    own = unseen * np.where(hard, 6.0, 1.0) * draw.lognormal(0.0, 0.5, count)
    gap = np.where(hard, own * draw.exponential(0.4, count), 0.0)
    bad = draw.random(count) < wrong
    gap = np.where(bad, cost * draw.lognormal(0.0, 0.25, count), gap)
    return own + gap, own, bad


@pytest.mark.parametrize("unseen", [0.003, 0.02, 0.1])
@pytest.mark.parametrize("wrong", [0.05, 0.1, 0.2, 0.3])
def test_wrong_transcripts_are_found(wrong, unseen):
    said, own, bad = heard(3000, wrong, unseen)
    doubt = wrong_transcript(said, own).numpy()
    flagged = doubt > 0.5
    precision, recall = (flagged & bad).sum() / flagged.sum(), (flagged & bad).sum() / bad.sum()
    assert recall > 0.99 and (flagged & ~bad).sum() < 0.03 * (~bad).sum()
    assert precision > (0.6 if wrong == 0.05 else 0.8)
    # A probability, and not only an order: its mean is near the share of wrong ones.
    assert doubt.mean() == pytest.approx(bad.mean(), abs=0.04)


def test_a_teacher_that_errs_much_finds_most_wrong_transcripts():
    """As of half an hour of Hindi: its hypotheses cost 0.4 nats a token, other sentences 1.9."""
    draw = np.random.default_rng(2)
    own = draw.lognormal(np.log(0.35), 0.5, 3000)
    bad = draw.random(3000) < 0.2
    gap = np.where(bad, draw.normal(1.9, 0.5, 3000), draw.gamma(1.3, 0.34, 3000))
    doubt = wrong_transcript(own + gap, own).numpy() > 0.5
    assert doubt[bad].mean() > 0.7 and doubt[~bad].mean() < 0.05


def test_the_loss_alone_does_not_tell_them_from_hard_audio():
    """Why the hypothesis is asked for: on noisy audio any transcript costs as much."""
    draw = np.random.default_rng(5)
    noisy = draw.random(3000) < 0.1
    said, own, bad = heard(3000, 0.1, 0.02, cost=1.5)
    said, own = said + 1.5 * noisy, own + 1.5 * noisy
    by_loss = np.argsort(-said)[: bad.sum()]
    assert bad[by_loss].mean() < 0.75
    doubt = wrong_transcript(said, own).numpy()
    clear = ~noisy
    assert (doubt[bad & clear] > 0.5).mean() > 0.95
    assert (doubt[noisy & ~bad] > 0.5).mean() < 0.01


@pytest.mark.parametrize("unseen", [1e-4, 0.02, 1.0])
def test_where_no_transcript_is_wrong_few_are_doubted(unseen):
    said, own, _ = heard(5000, 0.0, unseen, seed=3)
    doubt = wrong_transcript(said, own)
    assert (doubt > 0.5).double().mean() < 0.03 and doubt.mean() < 0.04
    # Nor with a heavy tail and a teacher that is never right to the letter.
    draw = np.random.default_rng(1)
    own = draw.lognormal(-1.2, 0.3, 5000)
    doubt = wrong_transcript(own + draw.lognormal(-1.6, 0.8, 5000), own)
    assert (doubt > 0.5).double().mean() < 0.07 and doubt.mean() < 0.08


def test_doubt_is_the_closed_form():
    own = torch.tensor([0.2, 0.2, 0.2, 0.2, 3.0], dtype=torch.float64)
    gap = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.0], dtype=torch.float64)
    # Median 0.3 (of 0, 0.1, 0.3, 2, 2); deviations 0.3, 0.2, 0, 1.7, 1.7: their median 0.3.
    usual = (4 * 0.2 + 3.0) / 5
    doubt = wrong_transcript(own + gap, own).tolist()
    assert doubt[:3] == [0.0] * 3
    for found, unsure in zip(doubt[3:], (usual, 3.0), strict=True):
        z = 1.7 / (1.4826 * 0.3 + unsure)
        assert found == pytest.approx(z**4 / (z**4 + 1), rel=1e-12)


def test_doubt_has_no_unit_and_rises_with_the_transcripts_loss():
    said, own, _ = heard(400, 0.1, 0.02)
    doubt = wrong_transcript(said, own)
    for factor in (1e-6, math.log2(math.e), 1e6):
        torch.testing.assert_close(wrong_transcript(factor * said, factor * own), doubt)
    worse = said.copy()
    worse[np.argsort(said)[-1]] *= 2
    changed = wrong_transcript(worse, own)
    assert (changed >= doubt - 1e-12).all()
    order = np.random.default_rng(0).permutation(400)
    torch.testing.assert_close(wrong_transcript(said[order], own[order]), doubt[order])


def test_doubt_at_its_limits():
    # A teacher that is never unsure and agrees to the letter, but for one.
    said = torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert wrong_transcript(said, torch.zeros(4)).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert wrong_transcript(torch.full((9,), 3.0), torch.ones(9)).tolist() == [0.0] * 9
    # Greedy search may miss the best hypothesis: the transcript costs less. No doubt then.
    assert wrong_transcript([1.0, 1.0, 0.2], [1.0, 1.0, 0.5]).tolist() == [0.0] * 3
    with pytest.raises(UserError, match="1 of 2 pairs"):
        wrong_transcript([1.0, math.inf], [1.0, 1.0])
    for said, own in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(UserError, match="one of each"):
            wrong_transcript(said, own)


def guarded(doubt: torch.Tensor, **options) -> AdaKD:
    weighting = AdaKD(guard=0.95, **options)
    weighting.fit(skewed(), doubt)
    return weighting


@pytest.mark.parametrize("options", [{}, {"scale": "rank"}, {"control": "permuted"}])
def test_without_doubt_the_guard_changes_nothing(options):
    plain, none = fitted(**options), guarded(torch.zeros(400, dtype=torch.float64), **options)
    assert (plain.t, plain.k_start) == (none.t, none.k_start)
    x = skewed().float()
    for progress in (0.0, 0.7):
        found = none.alpha(x, progress, torch.zeros_like(x))
        assert torch.equal(found, plain.alpha(x, progress))
        assert torch.equal(none.alpha(x, progress), found), "as where none is known"
    assert none.summary() == plain.summary() | {"guard": 0.95, "doubt_mean": 0.0, "doubted": 0.0}


def test_doubt_moves_alpha_towards_the_guard():
    weighting = AdaKD(threshold=1.0, k=4.0, guard=0.95)
    x, doubt = torch.tensor([0.2, 1.0, 2.5, 2.5]), torch.tensor([0.0, 0.5, 1.0, 0.2])
    plain = AdaKD(threshold=1.0, k=4.0).alpha(x, 0.3)
    expected = (1 - doubt) * plain + 0.95 * doubt
    torch.testing.assert_close(weighting.alpha(x, 0.3, doubt), expected)
    assert expected[2] == pytest.approx(0.95) and plain[2] < 0.05
    task, distill = torch.rand(4), torch.rand(4)
    weighted = weighting(task, distill, x, 0.3, doubt)
    torch.testing.assert_close(weighted.loss, (1 - expected) * task + expected * distill)
    # The teacher alone counts, if that is what one wants.
    weighting.guard = 1.0
    assert weighting.alpha(torch.tensor([9.0]), 0.0, torch.ones(1)).item() == 1.0


@pytest.mark.parametrize("scale", ["linear", "rank"])
def test_threshold_and_k_come_from_transcripts_that_are_trusted(scale):
    x = torch.cat([skewed(), torch.full((80,), 6.0, dtype=torch.float64)])
    doubt = torch.cat([torch.zeros(400), torch.full((80,), 0.9)]).double()
    weighting, clean = AdaKD(guard=0.9, scale=scale), fitted(scale=scale)
    weighting.fit(x, doubt)
    assert (weighting.t, weighting.k_start) == (clean.t, clean.k_start)
    summary = weighting.summary()
    assert summary["doubted"] == pytest.approx(80 / 480)
    assert summary["doubt_mean"] == pytest.approx(0.9 * 80 / 480)
    assert summary["start"]["max"] == pytest.approx(
        weighting.alpha(x, 0.0, doubt).max().item(), abs=1e-6
    )
    fresh = AdaKD(guard=0.9, scale=scale)
    fresh.load_state_dict(weighting.state_dict())
    assert fresh.summary() == summary
    weighting.load_state_dict(AdaKD(guard=0.9, scale=scale).state_dict())  # it knows no more
    with pytest.raises(UserError, match="does not know its threshold"):
        weighting.alpha(x, 0.0, doubt)


def test_a_guard_needs_doubts_and_says_so():
    one = torch.ones(3)
    for weighting in (AdaKD(1.0, 1.0, guard=0.9), FixedWeight(guard="drop")):
        with pytest.raises(UserError, match="needs `doubt`, one value per utterance"):
            weighting(one, one, one, 0.0)
        with pytest.raises(UserError, match=r"`doubt` of shape \(2,\): both need one value"):
            weighting(one, one, one, 0.0, torch.zeros(2))
        with pytest.raises(UserError, match="has a guard and cannot be fitted without `doubts`"):
            weighting.fit([0.1, 0.2])
    with pytest.raises(UserError, match=r"difficulties of shape \(1, 2\)"):
        AdaKD().fit([[0.1, 0.2]])
    with pytest.raises(UserError, match="to 2 difficulties and 3 doubts"):
        AdaKD(guard=0.9).fit([0.1, 0.2], [0.0, 0.0, 0.0])
    for doubt in (1.2, -0.2):
        with pytest.raises(UserError, match="probability"):
            AdaKD(guard=0.9).fit([0.1, 0.3], [0.2, doubt])
    with pytest.raises(UserError, match="all 2 transcripts"):
        AdaKD(guard=0.9).fit([0.1, 0.3], [0.9, 0.8])
    with pytest.raises(UserError, match="1 of 2 doubts"):
        AdaKD(guard=0.9).fit([0.1, 0.3], [math.nan, 0.8])


def test_a_transcript_as_likely_right_as_wrong_is_trusted():
    kept, dropped = AdaKD(k=1.0, guard=0.9), AdaKD(k=1.0, guard="drop")
    for weighting in (kept, dropped):
        weighting.fit([1.0, 3.0, 8.0], [0.0, 0.5, 0.6])
        assert weighting.t == 2.0 and weighting.summary()["doubted"] == pytest.approx(1 / 3)
    lowest = AdaKD(2.0, 1.0).alpha(torch.tensor([3.0]), 0.0).item()
    assert dropped.summary()["start"]["min"] == pytest.approx(lowest)


def test_kd_has_the_same_guard():
    task, distill, doubt = torch.rand(4), torch.rand(4), torch.tensor([0.0, 0.5, 1.0, 0.2])
    weighted = FixedWeight(0.1, guard=0.95)(task, distill, None, 0.3, doubt)
    alpha = torch.tensor([0.1, 0.525, 0.95, 0.27])
    torch.testing.assert_close(weighted.distill_weight, alpha)
    torch.testing.assert_close(weighted.loss, (1 - alpha) * task + alpha * distill)
    # AdaKD whose weights do not differ is KD.
    adaptive = AdaKD(threshold=1.0, k=0.0, alpha=0.1, guard=0.95)
    like = adaptive(task, distill, torch.rand(4), 0.3, doubt)
    torch.testing.assert_close(weighted.loss, like.loss)
    plain = FixedWeight(0.1)
    assert not plain.uses_doubt and "doubted" not in plain.state_dict()


def test_kd_with_a_guard_learns_how_many_it_takes_for_wrong():
    weighting = FixedWeight(guard=0.95)
    weighting.fit([0.1, 0.3, 5.0, 6.0], [0.0, 0.2, 1.0, 0.8])
    summary = weighting.summary()
    start, end = summary.pop("start"), summary.pop("end")
    told = {"alpha": 0.5, "guard": 0.95, "doubt_mean": 0.5, "doubted": 0.5}
    assert summary == pytest.approx(told)
    assert start == end and start["max"] == pytest.approx(0.95)
    assert (start["min"], start["mean"]) == pytest.approx((0.5, 0.5 + 0.45 * 0.5))
    fresh = FixedWeight(guard=0.95)
    fresh.load_state_dict(weighting.state_dict())
    assert fresh.summary() == weighting.summary()
    with pytest.raises(UserError, match="FixedWeight cannot be fitted: the guard takes all 1 "):
        weighting.fit([0.1], [0.9])


def test_the_guard_drop_leaves_doubtful_utterances_out():
    task, distill = torch.rand(4, requires_grad=True), torch.rand(4)
    doubt = torch.tensor([0.0, 0.5, 1.0, 0.2])
    x = torch.rand(4)
    for kept, plain in (
        (FixedWeight(0.1, guard="drop"), FixedWeight(0.1)),
        (AdaKD(0.5, 2.0, guard="drop"), AdaKD(0.5, 2.0)),
    ):
        expected = plain(task, distill, x, 0.3)
        weighted = kept(task, distill, x, 0.3, doubt)
        for found, whole in zip(weighted, expected, strict=True):
            torch.testing.assert_close(found, whole * torch.tensor([1.0, 0.5, 0.0, 0.8]))
    # With no weight on the teacher: fine-tuning on the transcripts that are taken for right.
    filtered = FixedWeight(0.0, guard="drop")(task, None, None, 0.0, doubt.round()).loss.sum()
    torch.testing.assert_close(filtered, FineTune()(task[[0, 1, 3]], None, None, 0.0).loss.sum())
    (gradient,) = torch.autograd.grad(filtered, task)
    assert gradient.tolist() == [1.0, 1.0, 0.0, 1.0]
    kept = FixedWeight(0.1, guard="drop")
    kept.fit([0.1, 5.0], [0.0, 1.0])
    summary = kept.summary()
    assert (summary["guard"], summary["doubted"]) == ("drop", 0.5)
    assert summary["start"]["max"] == pytest.approx(0.1)
    adaptive, clean = AdaKD(guard="drop"), fitted()
    wrong = torch.full((80,), 6.0, dtype=torch.float64)
    adaptive.fit(torch.cat([skewed(), wrong]), [0.0] * 400 + [1.0] * 80)
    assert adaptive.summary()["start"] == clean.summary()["start"], "of what is kept"


@pytest.mark.parametrize("make", [FixedWeight, SuperLoss, FocalLoss])
def test_a_distillation_loss_without_weight_is_not_asked_for(make):
    task, distill = torch.rand(2, 5)
    told, untold = make(alpha=0.0), make(alpha=0.0)
    assert not untold.uses_distill and not untold.wants_distill(0.5)
    told.step_done(task, distill)
    untold.step_done(task, None)
    expected = told(task, distill, None, 0.0)
    for found, whole in zip(untold(task, None, None, 0.0), expected, strict=True):
        torch.testing.assert_close(found, whole, rtol=0, atol=0)
    assert make(alpha=0.1).wants_distill(0.5)
    assert FixedWeight(0.0, guard=0.95).wants_distill(0.5), "where a transcript is in doubt"


# ---- SuperLoss -----------------------------------------------------------------------------------


def test_lambert_w_is_scipys():
    y = np.concatenate(
        [
            -np.exp(-1) + np.logspace(-15, -1, 300),
            np.linspace(-0.36, 5, 300),
            np.logspace(0, 300, 300),
        ]
    )
    ours, truth = lambert_w(torch.from_numpy(y)).numpy(), scipy.special.lambertw(y).real
    # Towards the branch point a rounding of y by 1e-16 moves w by more and more, 3e-8 in the end.
    near, p = y < -0.367, np.sqrt(2 * (1 + math.e * y.clip(max=0)))
    np.testing.assert_array_less(abs(ours - truth)[near], (1e-15 / p + 1e-15)[near])
    np.testing.assert_allclose(ours[y >= -0.367], truth[y >= -0.367], rtol=1e-12, atol=1e-15)


def test_lambert_w_at_and_below_the_branch_point_is_minus_one():
    """Where SciPy gives NaN."""
    y = torch.tensor([-math.exp(-1), -2 / math.e / 2, -0.4, -5.0], dtype=torch.float64)
    assert lambert_w(y).tolist() == pytest.approx([-1.0] * 4, abs=3e-8)
    assert lambert_w(torch.zeros(1)).item() == pytest.approx(0.0, abs=1e-15)


def superloss(tau: float, **options) -> SuperLoss:
    weighting = SuperLoss(**options)
    weighting.tau.fill_(tau)
    return weighting


LOSSES = [0.0, 1e-4, 0.3, 0.9, 1.0, 1.1, 2.0, 7.0, 40.0, 1000.0]


@pytest.mark.parametrize("regularisation", [0.25, 1.0, 10.0])
def test_superloss_is_the_least_over_s_of_its_formula(regularisation):
    """The definition by a search over s, without the closed form."""
    tau = 1.0
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    weighting = superloss(tau, alpha=0.0, regularisation=regularisation).double()
    weighted = weighting(losses, torch.zeros_like(losses), None, 0.0)
    for loss, found, s in zip(
        losses.tolist(), weighted.loss.tolist(), weighted.task_weight.tolist(), strict=True
    ):
        excess = max(loss - tau, -2 * regularisation / math.e)  # below, there is no least
        best = scipy.optimize.minimize_scalar(
            lambda u, e=excess: e * math.exp(u) + regularisation * u * u,
            bounds=(-12, 1.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert math.log(s) == pytest.approx(best.x, abs=1e-4)
        expected = (loss - tau) * s + regularisation * math.log(s) ** 2
        assert found == pytest.approx(expected, rel=1e-9)


def test_superloss_uses_scipys_s():
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    weighted = superloss(1.0, alpha=0.0, regularisation=0.5).double()(losses, losses, None, 0.0)
    y = np.maximum(-2 / math.e + 1e-12, (losses.numpy() - 1.0) / 0.5) / 2
    s = np.exp(-scipy.special.lambertw(y).real)
    np.testing.assert_allclose(weighted.task_weight.numpy(), s, rtol=1e-5)
    assert weighted.task_weight[0].item() == pytest.approx(math.e, rel=1e-6), "the clamp"
    assert weighted.task_weight[4].item() == pytest.approx(1.0), "at tau"


def test_superloss_with_a_large_lambda_has_the_gradient_of_the_plain_loss():
    task, distill = (torch.rand(9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = superloss(0.4, alpha=0.3, regularisation=1e9)(task, distill, None, 0.0)
    plain = FixedWeight(0.3)(task, distill, None, 0.0)
    for mine, theirs in zip(
        torch.autograd.grad(ours.loss.sum(), [task, distill]),
        torch.autograd.grad(plain.loss.sum(), [task, distill]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(ours.loss, plain.loss - 0.4)


def test_superloss_weighs_the_mixture():
    task, distill = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])
    weighted = superloss(2.0, alpha=0.25)(task, distill, None, 0.0)
    alone = superloss(2.0, alpha=0.0)(0.75 * task + 0.25 * distill, distill, None, 0.0)
    torch.testing.assert_close(weighted.loss, alone.loss)
    torch.testing.assert_close(weighted.task_weight, 0.75 * alone.task_weight)
    torch.testing.assert_close(weighted.distill_weight, 0.25 * alone.task_weight)


def test_the_running_mean_moves_once_a_step_and_stands_still_in_eval_mode():
    weighting = SuperLoss(alpha=0.5)
    task, distill = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0, 5.0])
    assert weighting.logged(0.0) == {"tau": None}
    # In the first step nothing is known of the others: all count alike.
    first = weighting(task, distill, None, 0.0)
    assert first.task_weight.tolist() == first.distill_weight.tolist() == [0.5] * 3
    assert weighting.tau.isnan(), "weighing alone moves nothing"
    weighting.step_done(task, distill)
    assert weighting.tau.item() == pytest.approx(3.0)
    weighting(task, distill, None, 0.0)
    weighting.step_done(task + 2, distill + 2)
    assert weighting.logged(0.0)["tau"] == pytest.approx(0.9 * 3.0 + 0.1 * 5.0)
    weighting.eval()
    weighting.step_done(task + 9, distill + 9)
    assert weighting.tau.item() == pytest.approx(3.2)
    # A step that the optimiser skips teaches nothing.
    weighting.train()
    for broken in (math.nan, math.inf):
        weighting.step_done(task * broken, distill)
    weighting.step_done(task[:0], distill[:0])
    assert weighting.tau.item() == pytest.approx(3.2)
    fresh = SuperLoss(alpha=0.5)
    fresh.load_state_dict(weighting.state_dict())
    assert torch.equal(fresh(task, distill, None, 0.0).loss, weighting(task, distill, None, 0).loss)
    assert fresh.summary() == {"alpha": 0.5, "regularisation": 1.0, "tau": pytest.approx(3.2)}


# ---- Focal loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_and_its_slope_are_the_closed_form(gamma):
    losses = torch.tensor([1e-6, 0.01, 0.5, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    weighted = FocalLoss(alpha=0.0, gamma=gamma)(losses, losses.detach(), None, 0.0)
    (slope,) = torch.autograd.grad(weighted.loss.sum(), losses)
    for loss, found, steep in zip(
        losses.tolist(), weighted.loss.tolist(), slope.tolist(), strict=True
    ):
        p = math.exp(-loss)
        rest = -math.expm1(-loss)
        assert found == pytest.approx(rest**gamma * loss)
        assert steep == pytest.approx(rest**gamma + gamma * rest ** (gamma - 1) * p * loss)


def test_focal_loss_at_gamma_0_is_the_plain_loss_and_at_gamma_1_of_cross_entropy_lins():
    task, distill = torch.rand(5, requires_grad=True), torch.rand(5)
    plain, focal = FixedWeight(0.4), FocalLoss(alpha=0.4, gamma=0.0)
    for ours, theirs in zip(
        focal(task, distill, None, 0.0), plain(task, distill, None, 0.0), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    p = torch.tensor([0.1, 0.5, 0.99])
    found = FocalLoss(alpha=0.0, gamma=1.0)(-p.log(), p, None, 0.0).loss
    torch.testing.assert_close(found, -(1 - p) * p.log())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_survives_a_loss_of_zero_and_below(gamma):
    losses = torch.tensor([0.0, -1e-7, 200.0], requires_grad=True)
    weighted = FocalLoss(alpha=0.0, gamma=gamma)(losses, losses.detach(), None, 0.0)
    (slope,) = torch.autograd.grad(weighted.loss.sum(), losses)
    assert weighted.loss.isfinite().all() and slope.isfinite().all()
    assert slope[2].item() == pytest.approx(1.0)


def test_focal_loss_weighs_the_mixture():
    task, distill = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])
    weighted = FocalLoss(alpha=0.25)(task, distill, None, 0.0)
    factor = (1 - torch.exp(-0.75 * task - 0.25 * distill)) ** 2
    torch.testing.assert_close(weighted.loss, factor * (0.75 * task + 0.25 * distill))
    torch.testing.assert_close(weighted.task_weight, factor * 0.75)
    torch.testing.assert_close(weighted.distill_weight, factor * 0.25)


# ---- Annealing KD --------------------------------------------------------------------------------


def test_annealing_is_the_teacher_alone_and_then_the_transcript_alone():
    weighting = AnnealingKD(first_phase=0.5)
    task, distill = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])
    first, second = weighting(task, distill, None, 0.49), weighting(task, None, None, 0.5)
    assert torch.equal(first.loss, distill) and torch.equal(second.loss, task)
    assert first.distill_weight.tolist() == second.task_weight.tolist() == [1.0, 1.0]
    assert first.task_weight.tolist() == second.distill_weight.tolist() == [0.0, 0.0]
    assert weighting.wants_distill(0.49) and not weighting.wants_distill(0.5)
    with pytest.raises(UserError, match="needs `distill`"):
        weighting(task, None, None, 0.2)
    # An impossible transcript does not reach the first phase.
    assert weighting(task * math.inf, distill, None, 0.2).loss.isfinite().all()


@pytest.mark.parametrize(("steps", "boundary", "highest"), [(31, 20, 10), (301, 210, 7), (9, 3, 3)])
def test_the_temperature_falls_in_equal_stages_to_one(steps, boundary, highest):
    weighting = AnnealingKD(max_temperature=highest)
    weighting.restart_at = boundary / (steps - 1)
    temperatures = [weighting.temperature(step / (steps - 1)) for step in range(steps)]
    length = boundary // highest
    stages = [highest - step // length for step in range(boundary)]
    assert temperatures == stages + [1] * (steps - boundary)
    phases = [weighting.logged(step / (steps - 1))["phase"] for step in range(steps)]
    assert phases == [1] * boundary + [2] * (steps - boundary)


def test_phi_rises_from_one_part_to_the_whole():
    weighting = AnnealingKD(max_temperature=4, first_phase=0.8)
    scales = [weighting.logits_scale(progress) for progress in (0.0, 0.2, 0.4, 0.6, 0.79)]
    assert scales == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert AnnealingKD(max_temperature=1).logits_scale(0.0) == 1.0
    assert FixedWeight().logits_scale(0.0) is None
    assert AnnealingKD().summary() == {"max_temperature": 10, "restart_at": pytest.approx(2 / 3)}


# ---- All -----------------------------------------------------------------------------------------


def test_summary_gives_the_real_range_of_alpha():
    x = torch.linspace(0, 10, 1001)
    weighting = AdaKD(threshold="p50", k=1.0, k_end=0.0)
    weighting.fit(x)
    summary = weighting.summary()
    assert (summary["t"], summary["k_start"], summary["k_end"]) == (5.0, 1.0, 0.0)
    start = summary["start"]
    alphas = [closed_form(value, 5.0, 1.0) for value in x.tolist()]
    expected = {"min": alphas[-1], "p10": alphas[900], "p90": alphas[100], "max": alphas[0]}
    assert start == pytest.approx(expected | {"mean": sum(alphas) / len(alphas)}, abs=1e-6)
    assert summary["end"] == pytest.approx(dict.fromkeys(start, INVERSE_E))
    json.dumps(summary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_difficulty_is_kd_with_that_alpha_to_the_bit(dtype):
    generator = torch.Generator().manual_seed(2)
    task, distill = (torch.rand(257, generator=generator).to(dtype) * 9 for _ in range(2))
    task.requires_grad_(), distill.requires_grad_()
    for x, progress in product([0.0, 0.03, 0.7, 1.1, 5.0], [0.0, 0.37, 1.0]):
        adaptive = AdaKD(threshold=0.6, k=3.0)
        difficulty = torch.full((257,), x)
        alpha = adaptive.alpha(difficulty, progress)[0].item()
        ours = adaptive(task, distill, difficulty, progress)
        plain = FixedWeight(alpha)(task, distill, None, progress)
        for mine, theirs in zip(ours, plain, strict=True):
            assert torch.equal(mine, theirs)
        for mine, theirs in zip(
            torch.autograd.grad(ours.loss.sum(), [task, distill]),
            torch.autograd.grad(plain.loss.sum(), [task, distill]),
            strict=True,
        ):
            assert torch.equal(mine, theirs)


def test_the_loss_is_the_mixture_and_the_weights_add_up():
    task, distill = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 8.0, 16.0])
    difficulty = torch.tensor([0.1, 0.5, 2.0])
    weighted = AdaKD(threshold=0.5, k=2.0)(task, distill, difficulty, 0.5)
    alpha = torch.tensor([closed_form(x, 0.5, 1.0) for x in (0.1, 0.5, 2.0)])
    torch.testing.assert_close(weighted.loss, (1 - alpha) * task + alpha * distill)
    torch.testing.assert_close(weighted.distill_weight, alpha)
    torch.testing.assert_close(weighted.task_weight + weighted.distill_weight, torch.ones(3))


def test_finetune_is_the_task_loss_and_needs_no_teacher():
    task = torch.tensor([1.0, 2.0])
    weighted = FineTune()(task, None, None, 0.0)
    assert torch.equal(weighted.loss, task)
    assert weighted.task_weight.tolist() == [1.0, 1.0]
    assert weighted.distill_weight.tolist() == [0.0, 0.0]


def test_low_precision_losses_are_weighed_in_float32():
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    for weighting in (
        *(FineTune(), FixedWeight(), AdaKD(threshold=0.5, k=2.0)),
        *(superloss(0.7), FocalLoss(), AnnealingKD()),
    ):
        assert {each.dtype for each in weighting(half, half, half, 0.0)} == {torch.float32}


def test_gradient_of_the_total_against_finite_differences():
    """The student's parameters move both losses; the difficulty, though it could, moves nothing."""
    generator = torch.Generator().manual_seed(3)
    parameters = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    features = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    difficulty = torch.rand(6, generator=generator, dtype=torch.float64)

    # SuperLoss with its running mean held; no s is differentiated, being at its minimum.
    for weighting in (
        *(FineTune(), FixedWeight(0.3), AdaKD(threshold=0.5, k=5.0, k_end=1.0)),
        *(superloss(1.3, alpha=0.3).double(), superloss(1.3, regularisation=0.25).double()),
        *(FocalLoss(0.3), FocalLoss(0.3, gamma=0.7)),
        *(AnnealingKD(first_phase=0.9), AnnealingKD(first_phase=0.2)),
    ):

        def total(values, weighting=weighting):
            task, distill = (features @ values).exp(), (features @ values - 1).square()
            return weighting(task, distill, difficulty, 0.4).loss.sum()

        assert torch.autograd.gradcheck(total, [parameters])


def test_no_gradient_flows_through_alpha():
    task, distill, difficulty = (torch.rand(3, requires_grad=True) for _ in range(3))
    weighted = AdaKD(threshold=0.5, k=2.0)(task, distill, difficulty, 0.2)
    weighted.loss.sum().backward()
    assert difficulty.grad is None
    assert not weighted.distill_weight.requires_grad and not weighted.task_weight.requires_grad


def test_a_checkpoint_carries_what_fit_learnt():
    fitted, fresh = AdaKD(), AdaKD()
    x = torch.linspace(0, 1, 50).square()
    fitted.fit(x)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh.alpha(x, 0.3), fitted.alpha(x, 0.3))
    assert fresh.summary() == fitted.summary()


def test_k_auto_without_a_solution_is_a_sentence():
    for x in ([0.1] * 3, [0.1] * 1000, [0.0] * 99 + [50.0]):
        with pytest.raises(UserError, match="set k or threshold by hand"):
            AdaKD().fit(x)
    AdaKD(k=2.0).fit([0.1] * 3)  # a given k needs no spread


def test_difficulties_must_be_finite_and_some():
    with pytest.raises(UserError, match="2 of 4 difficulties"):
        AdaKD().fit([0.1, math.inf, math.nan, 0.2])
    with pytest.raises(UserError, match="empty"):
        AdaKD().fit([])


def test_use_before_fit_is_a_sentence():
    one = torch.ones(1)
    with pytest.raises(UserError, match=r"call fit\(\)"):
        AdaKD()(one, one, one, 0.0)
    with pytest.raises(UserError, match=r"after fit\(\)"):
        AdaKD(threshold=1.0, k=1.0).summary()


@pytest.mark.parametrize(
    ("weighting", "arguments", "message"),
    [
        (FixedWeight(), (torch.ones(2), None, None, 0.0), "needs `distill`"),
        (AdaKD(1.0, 1.0), (torch.ones(2), torch.ones(2), None, 0.0), "needs `difficulty`"),
        (FixedWeight(), (torch.ones(2), torch.ones(1), None, 0.0), r"shape \(1,\)"),
        (FineTune(), (torch.tensor(1.0), None, None, 0.0), "do not average"),
        (FineTune(), (torch.ones(2), None, None, 1.5), "progress 1.5"),
        (FineTune(), (torch.ones(2), None, None, -0.1), "progress -0.1"),
    ],
)
def test_missing_or_misshapen_input_is_a_sentence(weighting, arguments, message):
    with pytest.raises(UserError, match=message):
        weighting(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adakdd", {}, "did you mean 'adakd'"),
        ("adakd", {"treshold": "mean"}, "did you mean 'threshold'"),
        ("finetune", {"alpha": 0.5}, "there are none"),
        ("kd", {"alpha": "half"}, "alpha is 'half'"),
        ("kd", {"alpha": 1.5}, "alpha is 1.5"),
        ("adakd", {"threshold": "p30"}, "p25, p50, p75"),
        ("adakd", {"k": "automatic"}, "auto or a number"),
        ("adakd", {"k": True}, "auto or a number"),
        ("adakd", {"k_end": math.nan}, "methods.adakd: k_end is nan"),
        ("adakd", {"k_end": "mirrored"}, "mirror or a number"),
        ("adakd", {"scale": "logarithm"}, "linear, log, rank"),
        ("adakd", {"control": True}, "permuted, inverted"),
        ("adakd", {"guard": 1.5}, "guard is 1.5"),
        ("kd", {"guard": -0.1}, "methods.kd: guard is -0.1"),
        ("superloss", {"guard": 0.9}, "has no option 'guard'"),
        ("adakd", {"guard": True}, "guard is True"),
        ("kd", {"guard": "dropped"}, "guard is 'dropped': it must be a number, \"drop\", or left"),
        ("superloss", {"alpha": -0.1}, "alpha is -0.1"),
        ("superloss", {"regularisation": 0}, "regularisation is 0"),
        ("superloss", {"lambda": 1}, "has no option 'lambda'"),
        ("focal", {"gamma": -1}, "gamma is -1"),
        ("focal", {"gamma": "two"}, "gamma is 'two'"),
        ("annealing", {"max_temperature": 2.5}, "whole number"),
        ("annealing", {"max_temperature": 0}, "whole number"),
        ("annealing", {"first_phase": 1.0}, "between 0 and 1"),
        ("annealing", {"first_phase": 0}, "between 0 and 1"),
    ],
)
def test_unknown_or_ill_typed_configuration_is_a_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, options)


def test_methods_are_built_by_name():
    assert {name: type(build(name)) for name in METHODS} == METHODS
    uses = {name: method.uses_difficulty for name, method in METHODS.items()}
    told = {name: method.uses_difficulty for name, method in methods.METHODS.items()}
    assert uses == told, "adakd/methods.py and adakd/weighting.py differ (docs/extending.md)"
    assert [*METHODS] == [*methods.METHODS], "their order is that of the tables"
    assert build("kd", {"alpha": 0.9}).summary() == {"alpha": 0.9}
    adaptive = build("adakd", {"threshold": 2, "k": 3})
    assert isinstance(adaptive, AdaKD) and adaptive.k_at(0.0).item() == 3.0


def test_what_a_weighting_returns_is_a_value_per_utterance():
    class Own(FineTune):
        def weigh(self, task, distill, difficulty, progress, doubt):
            return self.made(task)

    own, task = Own(), torch.rand(4)
    for made in (
        lambda task: Weighted(task.mean(), task, task),
        lambda task: Weighted(task, task[:, None], task),
        lambda task: Weighted(task, task, torch.tensor(0.0)),
        lambda task: Weighted(task, 0.5, 0.5),
        lambda task: Weighted(task, task, None),
        lambda task: task,
    ):
        own.made = made
        with pytest.raises(TypeError, match=r"Own.weigh must return .*, of shape \(4,\)"):
            own(task, None, None, 0.0)
    own.made = lambda task: Weighted(task, task, task)
    assert own(task, None, None, 0.0).loss is task
    with pytest.raises(NotImplementedError, match="Bare lacks `weigh`"):
        type("Bare", (Weighting,), {"uses_distill": False})()(task, None, None, 0.0)


def test_one_of_the_two_losses_counts_in_each_phase_of_annealing():
    weighting = AnnealingKD(first_phase=0.5)
    for progress, task, distill in ((0.0, False, True), (0.49, False, True), (0.5, True, False)):
        assert weighting.wants_task(progress) is task
        assert weighting.wants_distill(progress) is distill
    assert all(build(name).wants_task(0.0) for name in METHODS if name != "annealing")


def test_weighting_and_objectives_import_torch_alone():
    code = (
        "import sys, adakd.weighting, adakd.objectives\n"
        "heavy = {'speechbrain', 'transformers', 'torchaudio', 'scipy', 'matplotlib', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted(name for name in sys.modules if name.startswith('adakd')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, ours = done.stdout.splitlines()
    assert heavy == "[]"
    assert ours == "['adakd', 'adakd.errors', 'adakd.objectives', 'adakd.weighting']"


@pytest.mark.parametrize("control", ["permuted", "inverted"])
def test_a_doubted_transcript_may_be_harder_than_all_that_are_trusted(control):
    x = torch.cat([torch.linspace(0.1, 1.0, 50), torch.tensor([9.0])])
    doubt = torch.tensor([0.0] * 50 + [1.0])
    weighting = AdaKD(guard=0.9, control=control)
    weighting.fit(x, doubt)
    weighted = weighting(torch.ones(1), torch.ones(1), x[-1:], 0.0, doubt[-1:])
    assert weighted.distill_weight.item() == pytest.approx(0.9)
