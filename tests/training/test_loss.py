"""The objective: what each phase teaches, by how much, and under which poses.

Most tests use networks of one number each, whose losses and gradients can be written down; they record how they were called.
The golden files (tests/test_golden.py) compare the real networks with the original.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from torch_utils import pickles
from training import loss
from training.loss import PHASES, StyleGAN2Loss, blurred

BATCH, SIZE, RAW, LAYERS = 4, 16, 8, 6
RENDERING = dict(density_reg=0.5, density_reg_p_dist=0.1, reg_type="l1", box_warp=2)
END = 10**9  # images seen when every schedule is over


class StubG(torch.nn.Module):
    """Pictures are flat, in the colour of their styles; density falls towards -z."""

    def __init__(self, **rendering):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.rendering_kwargs = dict(RENDERING, **rendering)
        self.conditions, self.calls = [], []

    def mapping(self, z, c, truncation_psi=1, truncation_cutoff=None, update_emas=False):
        self.conditions.append(c.clone())
        self.calls.append(("mapping", update_emas))
        return (self.weight * z[:, :3])[:, None].repeat(1, LAYERS, 1)

    def synthesis(self, ws, c, neural_rendering_resolution=None, update_emas=False):
        self.ws = ws
        self.calls.append(("synthesis", update_emas))
        colour = ws.mean(dim=1)[:, :, None, None]
        raw = neural_rendering_resolution
        return dict(image=colour.expand(-1, -1, SIZE, SIZE), image_raw=colour.expand(-1, -1, raw, raw), image_depth=None)

    def sample_mixed(self, coordinates, directions, ws, update_emas=False):
        self.ws, self.points = ws, coordinates
        self.calls.append(("sample_mixed", update_emas))
        return dict(sigma=coordinates[..., 2:] * self.weight, rgb=None)


class StubD(torch.nn.Module):
    """The logit is the weighted mean of both pictures."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))
        self.seen, self.conditions, self.calls = [], [], []

    def forward(self, img, c, update_emas=False):
        self.seen.append({key: picture.detach().clone() for key, picture in img.items()})
        self.conditions.append(c.clone())
        self.calls.append(update_emas)
        return self.weight * (img["image"].mean(dim=(1, 2, 3)) + img["image_raw"].mean(dim=(1, 2, 3)))[:, None]


class Pipe(torch.nn.Module):
    """An augmentation that triples."""

    def forward(self, pictures):
        self.seen = pictures
        return pictures * 3


def labels(batch=BATCH):
    return torch.arange(batch * 25.0).reshape(batch, 25)


def drawn(batch=BATCH, seed=0):
    """The real pictures and latents of `run`."""
    torch.manual_seed(seed)
    return torch.randn(batch, 3, SIZE, SIZE), torch.randn(batch, 8)


def run(phase, G=None, D=None, gain=1.0, cur_nimg=END, batch=BATCH, seed=0, **kwargs):
    """One phase as the training loop runs it, only the taught network with gradients; returns both networks."""
    networks = dict(G=G or StubG(), D=D or StubD())
    for name, network in networks.items():
        network.requires_grad_(phase[0] == name)
    arguments = dict(r1_gamma=2.0, neural_rendering_resolution_initial=RAW, gpc_reg_prob=0.5, dual_discrimination=True)
    objective = StyleGAN2Loss("cpu", networks["G"], networks["D"], **dict(arguments, **kwargs))
    real, z = drawn(batch, seed)
    objective.accumulate_gradients(
        phase=phase, real_img=real, real_c=labels(batch) + 1000, gen_z=z, gen_c=labels(batch), gain=gain, cur_nimg=cur_nimg)
    return networks["G"], networks["D"]


# ------------------------------------------------------------------------------------------------ phases

@pytest.mark.parametrize("phase", PHASES)
def test_who_is_taught(phase):
    """A phase leaves gradients in its own network and none in the other."""
    G, D = run(phase)
    taught, other = (G, D) if phase[0] == "G" else (D, G)
    assert taught.weight.grad is not None and taught.weight.grad != 0
    assert other.weight.grad is None


