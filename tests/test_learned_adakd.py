"""AdaKD with learned k and t: its formula, its gradient and its updates, against plain versions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adakd.errors import UserError
from adakd.weighting import AdaKD, LearnedAdaKD, build, derivatives_along


def losses_x(count: int = 300) -> torch.Tensor:
    """Difficulties as skewed as a teacher's."""
    return torch.from_numpy(np.random.default_rng(3).lognormal(-3, 1, count)).float()


def fitted(**options: object) -> LearnedAdaKD:
    made = LearnedAdaKD(**options)  # type: ignore[arg-type]
    made.fit(losses_x())
    return made


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_it_starts_as_adakd_does(scale):
    plain = AdaKD(scale=scale)
    plain.fit(losses_x())
    x = losses_x(40)
    for progress in (0.0, 0.6, 1.0):  # there is no schedule
        torch.testing.assert_close(fitted(scale=scale).alpha(x, progress), plain.alpha(x, 0.0))


def test_slope_and_level_are_k_and_t():
    made = fitted()
    made.learned[0] = torch.tensor([0.7, -0.3])
    told = made.logged(0.0)
    same = AdaKD(threshold=told["t"], k=told["k"])
    same.fit(losses_x())
    torch.testing.assert_close(made.alpha(losses_x(40), 0.0), same.alpha(losses_x(40), 0.0))
    made.learned[0, 0] = 0.0  # one alpha for all, whatever the level; t is then nowhere
    assert made.alpha(losses_x(40), 0.0).std() == 0
    assert made.logged(0.0) == {"k": 0.0, "t": None}


def test_the_updates_are_adams_with_the_gradient_of_the_held_out_loss():
    made, generator = fitted(rate=0.1), np.random.default_rng(1)
    k, t = made.k_start.double().item(), made.t.double().item()
    theirs = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=0.0)
    for _ in range(12):
        x, slope = losses_x(300)[generator.integers(300, size=16)], generator.normal(size=16)

        def held_out(values: np.ndarray, x: torch.Tensor = x, slope: np.ndarray = slope) -> float:
            start = k * (x.double().numpy() - t) / 2
            return float(np.mean(np.exp(-np.exp(values[0] * start - values[1])) * slope))

        here = theirs.detach().numpy()
        each = [(held_out(here + bump) - held_out(here - bump)) / 2e-5 for bump in 1e-5 * np.eye(2)]
        theirs.grad = torch.tensor(each, dtype=torch.float64)
        adam.step()
        made.learn(x, torch.from_numpy(slope))
    np.testing.assert_allclose(made.learned[0].numpy(), theirs.detach().numpy(), atol=2e-4)
    assert made.updates == 12
    assert (made.learned[0] - torch.tensor([1.0, 0.0])).abs().min() > 0.05


