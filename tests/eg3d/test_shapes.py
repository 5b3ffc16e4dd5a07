"""Shapes: exact grids of the density field; surfaces in world units; files that say where, how large and in which colour.

The network of most tests is the shipped one with two parts changed: its planes hold ramps, from which its decoder reads where
a point is and tells a density and colours that are formulas. Everything between is the real thing.
"""

import itertools
import json
import os
import time

import mrcfile
import numpy as np
import pytest
import torch
import trimesh

from eg3d import generator, sampling, shapes
from eg3d.session import Session

BALL_CENTRE, BALL_RADIUS = (0.1, -0.05, 0.15), 0.2
RING_CENTRE, RING_RADIUS, TUBE_RADIUS = (0.06, -0.04, 0.09), 0.19, 0.08  # around an axis along z
RESOLUTION = 56  # of most grids
SLOPE = 100.0  # density's rise a unit of length into a body
EPS = 1e-5  # float32 positions: features of size 1 by bilinear weights at 256 texels


# ------------------------------------------------------------------------------------------------ a network of formulas

def ball(points, centre=BALL_CENTRE, radius=BALL_RADIUS):
    """Distance into a ball, negative outside."""
    return radius - (points - points.new_tensor(centre)).norm(dim=-1)


def ring(points, centre=RING_CENTRE, radius=RING_RADIUS, tube=TUBE_RADIUS):
    """Distance into a torus; no two of its mirrored or turned versions lie in the same place."""
    x, y, z = (points - points.new_tensor(centre)).unbind(-1)
    return tube - torch.hypot(torch.hypot(x, y) - radius, z)


def rainbow(points):
    """Colours in [0, 1], of another channel along each axis."""
    return 0.5 + 1.2 * points


class Formulas(torch.nn.Module):
    """A decoder for `ramps`: density from a distance into a body, and colours."""

    def __init__(self, inside, rgb, slope):
        super().__init__()
        self.inside, self.rgb, self.slope = inside, rgb, slope

    def forward(self, features, directions):  # [N, P, M, 3]
        points = torch.stack([features[:, 0, :, 0], features[:, 0, :, 1], features[:, 2, :, 0]], dim=-1)
        sigma = shapes.LEVEL + self.slope * self.inside(points)
        in_box = (features[..., 2] > 0.999).all(dim=1)  # outside, features fall to zero
        rest = torch.zeros(*points.shape[:2], 29)  # super-resolution wants 32 channels
        return {"rgb": torch.cat([self.rgb(points), rest], dim=-1),
                "sigma": torch.where(in_box, sigma, shapes.EMPTY)[..., None]}


def ramps(box, size=256):
    """Planes [1, 3, 3, size, size]: each texel holds its own two coordinates, in world units, and one."""
    centres = ((torch.arange(size) + 0.5) / size - 0.5) * box
    first, second = centres.expand(size, size), centres[:, None].expand(size, size)
    return torch.stack([first, second, torch.ones(size, size)]).expand(1, 3, 3, size, size)


def formula_session(path, inside, rgb=rainbow, box=1.0, slope=SLOPE, **options):
    """A real session of the network at `path`, its planes and decoder replaced."""
    G = generator.load(path, device="cpu")
    session = Session(G, sampling.styles(G, 0), rendering_options=dict(options, box_warp=box))
    session.planes = ramps(box)
    G.decoder = Formulas(inside, rgb, slope)
    return session


class Field:
    """Stands for a session: any density, to the corners of the box."""

    def __init__(self, density, box=1.0):
        self.density, self.box = density, box

    def colors(self, points):
        return torch.zeros(len(points), 3)


def full(density):
    return lambda points: torch.full([len(points)], density)


@pytest.fixture(scope="module")
def network(tiny_path):
    """The shipped network as it is."""
    G = generator.load(tiny_path, device="cpu")
    return Session(G, sampling.styles(G, 0))


@pytest.fixture(scope="module")
def ball_session(tiny_path):
    return formula_session(tiny_path, ball)


@pytest.fixture(scope="module")
def ring_session(tiny_path):
    return formula_session(tiny_path, ring)


@pytest.fixture(scope="module")
def wide_ring_session(tiny_path):
    return formula_session(tiny_path, ring, box=1.6)