@pytest.mark.parametrize("phase, from_g, from_d", [
    ("Gmain", ["mapping", "synthesis"], 1), ("Greg", ["mapping", "sample_mixed"], 0),
    ("Gboth", ["mapping", "synthesis", "mapping", "sample_mixed"], 1), ("Dmain", ["mapping", "synthesis"], 2),
    ("Dreg", [], 1), ("Dboth", ["mapping", "synthesis"], 2)])
def test_what_is_computed(phase, from_g, from_d):
    """No phase computes what it does not need; the average style moves only with the discriminator's fakes."""
    G, D = run(phase)
    moves = phase in ("Dmain", "Dboth")
    assert G.calls == [(name, moves) for name in from_g]
    assert D.calls == [True, False][:from_d] if moves else D.calls == [False] * from_d


@pytest.mark.parametrize("phase", PHASES)
def test_gain_scales_gradients(phase):
    """And gradients of several batches add up."""
    def teach(gain=1.0, **networks):
        return run(phase, gain=gain, **networks)[phase[0] == "D"]

    network = teach()
    once = network.weight.grad.item()
    assert teach(gain=2.5).weight.grad.item() == pytest.approx(2.5 * once, rel=1e-5)
    assert teach(**{phase[0]: network}) is network
    assert network.weight.grad.item() == pytest.approx(2 * once, rel=1e-5)


def test_generator_loss():
    """Non-saturating: the gradient is that of mean softplus(-logits)."""
    G, D = run("Gmain")
    _, z = drawn()
    weight = torch.tensor(0.5, requires_grad=True)
    logits = D.weight.detach() * 2 * weight * z[:, :3].mean(dim=1)
    F.softplus(-logits).mean().backward()
    torch.testing.assert_close(G.weight.grad, weight.grad)


def test_discriminator_loss():
    """mean softplus(fake) + mean softplus(-real), each seen under its own label."""
    G, D = run("Dmain")
    real, z = drawn()
    raw = F.interpolate(real, size=(RAW, RAW), mode="bilinear", antialias=True)
    weight = torch.tensor(0.3, requires_grad=True)
    fake = weight * 2 * 0.5 * z[:, :3].mean(dim=1)
    true = weight * (real.mean(dim=(1, 2, 3)) + raw.mean(dim=(1, 2, 3)))
    (F.softplus(fake).mean() + F.softplus(-true).mean()).backward()
    torch.testing.assert_close(D.weight.grad, weight.grad)
    assert [torch.equal(c, labels() + shift) for c, shift in zip(D.conditions, (0, 1000))] == [True, True]


@pytest.mark.parametrize("dual", [False, True])
def test_r1(dual):
    """gamma / 2 times the squared gradient at both pictures, or at the final one alone: w^2 / pixels for a mean of pixels."""
    _, D = run("Dreg", dual_discrimination=dual)
    inverse_pixels = 1 / (3 * SIZE**2) + dual / (3 * RAW**2)
    assert D.weight.grad.item() == pytest.approx(2.0 / 2 * 2 * 0.3 * inverse_pixels, rel=1e-5)


def test_r1_is_taken_at_what_is_seen():
    """Behind blur and augmentation, so that what these do to gradients does not count."""
    plain, augmented = [run("Dreg", augment_pipe=pipe, blur_init_sigma=sigma, blur_fade_kimg=10**9)[1]
                        for pipe, sigma in ((None, 0), (Pipe(), 2))]
    torch.testing.assert_close(plain.weight.grad, augmented.weight.grad)
    assert not torch.equal(plain.seen[0]["image"], augmented.seen[0]["image"])


def test_without_r1():
    """gamma 0: Dreg does nothing at all, Dboth is Dmain."""
    _, D = run("Dreg", r1_gamma=0)
    assert D.weight.grad is None and D.seen == []
    torch.testing.assert_close(run("Dboth", r1_gamma=0)[1].weight.grad, run("Dmain")[1].weight.grad)


def test_both_is_main_and_reg():
    """Dboth sees the reals once and leaves the gradients of both phases."""
    main, reg, both = [run(phase)[1].weight.grad for phase in ("Dmain", "Dreg", "Dboth")]
    torch.testing.assert_close(both, main + reg)


# ------------------------------------------------------------------------------------------------ poses

