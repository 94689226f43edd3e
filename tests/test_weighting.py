"""The weighting module against the closed form, finite differences and plain KD."""

import json
import math
import subprocess
import sys
from itertools import product

import pytest
import torch

from adakd.errors import UserError
from adakd.weighting import METHODS, AdaKD, FineTune, FixedWeight, adaptive_alpha, build

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
    for weighting in (FineTune(), FixedWeight(), AdaKD(threshold=0.5, k=2.0)):
        assert {each.dtype for each in weighting(half, half, half, 0.0)} == {torch.float32}


def test_gradient_of_the_total_against_finite_differences():
    """The student's parameters move both losses; the difficulty, though it could, moves nothing."""
    generator = torch.Generator().manual_seed(3)
    parameters = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    features = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    difficulty = torch.rand(6, generator=generator, dtype=torch.float64)

    for weighting in (FineTune(), FixedWeight(0.3), AdaKD(threshold=0.5, k=5.0, k_end=1.0)):

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
    ],
)
def test_missing_or_misshapen_input_is_a_sentence(weighting, arguments, message):
    with pytest.raises(UserError, match=message):
        weighting(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adakdd", {}, "Did you mean 'adakd'"),
        ("adakd", {"treshold": "mean"}, "Did you mean 'threshold'"),
        ("finetune", {"alpha": 0.5}, "It has none"),
        ("kd", {"alpha": "half"}, "alpha is 'half'"),
        ("kd", {"alpha": 1.5}, "alpha is 1.5"),
        ("adakd", {"threshold": "p30"}, "p25, p50, p75"),
        ("adakd", {"k": "automatic"}, "auto or a number"),
        ("adakd", {"k": True}, "auto or a number"),
        ("adakd", {"k_end": math.nan}, "k_end is nan"),
    ],
)
def test_unknown_or_ill_typed_configuration_is_a_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, options)


def test_methods_are_built_by_name():
    assert {name: type(build(name)) for name in METHODS} == METHODS
    assert build("kd", {"alpha": 0.9}).summary() == {"alpha": 0.9}
    adaptive = build("adakd", {"threshold": 2, "k": 3})
    assert isinstance(adaptive, AdaKD) and adaptive.k_at(0.0).item() == 3.0


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
