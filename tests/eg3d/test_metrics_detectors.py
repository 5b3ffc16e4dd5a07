"""Detectors: files that work, files that do not and are told in one line, and Inception against a naive forward pass."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from eg3d import metrics
from eg3d.metrics import detectors, inception

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Tiny(torch.nn.Module):
    """The convention of NVIDIA's Inception, with three features."""

    def forward(self, pictures: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        means = pictures.float().mean(dim=(2, 3))
        return means if return_features else torch.softmax(means, dim=1)


class Vgg(torch.nn.Module):
    """The convention of NVIDIA's VGG: the pixels are the features."""

    def forward(self, pictures: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
        return pictures.float().flatten(1)


class NotFinite(Tiny):
    def forward(self, pictures: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        return pictures.float().mean(dim=(2, 3)) / 0


class Maps(Tiny):
    def forward(self, pictures: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        return pictures.float()


class Logits(Tiny):
    def forward(self, pictures: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        return pictures.float().mean(dim=(2, 3))


class Other(torch.nn.Module):
    def forward(self, pictures: torch.Tensor):
        return pictures.float().mean(dim=(2, 3))


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.fixture
def saved(tmp_path):
    def save(module):
        path = tmp_path / f"{type(module).__name__}.pt"
        torch.jit.script(module).save(path)
        return str(path)
    return save


@pytest.fixture(scope="module")
def weights():
    """Random ones under which signals stay about as large as they are; what pytorch-fid's file has besides is there, too."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in inception.FidInception().state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor = torch.randn(tensor.shape, generator=random) * 0.1
        elif name.endswith(("running_var", "bn.weight")):
            tensor = torch.rand(tensor.shape, generator=random) + 0.5
        elif tensor.is_floating_point():
            tensor = torch.randn(tensor.shape, generator=random) * (2 / tensor[0].numel()) ** 0.5
        state[name] = tensor
    return state


def test_scripts(saved):
    detector = detectors.opened("inception", {"inception": saved(Tiny())}, CPU)
    pictures = torch.randint(0, 256, [2, 3, 8, 8], dtype=torch.uint8)
    assert torch.equal(detector.features(pictures), pictures.float().mean(dim=(2, 3)))
    assert torch.allclose(detector.probabilities(pictures).sum(1), torch.ones(2))
    metrics.check(["fid100_full", "kid50k", "pr50k3", "is50k", "ppl2_wend", "swd"],
                  {"inception": saved(Tiny()), "vgg": saved(Vgg())})


@pytest.mark.parametrize("module, name, problem", [
    (NotFinite(), "fid50k", "numbers that are not finite"),
    (Maps(), "kid50k", r"gives \[2, 3, 64, 64\] for 2 pictures, expected \[2, features\]"),
    (Logits(), "is50k", "probabilities that do not sum up to 1"),
    (Other(), "fid50k", "cannot be called with return_features"),
    (Tiny(), "ppl2_wend", "cannot be called with resize_images, return_lpips")])
def test_wrong_scripts(saved, module, name, problem):
    path = saved(module)
    kind = "vgg" if name.startswith("ppl") else "inception"
    with pytest.raises(ValueError, match=problem) as error:
        metrics.check([name], {kind: path})
    assert str(error.value).startswith(path) and "\n" not in str(error.value)
    assert f"give --detector={kind}=FILE" in str(error.value)


def test_files_that_are_none(tmp_path, capsys):
    """Missing, text, cut short, a pickle that would run something: one line each, and nothing runs."""
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "text").write_text("no network")
    (tmp_path / "cut").write_bytes((tmp_path / "other.pth").read_bytes()[:300])
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"fc.weight": Evil()}))
    torch.save({"fc.weight": Evil()}, tmp_path / "evil2.pth")
    for name, problem in (("missing", "No such file"), ("text", "neither TorchScript nor"), ("cut", "neither TorchScript nor"),
                          ("evil.pth", "neither TorchScript nor"), ("evil2.pth", "neither TorchScript nor"),
                          ("other.pth", "holds no Inception of FID: it has no Conv2d_1a_3x3.conv.weight")):
        with pytest.raises(ValueError, match=problem) as error:
            metrics.check(["fid50k"], {"inception": str(tmp_path / name)})
        assert name in str(error.value) and "--detector=inception=FILE" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="other.pth: is no TorchScript file"):
        metrics.check(["ppl2_wend"], {"vgg": str(tmp_path / "other.pth")})
    with pytest.raises(ValueError, match="--detector=resnet: there are inception and vgg"):
        metrics.check(["ppl2_wend"], {"resnet": "file"})
    assert "executed" not in capsys.readouterr().out


def test_url_is_named(monkeypatch):
    """Without a file NVIDIA's address is asked, and named when it does not answer."""
    monkeypatch.setitem(detectors.ADDRESSES, "vgg", "http://127.0.0.1:9/vgg16.pt")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/vgg16.pt: no connection .*; give --detector=vgg=FILE"):
        metrics.check(["ppl2_wend"])


# ------------------------------------------------------------------------------------------------ Inception

def naive(state, pictures):
    """The features, layer by layer: Szegedy et al. 2016 with the poolings of FID's graph."""
    def conv(x, name, stride=1, padding=0):
        x = F.conv2d(x, state[f"{name}.conv.weight"].double(), stride=stride, padding=padding)
        mean, var, gain, offset = [state[f"{name}.bn.{key}"].double()[:, None, None]
                                   for key in ("running_mean", "running_var", "weight", "bias")]
        return ((x - mean) / (var + 1e-3).sqrt() * gain + offset).relu()

    def average(x):  # over the pixels that are there
        inside = torch.ones_like(x)
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(inside, 3, 1, 1)

    def chain(x, name, *steps):
        for number, step in enumerate(steps, 1):
            x = conv(x, f"{name}_{number}", *step)
        return x

    wide, tall, square = (1, (0, 3)), (1, (3, 0)), (1, 1)
    x = F.interpolate((pictures.double() - 128) / 128, (299, 299), mode="bilinear", align_corners=False)
    x = conv(conv(conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", *square)
    x = F.max_pool2d(conv(conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    for b in ("Mixed_5b.branch", "Mixed_5c.branch", "Mixed_5d.branch"):
        x = torch.cat([conv(x, f"{b}1x1"), chain(x, f"{b}5x5", (), (1, 2)), chain(x, f"{b}3x3dbl", (), square, square),
                       conv(average(x), f"{b}_pool")], 1)
    x = torch.cat([conv(x, "Mixed_6a.branch3x3", 2), chain(x, "Mixed_6a.branch3x3dbl", (), square, (2,)),
                   F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_6b.branch", "Mixed_6c.branch", "Mixed_6d.branch", "Mixed_6e.branch"):
        x = torch.cat([conv(x, f"{b}1x1"), chain(x, f"{b}7x7", (), wide, tall),
                       chain(x, f"{b}7x7dbl", (), tall, wide, tall, wide), conv(average(x), f"{b}_pool")], 1)
    x = torch.cat([chain(x, "Mixed_7a.branch3x3", (), (2,)), chain(x, "Mixed_7a.branch7x7x3", (), wide, tall, (2,)),
                   F.max_pool2d(x, 3, 2)], 1)
    for b, pool in (("Mixed_7b.branch", average), ("Mixed_7c.branch", lambda x: F.max_pool2d(x, 3, 1, 1))):
        one, two = chain(x, f"{b}3x3", ()), chain(x, f"{b}3x3dbl", (), square)
        x = torch.cat([conv(x, f"{b}1x1"),
                       conv(one, f"{b}3x3_2a", 1, (0, 1)), conv(one, f"{b}3x3_2b", 1, (1, 0)),
                       conv(two, f"{b}3x3dbl_3a", 1, (0, 1)), conv(two, f"{b}3x3dbl_3b", 1, (1, 0)),
                       conv(pool(x), f"{b}_pool")], 1)
    return x.mean((2, 3))


def test_inception_from_a_state_dict(weights, tmp_path):
    torch.save(weights, tmp_path / "inception.pth")
    detector = detectors.opened("inception", {"inception": str(tmp_path / "inception.pth")}, CPU)
    pictures = torch.randint(0, 256, [1, 3, 40, 40], dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = naive(weights, pictures)
    with torch.no_grad():
        found = detector.features(pictures)
        # float32 through 94 convolutions, each right to about 1e-6.
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4 * float(expected.std()))
        torch.testing.assert_close(detector.probabilities(pictures), (found @ weights["fc.weight"].T).softmax(1))
    # torchvision's documentation: 27161264 with 1000 classes and the auxiliary head, which has 3326696.
    count = sum(tensor.numel() for name, tensor in weights.items() if "running" not in name and "tracked" not in name)
    assert count == 27161264 - 3326696 + 8 * (inception.FEATURES + 1)


def test_weights_of_another_network(weights):
    without = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    inception.from_state_dict(without)  # files without these counters are as good
    with pytest.raises(ValueError, match=r"it has no Mixed_7c.branch_pool.conv.weight"):
        inception.from_state_dict({k: v for k, v in without.items() if k != "Mixed_7c.branch_pool.conv.weight"})
    with pytest.raises(ValueError, match=r"it has AuxLogits.fc.bias, which no Inception of FID has"):
        inception.from_state_dict(dict(without, **{"AuxLogits.fc.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"its fc.bias has another shape than \[1008\]"):
        inception.from_state_dict(dict(without, **{"fc.bias": torch.zeros(1000)}))