def swapped(G):
    """For each sample, whether the mapping saw its neighbour's pose (True) or its own (False)."""
    (seen,), own = G.conditions, labels(len(G.conditions[0]))
    neighbour = own.roll(1, 0)
    assert ((seen == own) | (seen == neighbour)).all(dim=1).all()
    return (seen == neighbour).all(dim=1).tolist()


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain"])
def test_pose_at_the_ends_of_the_schedule(phase):
    """At first every sample gets the previous one's pose, finally (with probability 0) each its own."""
    schedule = dict(gpc_reg_prob=0, gpc_reg_fade_kimg=1000)
    assert swapped(run(phase, cur_nimg=0, **schedule)[0]) == [True] * BATCH
    assert swapped(run(phase, cur_nimg=END, **schedule)[0]) == [False] * BATCH


def test_pose_half_way():
    """Each sample for itself with the scheduled probability; in the density regularizer one draw a batch."""
    half_way = dict(cur_nimg=500_000, gpc_reg_prob=0.5, gpc_reg_fade_kimg=1000)
    share = sum(swapped(run("Gmain", batch=400, **half_way)[0])) / 400
    assert share == pytest.approx(0.75, abs=0.09)  # four deviations
    draws = [swapped(run("Greg", seed=seed, **half_way)[0]) for seed in range(40)]
    assert all(len(set(draw)) == 1 for draw in draws)
    assert 20 <= sum(draw[0] for draw in draws) < 40


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain"])
def test_no_pose(phase):
    """Without generator pose conditioning the mapping sees zeros; the picture is still taken, and judged, from its pose."""
    G, D = run(phase, gpc_reg_prob=None)
    assert [c.abs().max() for c in G.conditions] == [0]
    assert all(torch.equal(c, labels()) for c in D.conditions[:1])


# ------------------------------------------------------------------------------------------------ style mixing

def test_style_mixing():
    """From a random layer on, another latent's styles; its mapping sees the sample's own pose. Here it always happens."""
    for seed in range(10):
        G, _ = run("Gmain", seed=seed, style_mixing_prob=1, gpc_reg_prob=0, gpc_reg_fade_kimg=1000, cur_nimg=0)
        assert torch.equal(G.conditions[0], labels().roll(1, 0)) and torch.equal(G.conditions[1], labels())
        changes = (G.ws[:, 1:] != G.ws[:, :-1]).any(dim=2)
        assert (changes.sum(dim=1) == 1).all() and (changes == changes[:1]).all()


def test_style_mixing_seldom():
    """With a small probability styles mostly stay one latent's."""
    styles = [run("Gmain", seed=seed, style_mixing_prob=0.1)[0].ws for seed in range(50)]
    assert 0 < sum(not torch.equal(ws[:, 0], ws[:, -1]) for ws in styles) < 20


@pytest.mark.parametrize("phase", ["Greg", "Gboth"])
@pytest.mark.parametrize("reg_type", ["l1", "monotonic-detach", "monotonic-fixed"])
def test_style_mixing_with_density_regularization(phase, reg_type):
    """Both together work, where the original stops."""
    G, _ = run(phase, G=StubG(reg_type=reg_type), style_mixing_prob=1)
    assert math.isfinite(G.weight.grad) and G.weight.grad != 0


def test_style_mixing_with_density_regularization_of_a_real_network(tiny_path):
    """The same with the shipped generator: gradients reach the decoder and both mappings."""
    real = pickles.load(tiny_path)["G_ema"].train()
    real.requires_grad_(True)
    objective = StyleGAN2Loss("cpu", real, None, style_mixing_prob=0.9, gpc_reg_prob=0.5)
    torch.manual_seed(0)
    objective.accumulate_gradients("Greg", torch.randn(2, 3, 128, 128), labels(2), torch.randn(2, 64), labels(2), 4, END)
    for part in (real.decoder, real.backbone.mapping, real.backbone.synthesis):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and any(gradient.abs().max() > 0 for gradient in gradients)


# ------------------------------------------------------------------------------------------------ density

def test_density_term():
    """Linear density: weight times the half-normal mean of its change over density_reg_p_dist, in the unit cube."""
    G, _ = run("Greg", batch=64)
    expected = 0.5 * 0.1 * math.sqrt(2 / math.pi)  # d |w dz| / dw, times density_reg
    assert G.weight.grad.item() == pytest.approx(expected, rel=0.03)
    assert G.points[:, :1000].abs().max() <= 1


