"""Losses and measures of attention against regions: known values, longhand loops, gradients."""

import math

import numpy as np
import pytest
import torch

from train.losses import FORMS, measure

CELLS = 576
PEAK = 9.0
"""Logit of the one strong cell."""

UNIFORM = {"literal": 0.997, "area": 0.931, "max": 0.870, "squared": 0.870, "mass": 2.667}
PERFECT = {"literal": 0.951, "area": 0.0, "max": 0.0, "squared": 0.0, "mass": 0.0}
INSIDE = {"literal": 0.954, "area": 0.946, "max": 0.951, "squared": 0.948, "mass": 0.064}
OUTSIDE = {"literal": 1.0, "area": 0.992, "max": 1.0, "squared": 1.0, "mass": 5.38}
LARGE = {"literal": 0.997, "area": 0.653, "max": 0.485, "squared": 0.484, "mass": 1.058}
STEEPNESS = {"literal": 0.006, "area": 0.129, "max": 0.242, "squared": 0.242, "mass": 1.86}
"""Sum of |gradient| of uniform attention's logits, 40 cells."""


def region(area: int) -> torch.Tensor:
    return (torch.arange(CELLS) < area).float()[None]


def peaked(cell: int) -> torch.Tensor:
    logits = torch.zeros(1, CELLS)
    logits[0, cell] = PEAK
    return logits.softmax(-1)


@pytest.mark.parametrize("form", FORMS)
def test_known_values(form):
    uniform, m = torch.full((1, CELLS), 1 / CELLS), region(40)
    loss = FORMS[form]
    assert loss(uniform, m).item() == pytest.approx(UNIFORM[form], abs=1e-3)
    assert loss(m / 40, m).item() == pytest.approx(PERFECT[form], abs=1e-3)
    assert loss(peaked(3), m).item() == pytest.approx(INSIDE[form], abs=1e-3)
    assert loss(peaked(300), m).item() == pytest.approx(OUTSIDE[form], abs=2e-3)
    assert loss(uniform, region(200)).item() == pytest.approx(LARGE[form], abs=1e-3)
    assert loss(region(4) / 4, region(4)).item() == pytest.approx(0.6 if form == "literal" else 0.0, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_steepness_of_uniform_attention(form):
    logits = torch.zeros(1, CELLS, requires_grad=True)
    p = logits.softmax(-1)
    if form == "max":
        # At exact ties the maximum's gradient is shared; the published number is that of one winner.
        p = (logits + 1e-7 * torch.randn(1, CELLS)).softmax(-1)
    FORMS[form](p, region(40)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum().item() == pytest.approx(STEEPNESS[form], rel=0.15)


def longhand(form: str, p: list[float], m: list[float]) -> float:
    """One row by loops over cells in double precision."""
    area, top, most = sum(m), max(p), max(m)
    if form == "mass":
        return -math.log(sum(x * y / most for x, y in zip(p, m, strict=True)))
    if form == "squared":
        t = [y / area for y in m]
        above = sum(x * y for x, y in zip(p, t, strict=True))
        return 1 - 2 * above / (sum(x * x for x in p) + sum(y * y for y in t))
    q = {"literal": p, "area": [min(1.0, area * x) for x in p], "max": [x / top for x in p]}[form]
    above = sum(x * y for x, y in zip(q, m, strict=True))
    return 1 - 2 * above / (sum(q) + area)


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_as_by_hand(form):
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.full(12, 0.3), 7)
    m = draw.random((7, 12)) * (draw.random((7, 12)) < 0.5)
    m[:, 5] += 0.01
    m[3] = 0
    m[3, 2] = 0.2
    found = FORMS[form](torch.tensor(p), torch.tensor(m))
    wanted = [longhand(form, list(p[i]), list(m[i])) for i in range(7)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["uniform", "one cell inside", "one cell outside", "nothing"])
@pytest.mark.parametrize("area", [1, 40, CELLS])
def test_gradients_are_finite(form, attention, area):
    logits = torch.zeros(1, CELLS)
    logits[0, {"one cell inside": 0, "one cell outside": CELLS - 1}.get(attention, 0)] = (
        0 if attention == "uniform" else 80
    )
    logits.requires_grad_()
    p = logits.softmax(-1)
    if attention == "nothing":  # a query that may see nothing at all
        p = p * 0
    loss = FORMS[form](p, region(area) * 0.3).sum()
    loss.backward()
    assert logits.grad is not None
    assert bool(loss.isfinite())
    assert bool(logits.grad.isfinite().all())


def test_only_mass_climbs_out_of_a_sink_outside():
    def steepness(form):
        logits = torch.zeros(1, CELLS)
        logits[0, 300] = PEAK
        logits.requires_grad_()
        FORMS[form](logits.softmax(-1), region(40)).sum().backward()
        return logits.grad.abs().sum().item()

    assert steepness("mass") > 1.9
    assert all(steepness(form) < 0.02 for form in FORMS if form != "mass")


def test_descent_finds_the_region():
    for form in ("area", "squared", "mass", "max"):
        logits = torch.zeros(1, 16, requires_grad=True)
        m = torch.zeros(1, 16)
        m[0, 5:8] = 1
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            FORMS[form](logits.softmax(-1), m).sum().backward()
            optimizer.step()
        assert float((logits.detach().softmax(-1) * m).sum()) > 0.9, form


def test_measures():
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0], [0.1, 0.1, 0.1, 0.1, 0.6]])
    m = torch.tensor([[0.0, 1.0, 0.8, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0, 0.02]])
    shown = torch.tensor([[True, True, True, False, True]] * 2)
    looks = measure(p, m, shown)
    # Cells of the region: 1 and 2, then 4; attention at half its maximum: 0 and 1, then 4.
    assert looks.iou.tolist() == pytest.approx([1 / 3, 1.0])
    assert looks.mass.tolist() == pytest.approx([0.4, 0.6])
    assert looks.pointing.tolist() == [0.0, 1.0]
    assert looks.padding.tolist() == pytest.approx([0.1, 0.1])


def test_no_rows():
    none = torch.zeros(0, 9)
    for form in FORMS.values():
        assert form(none, none).shape == (0,)
    assert measure(none, none, none.bool()).iou.shape == (0,)