def _one_of_two(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    made = fitted(rate=0.1)
    for x, slope in _steps():
        half = slice(0, 11) if rank == 0 else slice(11, None)
        # In one step a process has nothing that counts.
        part = half if len(x) > 5 else slice(0, 5 * (1 - rank))
        made.learn(x[part], slope[part])
    torch.save(made.learned, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _steps() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = np.random.default_rng(1)
    sizes = (16, 5, 16)
    return [
        (losses_x(300)[generator.integers(300, size=n)], torch.from_numpy(generator.normal(size=n)))
        for n in sizes
    ]


def test_two_processes_learn_as_one(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)
    alone = fitted(rate=0.1)
    for x, slope in _steps():
        alone.learn(x, slope)
    assert (alone.learned[0] - torch.tensor([1.0, 0.0])).abs().min() > 0.01
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone.learned)


def test_what_says_nothing_changes_nothing():
    made = fitted()
    made.learn(torch.empty(0), torch.empty(0))
    made.learn(losses_x(3), torch.tensor([1.0, math.nan, 1.0]))
    made.eval()
    made.learn(losses_x(3), torch.ones(3))
    assert made.updates == 0 and made.learned.tolist() == [[1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("x", [1.05, 1.09, 1.12])
def test_a_gradient_that_underflows_when_squared_is_one_step_like_others(x):
    """On an utterance so hard that its alpha is 0 but for a trace."""
    made = fitted()
    before = made.learned[0].clone()
    made.learn(torch.tensor([x]), torch.tensor([0.1]))
    assert made.updates == 1
    assert (made.learned[0] - before).abs().max() <= 2.5 * made.rate * 1.001


def test_it_goes_on_from_a_checkpoint():
    made, again = fitted(), LearnedAdaKD()
    made.learn(losses_x(5), torch.linspace(-1, 1, 5))
    again.load_state_dict(made.state_dict())
    for each in (made, again):
        each.learn(losses_x(7), torch.linspace(1, -1, 7))
    assert torch.equal(made.learned, again.learned) and again.updates == 2
    assert made.summary() == again.summary()


def test_the_summary_tells_where_it_has_come_to():
    made = fitted()
    before = made.summary()
    assert before["start"] == pytest.approx(before["end"])
    for _ in range(20):  # all alphas should rise
        made.learn(losses_x(30), -torch.ones(30))
    after = made.summary()
    assert after["start"] == before["start"] and after["updates"] == 20
    assert after["end"]["mean"] > before["end"]["mean"] + 0.1
    truth = made.alpha(losses_x(), 1.0)
    assert after["end"]["min"] == pytest.approx(truth.min().item(), abs=1e-6)
    assert (after["k_end"], after["t_end"]) == tuple(made.logged(1.0).values())


@pytest.mark.parametrize(
    "options", [{"rate": -1.0}, {"every": 0}, {"every": 2.5}, {"held_out": 0.0}, {"held_out": 1.0}]
)
def test_options_that_cannot_work_are_a_sentence(options):
    with pytest.raises(UserError, match=next(iter(options))):
        build("adakd-learned", options)


# ---- derivatives of many losses at once ----------------------------------------------------------


def network() -> torch.nn.Module:
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 1e-2)])
def test_derivatives_along_a_direction_are_the_explicit_inner_products(dtype, tolerance):
    model = network().to(dtype)
    parameters = list(model.parameters())
    inputs, labels = torch.randn(9, 5, dtype=dtype), torch.randint(4, (9,))
    direction = [torch.randn_like(p) for p in parameters]

    def both() -> list[torch.Tensor]:
        logits = model(inputs)
        task = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return [task, logits.square().mean(dim=1)[:3]]

    before = [p.detach().clone() for p in parameters]
    found = derivatives_along(parameters, direction, both)
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    for vector, values in zip(found, both(), strict=True):
        expected = []
        for value in values:
            gradients = torch.autograd.grad(value, parameters, retain_graph=True)
            expected.append(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
        torch.testing.assert_close(vector, torch.stack(expected), rtol=tolerance, atol=tolerance)
    # Its scale is the direction's.
    twice = derivatives_along(parameters, [2 * d for d in direction], both)
    torch.testing.assert_close(twice[0], 2 * found[0], rtol=1e-3, atol=1e-3)


def test_a_direction_of_zero_and_a_failing_loss_leave_the_parameters():
    model = network()
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    zero = [torch.zeros_like(p) for p in parameters]
    (found,) = derivatives_along(parameters, zero, lambda: [model(torch.ones(3, 5)).sum(dim=1)])
    assert found.tolist() == [0, 0, 0]
    with pytest.raises(ZeroDivisionError):
        derivatives_along(parameters, before, lambda: [torch.ones(1) / (1 // 0)])
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_the_teacher_is_trusted_where_transcripts_are_wrong():
    """A regression whose hard half has wrong labels and a good teacher, one SGD step at a time."""
    torch.manual_seed(0)
    truth = torch.randn(6)
    inputs, held = torch.randn(200, 6), torch.randn(100, 6)
    wrong = torch.arange(200) % 2 == 1
    labels = torch.where(wrong, 3 * torch.randn(200), inputs @ truth)
    x = torch.where(wrong, 1.0, 0.1) + 0.01 * torch.rand(200)
    weighting = LearnedAdaKD(rate=0.1)
    weighting.fit(x)
    student = torch.zeros(6, requires_grad=True)
    start = weighting.alpha(x, 0.0)

    def gaps(theta: torch.Tensor, batch: torch.Tensor) -> list[torch.Tensor]:
        said = inputs[batch] @ theta
        return [(said - labels[batch]) ** 2, (said - inputs[batch] @ truth) ** 2]

    for _ in range(60):
        batch = torch.randint(200, (20,))
        (gradient,) = torch.autograd.grad(((held @ (student - truth)) ** 2).mean(), student)
        task, distill = derivatives_along(
            [student], [gradient], lambda at=student, batch=batch: gaps(at, batch)
        )
        weighting.learn(x[batch], -(distill - task))
        losses = weighting(*gaps(student, batch), x[batch], 0.0).loss.mean()
        (step,) = torch.autograd.grad(losses, student)
        student = (student - 0.02 * step).detach().requires_grad_()
    end = weighting.alpha(x, 0.0)
    assert start[wrong].max() < start[~wrong].min(), "AdaKD trusts the transcript where it is hard"
    assert end[wrong].mean() > start[wrong].mean() + 0.3