def test_density_extent():
    """The cube of random points is an argument: half the box, say."""
    G, _ = run("Greg", density_extent=0.2)
    assert G.points[:, :1000].abs().max() <= 0.2


@pytest.mark.parametrize("reg_type", ["monotonic-detach", "monotonic-fixed"])
def test_monotonic_term(reg_type):
    """Density w z falls by w * step towards -z: ten times that, and the smoothness over the same step."""
    step = 2 / 256
    G, _ = run("Greg", G=StubG(reg_type=reg_type), batch=64, density_extent=1e-6)
    # At points around z = 0 only the ones behind have a density, so it does not matter who learns.
    expected = 10 * step + 0.5 * step * math.sqrt(2 / math.pi)
    assert G.weight.grad.item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("rendering", [dict(density_reg=0), dict(density_reg=0, reg_type=None)])
def test_without_density_regularization(rendering):
    """Weight 0: Greg computes nothing, Gboth is Gmain."""
    G, _ = run("Greg", G=StubG(**rendering))
    assert G.weight.grad is None and G.calls == []
    both, main = [run(phase, G=StubG(**rendering))[0] for phase in ("Gboth", "Gmain")]
    torch.testing.assert_close(both.weight.grad, main.weight.grad)


def test_networks_that_know_no_density_regularization():
    """Old checkpoints have neither key, and that is a weight of 0."""
    G = StubG()
    del G.rendering_kwargs["density_reg"], G.rendering_kwargs["reg_type"]
    assert run("Greg", G=G)[0].calls == []


# ------------------------------------------------------------------------------------------------ what D sees

def test_blur_is_normalized():
    """A point spreads and keeps its sum; far from the border a flat picture stays."""
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blurred(point, 3.0)
    taps = torch.exp2(-(torch.arange(-9.0, 10) / 3) ** 2)
    taps = taps / taps.sum()
    torch.testing.assert_close(spread[0, 0, 11:30, 11:30], torch.outer(taps, taps))
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(blurred(torch.ones(1, 3, 64, 64), 3.0)[:, :, 9:-9, 9:-9], torch.ones(1, 3, 46, 46))


@pytest.mark.parametrize("sigma", [0, 0.1, 0.33])
def test_blur_that_ends(sigma):
    """Below a third of a pixel nothing is left of the kernel but its middle."""
    picture = torch.randn(1, 3, 8, 8)
    assert blurred(picture, sigma) is picture
    assert not torch.equal(blurred(picture, 0.34), picture)


def test_blur_fades():
    """Every `image` and the real image_raw are blurred at first, nothing later."""
    schedule = dict(blur_init_sigma=4, blur_fade_kimg=200)
    real, _ = drawn()
    for cur_nimg, sigma in ((0, 4), (100_000, 2), (END, 0)):
        _, D = run("Dmain", cur_nimg=cur_nimg, **schedule)
        fake, seen = D.seen
        torch.testing.assert_close(seen["image"], blurred(real, sigma))
        raw = F.interpolate(real, size=(RAW, RAW), mode="bilinear", antialias=True)
        torch.testing.assert_close(seen["image_raw"], blurred(raw, sigma))
        flat = fake["image_raw"][:, :, :1, :1].expand(-1, -1, SIZE, SIZE)  # fakes are one colour
        torch.testing.assert_close(fake["image"], blurred(flat, sigma))


def test_rendering_resolution():
    """Fakes are rendered, and reals resized, at the scheduled resolution."""
    for cur_nimg, size in ((0, 4), (500_000, 6), (END, 8)):
        _, D = run("Dmain", cur_nimg=cur_nimg, neural_rendering_resolution_initial=4, neural_rendering_resolution_final=8,
                   neural_rendering_resolution_fade_kimg=1000)
        assert [seen["image_raw"].shape[-1] for seen in D.seen] == [size, size]


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_augmentation_gets_both_pictures_at_once(phase):
    """Six channels at the final size, so that both are transformed alike; the raw one comes back at its own size."""
    pipe = Pipe()
    _, D = run(phase, augment_pipe=pipe)
    assert pipe.seen.shape == (BATCH, 6, SIZE, SIZE)
    seen = D.seen[-1]
    torch.testing.assert_close(seen["image"], 3 * pipe.seen[:, :3].detach())
    raw = F.interpolate(pipe.seen[:, 3:].detach(), size=(RAW, RAW), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen["image_raw"], 3 * raw)


