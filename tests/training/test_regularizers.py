"""Regularizers on fields whose penalty is known, and R1 against its closed form."""

import math

import pytest
import torch

from training import regularizers

BATCH = 16


class Slope(torch.nn.Module):
    """Density `rise` * z; remembers the points it was asked at and the densities it gave."""

    def __init__(self, rise):
        super().__init__()
        self.rise = torch.nn.Parameter(torch.tensor(float(rise)))

    def forward(self, points):
        self.points, self.densities = points, self.rise * points[..., 2:]
        self.densities.retain_grad()
        return self.densities


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def constant(points):
    return torch.full_like(points[..., :1], 3.0)


# ------------------------------------------------------------------------------------------------ points

def test_random_points():
    """As many as asked for, uniform in the cube of that extent."""
    points = regularizers.random_points(4, 5000, 0.8, "cpu")
    assert points.shape == (4, 5000, 3) and points.abs().max() <= 0.8
    torch.testing.assert_close(points.mean(dim=(0, 1)), torch.zeros(3), atol=0.02, rtol=0)
    # A uniform variable in [-a, a] has deviation a / sqrt(3).
    torch.testing.assert_close(points.std(dim=(0, 1)), torch.full([3], 0.8 / math.sqrt(3)), atol=0.01, rtol=0)


# ------------------------------------------------------------------------------------------------ smoothness

def test_smoothness_of_a_constant_field():
    assert regularizers.smoothness(constant, BATCH, 0.1, 1, "cpu") == 0


@pytest.mark.parametrize("rise, distance", [(2.0, 0.004), (-5.0, 0.1)])
def test_smoothness_of_a_linear_field(rise, distance):
    """Half-normal mean: |rise| * distance * sqrt(2 / pi), to the accuracy of 16,000 draws."""
    loss = regularizers.smoothness(Slope(rise), BATCH, distance, 1, "cpu")
    assert loss.shape == () and loss.item() == pytest.approx(abs(rise) * distance * math.sqrt(2 / math.pi), rel=0.03)


def test_smoothness_asks_pairs_in_the_box():
    """1000 points a sample in the cube, each with a neighbour at a normal distance."""
    field = Slope(1)
    regularizers.smoothness(field, BATCH, 0.01, 0.4, "cpu")
    here, beside = field.points.chunk(2, dim=1)
    assert here.shape == (BATCH, 1000, 3) and here.abs().max() <= 0.4
    assert (beside - here).std().item() == pytest.approx(0.01, rel=0.03)


def test_smoothness_teaches_the_field():
    """The penalty is linear in the field, so its gradient times the field is the penalty."""
    field = Slope(2)
    loss = regularizers.smoothness(field, BATCH, 0.1, 1, "cpu")
    loss.backward()
    assert field.rise.grad.item() * 2 == pytest.approx(loss.item(), rel=1e-4)


# ------------------------------------------------------------------------------------------------ monotonicity

@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("rise", [-2.0, 0.0, 3.0])
def test_monotonicity_of_a_linear_field(rise, detach):
    """Density that falls by rise * step from a point to the one behind costs ten times that; density that rises, nothing."""
    step = 1 / 256
    loss = regularizers.monotonicity(Slope(rise), BATCH, step, 1, "cpu", detach)
    assert loss.shape == () and loss.item() == pytest.approx(10 * max(rise, 0) * step, abs=1e-5)


def test_monotonicity_of_a_constant_field():
    assert regularizers.monotonicity(constant, BATCH, 0.1, 1, "cpu", detach=False) == 0


def test_monotonicity_asks_behind():
    """2000 points a sample, each against the one a step towards -z."""
    field = Slope(1)
    regularizers.monotonicity(field, BATCH, 0.02, 0.4, "cpu", detach=False)
    front, behind = field.points.chunk(2, dim=1)
    assert front.shape == (BATCH, 2000, 3) and front.abs().max() <= 0.4
    torch.testing.assert_close(behind - front, torch.tensor([0, 0, -0.02]).expand_as(front), atol=1e-6, rtol=0)


@pytest.mark.parametrize("detach", [False, True])
def test_who_learns(detach):
    """The density behind is always raised; the one in front is lowered too, unless it is detached."""
    field = Slope(3)
    regularizers.monotonicity(field, BATCH, 0.02, 1, "cpu", detach).backward()
    front, behind = field.densities.grad.chunk(2, dim=1)
    share = 10 / front.numel()  # of each point in the mean
    torch.testing.assert_close(behind, torch.full_like(behind, -share))
    torch.testing.assert_close(front, torch.full_like(front, 0 if detach else share))


# ------------------------------------------------------------------------------------------------ R1

def test_r1_of_a_quadratic():
    """Logits a * |x|^2 + b * |y|^2: the penalty is 4 a^2 |x|^2 + 4 b^2 |y|^2 a sample, and can be differentiated."""
    a, b = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.7, -1.3)]
    x, y = [torch.randn(BATCH, 3, size, size, dtype=torch.float64, requires_grad=True) for size in (4, 2)]
    x_squared, y_squared = [picture.square().sum(dim=(1, 2, 3)) for picture in (x, y)]
    penalty = regularizers.r1_penalty((a * x_squared + b * y_squared)[:, None], [x, y])
    assert penalty.shape == (BATCH,)
    torch.testing.assert_close(penalty, 4 * a**2 * x_squared + 4 * b**2 * y_squared)
    gradients = torch.autograd.grad(penalty.sum(), [a, b])
    torch.testing.assert_close(gradients, (8 * a * x_squared.sum(), 8 * b * y_squared.sum()))


def test_r1_at_one_of_two_pictures():
    """Only the pictures that are named count."""
    x, y = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    logits = (x.square() + 5 * y).sum(dim=(1, 2, 3))[:, None]
    torch.testing.assert_close(regularizers.r1_penalty(logits, [x]), 4 * x.square().sum(dim=(1, 2, 3)))