def test_planes_tell_where_points_are(ring_session, wide_ring_session):
    """What the tests below rest on: the real look-up gives each plane's two coordinates, and formulas come out exactly."""
    for session in (ring_session, wide_ring_session):
        points = (torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.99 * session.box
        x, y, z = points.T
        seen = []
        decoder = session.G.decoder
        handle = decoder.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        density = session.density(points)
        handle.remove()
        for plane, (first, second) in enumerate(((x, y), (x, z), (z, x))):
            torch.testing.assert_close(seen[0][0, plane].T, torch.stack([first, second, torch.ones(500)]), rtol=0, atol=EPS)
        torch.testing.assert_close(density, shapes.LEVEL + SLOPE * ring(points), rtol=0, atol=SLOPE * 2 * EPS)
        torch.testing.assert_close(session.colors(points), 2 * rainbow(points) - 1, rtol=0, atol=5 * EPS)


# ------------------------------------------------------------------------------------------------ the grid

@pytest.mark.parametrize("resolution, cut", [(8, 1), (17, 1), (64, 7)])
def test_grid_of_a_linear_field(resolution, cut):
    """Indexed (x, y, z), the first and last index at the box's faces; the border, 30/256 at each side or a point, is empty."""
    grid = shapes.density_grid(Field(lambda p: p @ torch.tensor([100.0, 10.0, 1.0]), box=1.6), resolution)
    axis = np.linspace(-0.8, 0.8, resolution)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inner = (slice(cut, resolution - cut),) * 3
    assert grid.shape == (resolution,) * 3 and grid.dtype == np.float32
    np.testing.assert_allclose(grid[inner], (100 * x + 10 * y + z)[inner], atol=1e-4)  # float32 sums of size 100
    outside = np.ones(grid.shape, dtype=bool)
    outside[inner] = False
    assert (grid[outside] == shapes.EMPTY).all()


def test_grid_without_an_inside():
    with pytest.raises(ValueError, match="at least 3"):
        shapes.density_grid(Field(lambda p: p[:, 0]), 2)


def test_grid_of_a_network(network):
    """Some points of the grid against the density asked for directly."""
    grid = shapes.density_grid(network, 20)
    axis = torch.linspace(-0.5, 0.5, 20)
    for index in ((2, 2, 2), (2, 9, 17), (17, 2, 9), (10, 11, 12)):
        direct = network.density(axis[list(index)][None]).item()
        assert grid[index] == pytest.approx(direct, abs=1e-5)  # float32 sums, in other batches


# ------------------------------------------------------------------------------------------------ volumes

def test_volume(tmp_path):
    """An .mrc file that is valid, holds the grid in the official order (x reversed) and knows its voxels' size."""
    grid = np.random.RandomState(0).randn(9, 9, 9).astype(np.float32)
    shapes.save_volume(grid, 1.6, tmp_path / "shape.mrc")
    with mrcfile.open(tmp_path / "shape.mrc") as file:
        assert np.array_equal(file.data, grid[::-1]) and file.data.dtype == np.float32
        assert file.voxel_size.tolist() == pytest.approx((0.2, 0.2, 0.2))
    assert mrcfile.validate(tmp_path / "shape.mrc")
    assert os.listdir(tmp_path) == ["shape.mrc"]


@pytest.mark.parametrize("fixture", ["ring_session", "wide_ring_session"])
def test_volume_lies_where_its_header_says(tmp_path, request, fixture):
    """A viewer's (x, y, z), origin + index * voxel size with the last array axis as x, is (z, y, -x) of the world."""
    session = request.getfixturevalue(fixture)
    shapes.save(session, tmp_path / "ring.mrc", resolution=32)
    with mrcfile.open(tmp_path / "ring.mrc") as file:
        header, size, data = file.header, file.voxel_size, file.data.copy()
    assert (header.mapc, header.mapr, header.maps) == (1, 2, 3) and data.shape == (32, 32, 32)
    assert (header.nxstart, header.nystart, header.nzstart) == (0, 0, 0)
    k, j, i = np.nonzero(data > shapes.EMPTY)  # axes of the array: sections, rows, columns
    assert len(i) == 26**3
    viewer = [start + index * step for start, index, step in (
        (header.origin.x, i, size.x), (header.origin.y, j, size.y), (header.origin.z, k, size.z))]
    world = torch.from_numpy(np.stack([-viewer[2], viewer[1], viewer[0]], axis=1))
    expected = shapes.LEVEL + SLOPE * ring(world).numpy()
    np.testing.assert_allclose(data[k, j, i], expected, rtol=0, atol=SLOPE * 2 * EPS)


# ------------------------------------------------------------------------------------------------ reading surfaces by hand

GLTF_TYPES = {5121: np.dtype("u1"), 5123: np.dtype("<u2"), 5125: np.dtype("<u4"), 5126: np.dtype("<f4")}
GLTF_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def read_ply(path):
    """Vertices, faces, normals and RGB of a binary file: float32 positions, uint8 colours."""
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property") and "list" not in line]
    assert [line for line in lines if "list" in line] == ["property list uchar int vertex_indices"]
    vertex, face = np.dtype(fields), np.dtype([("count", "u1"), ("corners", "<i4", 3)])
    assert len(body) == counts["vertex"] * vertex.itemsize + counts["face"] * face.itemsize
    table = np.frombuffer(body, vertex, counts["vertex"])
    faces = np.frombuffer(body, face, counts["face"], offset=table.nbytes)
    assert (faces["count"] == 3).all()
    columns = [np.stack([table[name] for name in names], axis=1) for names in (
        ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue"))]
    return columns[0], faces["corners"], columns[1], columns[2] / 255


def read_obj(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([line[1:] for line in lines if line[:1] == ["v"]], dtype=float)
    normals = np.array([line[1:] for line in lines if line[:1] == ["vn"]], dtype=float)
    corners = np.array([[c.split("/")[::2] for c in line[1:]] for line in lines if line[:1] == ["f"]], dtype=int) - 1
    own = np.empty_like(vertices[:, :3])
    own[corners[..., 0]] = normals[corners[..., 1]]
    return vertices[:, :3], corners[..., 0], own, vertices[:, 3:]


def read_glb(path):
    """Checks the container on the way. Colours are linear in the file and come back as sRGB, IEC 61966-2-1."""
    data = path.read_bytes()
    assert data[:4] == b"glTF" and np.frombuffer(data, "<u4", 2, offset=4).tolist() == [2, len(data)]
    length = int.from_bytes(data[12:16], "little")
    assert data[16:20] == b"JSON" and length % 4 == 0
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    assert data[24 + length : 28 + length] == b"BIN\0"
    assert int.from_bytes(data[20 + length : 24 + length], "little") == len(binary) and len(binary) % 4 == 0
    assert tree["asset"]["version"] == "2.0" and len(tree["buffers"]) == 1 and "uri" not in tree["buffers"][0]
    assert 0 <= len(binary) - tree["buffers"][0]["byteLength"] < 4
    for one, following in itertools.pairwise([*tree["bufferViews"], dict(byteOffset=tree["buffers"][0]["byteLength"])]):
        assert one["buffer"] == 0 and one["byteOffset"] + one["byteLength"] <= following["byteOffset"]

    def values(index):
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        kind, width = GLTF_TYPES[accessor["componentType"]], GLTF_WIDTHS[accessor["type"]]
        assert view["byteOffset"] % kind.itemsize == 0 and "byteStride" not in view and accessor.get("byteOffset", 0) == 0
        assert accessor["count"] * width * kind.itemsize <= view["byteLength"]
        array = np.frombuffer(binary, kind, accessor["count"] * width, offset=view["byteOffset"]).reshape(-1, width)
        for bound, found in (("min", array.min(axis=0)), ("max", array.max(axis=0))):
            if bound in accessor:
                np.testing.assert_allclose(found, accessor[bound], rtol=1e-6)
        return accessor, array

    assert len(tree["meshes"]) == len(tree["meshes"][0]["primitives"]) == len(tree["nodes"]) == 1
    assert not {"matrix", "rotation", "scale", "translation"} & set(tree["nodes"][0])
    primitive = tree["meshes"][0]["primitives"][0]
    assert primitive.get("mode", 4) == 4  # triangles
    assert tree["materials"][primitive["material"]]["pbrMetallicRoughness"]["metallicFactor"] == 0  # metal by default
    attributes = primitive["attributes"]
    (place, vertices), (_, normals), (colour, rgba) = [values(attributes[name]) for name in ("POSITION", "NORMAL", "COLOR_0")]
    assert {"min", "max"} <= set(place)  # the standard asks for them
    assert colour["componentType"] == 5126 and colour["type"] == "VEC4" and not colour.get("normalized", False)
    assert len(vertices) == len(normals) == len(rgba) and (rgba[:, 3] == 1).all() and (rgba >= 0).all() and (rgba <= 1).all()
    linear = rgba[:, :3].astype(float)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return vertices, values(primitive["indices"])[1].reshape(-1, 3).astype(int), normals, srgb


READERS = {".ply": read_ply, ".obj": read_obj, ".glb": read_glb}


def reopened(path):
    """With the colours of vertices: trimesh gives a file with a material that material instead, unless asked."""
    return trimesh.load_mesh(path, process=False, **dict(skip_materials=True) if path.suffix == ".glb" else {})


# ------------------------------------------------------------------------------------------------ surfaces

@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("fixture, inside", [("ball_session", ball), ("ring_session", ring), ("wide_ring_session", ring)])
def test_surface(tmp_path, request, fixture, inside, suffix):
    """Place, size and handedness in world units, which way is out, and colours: by hand, and as trimesh opens the file."""
    session = request.getfixturevalue(fixture)
    path = tmp_path / f"shape{suffix}"
    shapes.save(session, path, RESOLUTION)
    assert os.listdir(tmp_path) == [path.name]
    vertices, faces, normals, srgb = READERS[suffix](path)
    voxel = session.box / (RESOLUTION - 1)

    # Linear interpolation of a distance whose level has the radius r is wrong by voxel^2 / 8 r: 0.08 voxels at most.
    points = torch.tensor(vertices, dtype=torch.float64, requires_grad=True)
    distances = inside(points)
    assert distances.abs().max() < voxel / 10
    if inside is ball:
        centre, reach, volume = BALL_CENTRE, (BALL_RADIUS,) * 3, 4 / 3 * np.pi * BALL_RADIUS**3
    else:
        side = RING_RADIUS + TUBE_RADIUS
        centre, reach, volume = RING_CENTRE, (side, side, TUBE_RADIUS), 2 * np.pi**2 * RING_RADIUS * TUBE_RADIUS**2
    bounds = [np.subtract(centre, reach), np.add(centre, reach)]
    np.testing.assert_allclose([vertices.min(axis=0), vertices.max(axis=0)], bounds, rtol=0, atol=voxel / 2)

    mesh = reopened(path)
    np.testing.assert_allclose(mesh.vertices, vertices, rtol=0, atol=1e-6)
    assert np.array_equal(mesh.faces, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1
    assert mesh.euler_number == (2 if inside is ball else 0)
    np.testing.assert_allclose(mesh.center_mass, centre, rtol=0, atol=voxel / 10)
    # Positive, so faces look outward. Chords of at most sqrt(3) voxels sag by 3 voxel^2 / 8 r, of a volume area * r / 3.
    radius = BALL_RADIUS if inside is ball else TUBE_RADIUS
    assert mesh.volume == pytest.approx(volume, rel=9 / 8 * (voxel / radius) ** 2)

    outward, = torch.autograd.grad(-distances.sum(), points)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-5)
    assert (normals * outward.numpy()).sum(axis=1).min() > 0.99

    expected = rainbow(points.detach()).numpy()
    np.testing.assert_allclose(srgb, expected, rtol=0, atol=0.6 / 255)  # rounded to bytes, and a little of float32
    shown = mesh.visual.vertex_colors[:, :3] / 255
    if suffix == ".glb":  # trimesh rounds the file's linear values to bytes
        expected = np.where(expected <= 0.04045, expected / 12.92, ((expected + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=2.5 / 255)  # the curve's slope is 2.3 at most


def test_all_colours_in_glb(tmp_path, tiny_path):
    """Black, the curve's straight part (bytes to 10), white: bytes survive the way through linear float32."""
    session = formula_session(tiny_path, ball, lambda points: 29 * points % 1 * 1.02 - 0.01)
    for suffix in (".ply", ".glb"):
        shapes.save(session, tmp_path / f"ball{suffix}", RESOLUTION)
    expected, found = read_ply(tmp_path / "ball.ply")[3] * 255, read_glb(tmp_path / "ball.glb")[3] * 255
    assert expected.max() == 255 and set(range(12)) <= set(expected.ravel()) and len(np.unique(expected)) > 240
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)  # float32 linear values, the curve's slope 12.92


def test_surface_at_another_level(tmp_path, ball_session):
    """A higher level lies further in: 100 of density a unit of length."""
    shapes.save(ball_session, tmp_path / "ball.ply", 48, level=shapes.LEVEL + 5)
    distances = np.linalg.norm(reopened(tmp_path / "ball.ply").vertices - BALL_CENTRE, axis=1)
    np.testing.assert_allclose(distances, BALL_RADIUS - 0.05, rtol=0, atol=1 / 47 / 10)  # as above, in voxels


def test_surface_is_closed_at_the_border(tmp_path):
    """What is dense but for a hole in the middle ends where the grid is cut, and there the normals are the cut's."""
    shapes.save(Field(lambda p: 20.0 - 40.0 * (p.norm(dim=-1) < 0.1)), tmp_path / "full.ply", 32)
    mesh = reopened(tmp_path / "full.ply")
    assert mesh.is_watertight and mesh.volume > 0
    inner = 0.5 - 3 / 31  # the last index that is not cut
    assert np.abs(mesh.bounds).min() >= inner and np.abs(mesh.bounds).max() <= inner + 1 / 31
    vertices, _, normals, _ = read_ply(tmp_path / "full.ply")
    on_one_face = (np.abs(vertices) > inner - 0.5 / 31).sum(axis=1) == 1
    assert on_one_face.sum() > 1000
    expected = np.sign(vertices) * (np.abs(vertices) > inner - 0.5 / 31)
    np.testing.assert_allclose(normals[on_one_face], expected[on_one_face], atol=0.01)
    assert np.isfinite(normals).all() and np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-5)


def test_body_that_runs_into_the_border(tmp_path, tiny_path):
    """A ball at a face of the box is closed where it is cut: flat there, round elsewhere, volume that of the segment."""
    radius, resolution = 0.2, 64
    shapes.save(formula_session(tiny_path, lambda p: ball(p, (0.4, 0, 0), radius)), tmp_path / "cut.ply", resolution)
    mesh = reopened(tmp_path / "cut.ply")
    voxel = 1 / (resolution - 1)
    cut = 0.5 - 7 * voxel  # int(30 / 256 * 64) = 7
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert cut <= mesh.bounds[1][0] < cut + voxel
    height = cut - (0.4 - radius)
    segment = np.pi * height**2 * (radius - height / 3)
    assert mesh.volume == pytest.approx(segment, rel=2 * voxel / height)  # the flat face is a fraction of a voxel away
    _, _, normals, _ = read_ply(tmp_path / "cut.ply")
    flat = (mesh.vertices[:, 0] >= cut) & (np.hypot(*mesh.vertices[:, 1:].T) < radius - 3 * voxel)
    assert flat.sum() > 50
    np.testing.assert_allclose(normals[flat], [[1, 0, 0]] * flat.sum(), atol=0.05)
    rounded = mesh.vertices[:, 0] < cut - voxel
    outward = (mesh.vertices - [0.4, 0, 0]) / radius
    assert (normals * outward)[rounded].sum(axis=1).min() > 0.99


def test_parts(tmp_path, tiny_path):
    """'largest' is by area: a thin ring outdoes a ball of more volume. What is kept is closed, with its own colours."""
    def both(points):
        return torch.maximum(ring(points, (0.13, 0.1, -0.1), 0.17, 0.03), ball(points, (-0.2, -0.2, 0.2), 0.1))

    session = formula_session(tiny_path, both)
    grid = shapes.density_grid(session, 64)
    whole, kept = [shapes.surface(session, grid, part=part) for part in ("all", "largest")]
    assert np.array_equal(shapes.surface(session, grid).faces, whole.faces)  # everything by default
    assert whole.body_count == 2 and kept.body_count == 1 and kept.is_watertight and kept.volume > 0
    ring_alone = shapes.surface(session, shapes.density_grid(formula_session(
        tiny_path, lambda p: ring(p, (0.13, 0.1, -0.1), 0.17, 0.03)), 64))
    ball_alone = shapes.surface(session, shapes.density_grid(formula_session(
        tiny_path, lambda p: ball(p, (-0.2, -0.2, 0.2), 0.1)), 64))
    assert ring_alone.area > ball_alone.area and ring_alone.volume < ball_alone.volume
    assert len(whole.vertices) == len(ring_alone.vertices) + len(ball_alone.vertices)
    np.testing.assert_allclose(kept.vertices, ring_alone.vertices, atol=1e-6)
    assert np.array_equal(kept.faces, ring_alone.faces)
    expected = rainbow(torch.from_numpy(np.array(kept.vertices))).numpy()
    np.testing.assert_allclose(kept.visual.vertex_colors[:, :3] / 255, expected, rtol=0, atol=0.6 / 255)

    shapes.save(session, tmp_path / "kept.obj", 64, part="largest")
    vertices, faces, _, _ = read_obj(tmp_path / "kept.obj")
    np.testing.assert_allclose(vertices, kept.vertices, atol=1e-6)
    assert np.array_equal(faces, kept.faces)


@pytest.mark.parametrize("suffix", shapes.FORMATS)
def test_same_shape_same_bytes(tmp_path, ball_session, suffix):
    """Written a second apart, over an older file: no date gets into a file."""
    (tmp_path / f"b{suffix}").write_bytes(b"older" * 100000)
    shapes.save(ball_session, tmp_path / f"a{suffix}", 16)
    time.sleep(1.1)
    shapes.save(ball_session, tmp_path / f"b{suffix}", 16)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ------------------------------------------------------------------------------------------------ mistakes

def test_no_surface_at_the_cut_alone(tmp_path):
    """A level that the density exceeds everywhere: where the grid is cut is no surface of the network's."""
    with pytest.raises(shapes.NoSurface, match="goes from -5 to -5"):
        shapes.save(Field(full(-5.0)), tmp_path / "shape.ply", 16, level=-500)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("resolution, density", [(16, -5.0), (8, 10.0)])
def test_no_surface(tmp_path, resolution, density, suffix):
    """A density that never crosses the level is the user's mistake, told in one line, and leaves no file."""
    with pytest.raises(shapes.NoSurface) as error:
        shapes.save(Field(full(density)), tmp_path / f"shape{suffix}", resolution)
    assert issubclass(shapes.NoSurface, ValueError)
    assert str(error.value) == (f"{tmp_path / 'shape'}{suffix}: no surface, the density never crosses 10 (it goes from "
                                f"{density:.3g} to {density:.3g}): choose another level (--shape-level)")
    assert os.listdir(tmp_path) == []


def test_no_surface_at_a_level_out_of_reach(ball_session):
    """The message tells the densities of what is not cut."""
    grid = shapes.density_grid(ball_session, 32)
    inner = grid[3:-3, 3:-3, 3:-3]
    with pytest.raises(shapes.NoSurface, match=rf"crosses 50 \(it goes from {inner.min():.3g} to {inner.max():.3g}\)"):
        shapes.surface(ball_session, grid, level=50)


@pytest.mark.parametrize("density", [-2000.0, float("nan")])
def test_no_surface_of_a_strange_density(tmp_path, density):
    """Lower than what stands for a cut, or no number, as diverged networks make it: still told as such, with the file."""
    with pytest.raises(shapes.NoSurface, match="shape.ply: no surface"):
        shapes.save(Field(full(density)), tmp_path / "shape.ply", 16)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["shape.stl", "shape", "shape.ply.gz"])
def test_unknown_format(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: shapes are written as .mrc, .ply, .obj or .glb"):
        shapes.save(Field(full(20.0)), tmp_path / name, 8)
    assert os.listdir(tmp_path) == []


def test_unknown_part(tmp_path):
    with pytest.raises(ValueError, match="part 'biggest' of a surface: choose all or largest"):
        shapes.save(Field(full(20.0)), tmp_path / "shape.ply", 16, part="biggest")
    assert os.listdir(tmp_path) == []