@pytest.mark.parametrize("filter_mode", ["none", "classic", 0.25])
def test_filter_mode(filter_mode):
    """How reals become raw renderings: a number mixes the aliased and the antialiased."""
    real, _ = drawn()
    sharp, smooth = [F.interpolate(real, size=(RAW, RAW), mode="bilinear", antialias=antialias) for antialias in (False, True)]
    raw = run("Dreg", filter_mode=filter_mode)[1].seen[0]["image_raw"]
    if filter_mode == "classic":
        assert raw.shape == smooth.shape and not torch.allclose(raw, smooth)
    else:
        mix = 0 if filter_mode == "none" else filter_mode
        torch.testing.assert_close(raw, (1 - mix) * sharp + mix * smooth)


# ------------------------------------------------------------------------------------------------ mistakes and borrowed things

@pytest.mark.parametrize("phase", ["Gpl", "gmain", ""])
def test_unknown_phase(phase):
    with pytest.raises(ValueError, match=f"phase='{phase}': choose one of Gmain, Greg, Gboth, Dmain, Dreg, Dboth"):
        StyleGAN2Loss("cpu", StubG(), StubD()).accumulate_gradients(phase, *[None] * 6)


@pytest.mark.parametrize("reg_type", ["l1-alt", "total-variation", None])
def test_unknown_regularizer(reg_type):
    """Those of the original that never worked are unknown here."""
    with pytest.raises(ValueError, match="reg_type=.*choose l1, monotonic-detach or monotonic-fixed") as caught:
        run("Greg", G=StubG(reg_type=reg_type))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("filter_mode", ["blur", 1, None])
def test_unknown_filter(filter_mode):
    with pytest.raises(ValueError, match="filter_mode=.*choose antialiased, none, classic or a float") as caught:
        run("Dreg", filter_mode=filter_mode)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("changed", [False, True], ids=["plain", "blurred, augmented"])
def test_arguments_are_not_changed(phase, changed):
    """Pictures, labels, latents and rendering options come back as they were, wanting no gradients."""
    G, more = StubG(), {}
    if changed:
        more = dict(augment_pipe=Pipe(), blur_init_sigma=2, blur_fade_kimg=10**9, style_mixing_prob=0.5)
    tensors = dict(real_img=torch.randn(BATCH, 3, SIZE, SIZE), real_c=labels() + 1, gen_z=torch.randn(BATCH, 8), gen_c=labels())
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    objective = StyleGAN2Loss(
        "cpu", G, StubD(), gpc_reg_prob=0.5, neural_rendering_resolution_initial=RAW, dual_discrimination=True, **more)
    objective.accumulate_gradients(phase, gain=1, cur_nimg=0, **tensors)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]) and not tensor.requires_grad and tensor.grad is None
    assert G.rendering_kwargs == RENDERING


def test_reported_statistics(monkeypatch):
    """Scores and signs of both sides, losses of both networks, the penalty and its weighted value."""
    reported = {}
    monkeypatch.setattr(loss.training_stats, "report", lambda name, value: reported.setdefault(name, value.detach()))
    run("Dboth")
    assert reported.keys() == {"Loss/scores/fake", "Loss/signs/fake", "Loss/scores/real", "Loss/signs/real", "Loss/D/loss",
                               "Loss/r1_penalty", "Loss/D/reg"}
    torch.testing.assert_close(
        reported["Loss/D/loss"], F.softplus(reported["Loss/scores/fake"]) + F.softplus(-reported["Loss/scores/real"]))
    torch.testing.assert_close(reported["Loss/D/reg"], reported["Loss/r1_penalty"])  # gamma is 2
    assert torch.equal(reported["Loss/signs/real"], reported["Loss/scores/real"].sign())
    reported.clear()
    run("Gboth")
    assert reported.keys() == {"Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss"}
