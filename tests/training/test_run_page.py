"""The page of a run. Curves are read back from the page's SVG and compared with the numbers that went in.

Places in a chart are written with one decimal, so they are right within 0.05 units; a chart is about 156 units
high and 302 wide.
"""

import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from training import run_page
from training.run_page import chart, log_ticks, read_statistics, thinned, ticks, write_page

DECIMAL = 0.051


def entry(value):
    return dict(num=1, mean=value, std=0.0)


def stats_line(tick, kimg, **values):
    row = {"Progress/tick": entry(tick), "Progress/kimg": entry(kimg), "Timing/sec_per_kimg": entry(30.0)}
    return json.dumps({**row, **{name: entry(value) for name, value in values.items()}, "timestamp": 1.7e9 + tick}) + "\n"


@pytest.fixture
def run_dir(tmp_path):
    """A run of ten ticks with a metric, two sets of pictures, snapshots and a checkpoint."""
    folder = tmp_path / "00000-ffhq-heads-gpus1-batch4-gamma1"
    folder.mkdir()
    (folder / "training_options.json").write_text(json.dumps(dict(total_kimg=40, ada_target=0.6, batch_size=4)))
    (folder / "stats.jsonl").write_text("".join(
        stats_line(tick, 2.0 * tick, **{"Loss/G/loss": tick**2, "Loss/D/loss": 50.0 - tick, "Loss/signs/real": 0.05 * tick,
                                        "Loss/r1_penalty": 10.0 ** (tick - 5)}) for tick in range(10)))
    (folder / "metric-fid50k_full.jsonl").write_text("".join(
        json.dumps(dict(results=dict(fid50k_full=value), metric="fid50k_full", snapshot_pkl=f"network-snapshot-{kimg:06d}.pkl"))
        + "\n" for kimg, value in ((0, 300.0), (10, 100.0))))
    for name in ("reals", "fakes000000", "fakes000000_raw", "fakes000010", "fakes000010_raw", "fakes000010_depth"):
        (folder / f"{name}.png").write_bytes(b"png")
    for name in ("network-snapshot-000000.pkl", "network-snapshot-000010.pkl", "checkpoint-000012000.pt"):
        (folder / name).write_bytes(b"0" * 1_500_000)
    return folder


def page(run_dir):
    assert write_page(run_dir) == run_dir / "index.html"
    return (run_dir / "index.html").read_text(encoding="utf-8")


def figure(text, title):
    return next(part for part in re.findall(r"<figure>.*?</figure>", text, re.DOTALL) if f"<b>{title}</b>" in part)


def polylines(text):
    """[n, 2] of every curve, in the chart's units."""
    return [np.array([place.split(",") for place in points.split()], dtype=float)
            for points in re.findall(r'<polyline class="c\d" points="([^"]*)"', text)]


def axis(text, anchor):
    """The labels of an axis and where they stand: y for anchor 'end', x for 'middle'."""
    found = re.findall(rf'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="{anchor}">([^<]*)<', text)
    return [(float(label), float(y) - 4 if anchor == "end" else float(x)) for x, y, label in found]


def values_of(places, marks, log=False):
    """Values that the axis's labels give to places: the line through its first and last label."""
    (first, at_first), (last, at_last) = marks[0], marks[-1]
    if log:
        first, last = math.log10(first), math.log10(last)
    values = first + (places - at_first) / (at_last - at_first) * (last - first)
    return 10**values if log else values


# ------------------------------------------------------------------------------------------------ curves

def test_curves_show_the_numbers(run_dir):
    """Read by the labels of its axes, each curve gives back kimg and values."""
    text = figure(page(run_dir), "Losses")
    curves = polylines(text)
    assert len(curves) == 2
    tick = np.arange(10)
    for curve, expected in zip(curves, (tick**2, 50 - tick)):
        kimg, values = values_of(curve[:, 0], axis(text, "middle")), values_of(curve[:, 1], axis(text, "end"))
        np.testing.assert_allclose(kimg, 2.0 * tick, rtol=0, atol=18 / 302 * 2 * DECIMAL)
        np.testing.assert_allclose(values, expected, rtol=0, atol=100 / 156 * 2 * DECIMAL)
        assert curve[0, 0] == run_page.LEFT and curve[-1, 0] == run_page.WIDTH - run_page.RIGHT  # from edge to edge
    assert "G 81<" in text and "D 41<" in text  # the last values


def test_logarithmic_curve(run_dir):
    """R1: ten decades are a straight line, and labels are powers of ten."""
    text = figure(page(run_dir), "R1 penalty")
    (curve,), marks = polylines(text), axis(text, "end")
    assert np.ptp(np.diff(curve[:, 1])) <= 2 * DECIMAL
    np.testing.assert_allclose(np.log10(values_of(curve[:, 1], marks, log=True)), np.arange(10) - 5, rtol=0, atol=0.01)
    assert all(math.log10(label) == round(math.log10(label)) for label, _ in marks)


def test_values_that_no_logarithm_has_are_left_out():
    (curve,) = polylines(chart("x", dict(a=np.array([[0, 1.0], [1, 0.0], [2, -3.0], [3, 10.0]])), log=True))
    assert len(curve) == 2


def test_target_of_ada(run_dir):
    """The dashed line stands where the axis says 0.6, inside the chart, above all values; without ADA there is none."""
    text = figure(page(run_dir), "Signs of real scores")
    (place,) = re.findall(r'class="target" d="M\d+ ([\d.]+)H', text)
    assert values_of(float(place), axis(text, "end")) == pytest.approx(0.6, abs=2 * DECIMAL / 156)
    assert run_page.TOP <= float(place) < polylines(text)[0][:, 1].min()
    (run_dir / "training_options.json").write_text(json.dumps(dict(total_kimg=40, ada_target=None)))
    assert 'class="target"' not in page(run_dir)


def test_metrics(run_dir):
    text = figure(page(run_dir), "fid50k_full")
    (curve,) = polylines(text)
    np.testing.assert_allclose(values_of(curve[:, 1], axis(text, "end")), [300, 100], rtol=0, atol=1)
    np.testing.assert_allclose(values_of(curve[:, 0], axis(text, "middle")), [0, 10], rtol=0, atol=0.01)
    assert text.count("<circle") == 2


def test_missing_values_are_no_points(run_dir):
    """NaN, null, infinity and numbers that no chart can hold."""
    with open(run_dir / "stats.jsonl", "a") as file:
        for tick, value in enumerate((math.nan, None, math.inf, 1e305, 7.0), start=10):
            file.write(stats_line(tick, 2.0 * tick, **{"Loss/G/loss": value}))
    text = figure(page(run_dir), "Losses")
    assert [len(curve) for curve in polylines(text)] == [11, 10] and "nan" not in text and "inf" not in text


def test_a_damaged_line_is_passed_over(run_dir):
    """A run that died while it wrote a line; the run that went on wrote behind it."""
    expected = read_statistics(run_dir / "stats.jsonl")
    with open(run_dir / "stats.jsonl", "ab") as file:
        file.write(b'{"Progress/kimg": {"mean": 99, \xff\n[1]\n' + stats_line(10, 20.0).encode() + b'{"Progress/ki')
    rows = read_statistics(run_dir / "stats.jsonl")
    assert rows[:-1] == expected and len(expected) == 10 and rows[-1]["Progress/kimg"] == 20
    assert len(polylines(figure(page(run_dir), "Losses"))[0]) == 10


def test_a_run_that_went_on_from_a_checkpoint(run_dir):
    """What was counted again takes the place of what was lost."""
    with open(run_dir / "stats.jsonl", "a") as file:
        file.write(stats_line(6, 12.0, **{"Loss/G/loss": 0.0}))
    rows = read_statistics(run_dir / "stats.jsonl")
    assert [row["Progress/kimg"] for row in rows] == [0, 2, 4, 6, 8, 10, 12] and rows[-1]["Loss/G/loss"] == 0


def test_thinning_keeps_ends_and_peaks():
    random = np.random.RandomState(0)
    points = np.stack([np.arange(25000.0), random.randn(25000)], axis=1)
    points[12345, 1], points[777, 1] = 99, -99
    few = thinned(points)
    assert 500 <= len(few) <= 600 and (np.diff(few[:, 0]) > 0).all()
    kept = {tuple(point) for point in few}
    assert kept <= {tuple(point) for point in points}
    assert {tuple(points[index]) for index in (0, 777, 12345, -1)} <= kept
    assert np.array_equal(thinned(points[:600]), points[:600])


def test_a_long_run_makes_a_small_page(run_dir):
    line = stats_line(0, 0.0, **{name: 1.25 for panel in run_page.PANELS for name in panel.curves.values()
                                 if name not in run_page.STATE})
    (run_dir / "stats.jsonl").write_text("".join(
        line.replace('"Progress/kimg": {"num": 1, "mean": 0.0', f'"Progress/kimg": {{"num": 1, "mean": {4.0 * tick}')
        for tick in range(25000)))
    text = page(run_dir)
    assert max(len(curve) for curve in polylines(text)) <= 600 and len(text) < 300_000
    assert figure(text, "Losses").count("<polyline") == 2


@pytest.mark.parametrize("low, high", [(0, 1), (-1.3, 2.7), (0.013, 0.0172), (5, 5), (0, 0), (-3, -3), (1e-9, 2e-9),
                                       (-1e30, 7e29), (0, 25000), (99.9, 100.1), (23.99, 24.01), (-0.2, 0)])
def test_ticks(low, high):
    """Round, even, around the range, and neither crowded nor far beyond it."""
    marks = ticks(low, high)
    steps = np.diff(marks)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 6
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert f"{steps[0]:.3e}"[:5] in ("1.000", "2.000", "5.000")
    if high > low:
        assert marks[-1] - marks[0] <= (high - low) + 2 * steps[0]
    np.testing.assert_allclose(np.array(marks) / steps[0], np.round(np.array(marks) / steps[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("low, high", [(0.03, 0.9), (1, 1), (3e-7, 40), (1e-5, 1e-5 * (1 + 1e-12)),
                                       (math.nextafter(1e-3, 0), 1), (2, 5), (1e-250, 1e250)])
def test_logarithmic_ticks(low, high):
    marks = log_ticks(low, high)
    assert 2 <= len(marks) <= 6 and sorted(set(marks)) == marks
    assert marks[0] <= low * (1 + 1e-12) and marks[-1] >= high
    assert {f"{mark:.5e}"[:7] for mark in marks} <= {"1.00000", "2.00000", "5.00000"}


# ------------------------------------------------------------------------------------------------ the page

class Tags(HTMLParser):
    """Notes which tags are left open, and what links lead to."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags_of(text):
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


def test_links_lead_to_files_beside_it(run_dir):
    """Well-formed, no scripts, nothing from elsewhere; the latest pictures are shown and earlier ones linked."""
    text = page(run_dir)
    links = tags_of(text).links
    assert links and all((run_dir / link).is_file() for link in links)
    assert "<script" not in text and "http://" not in text and "https://" not in text
    shown = re.findall(r'<img src="([^"]*)"', text)
    assert shown == ["reals.png", "fakes000010.png", "fakes000010_raw.png", "fakes000010_depth.png"]
    assert {"fakes000000.png", "fakes000000_raw.png", "network-snapshot-000010.pkl", "checkpoint-000012000.pt"} <= set(links)
    assert "fakes000000_depth.png" not in links and "1.5 MB" in text
    assert '<meta http-equiv="refresh" content="60">' in text and "prefers-color-scheme: dark" in text


def test_state_of_the_run(run_dir):
    """18 of 40 kimg at 30 seconds: eleven minutes."""
    text = page(run_dir)
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert facts.pop("Last numbers").startswith("2023-11-1")  # 1.7e9 seconds, 14 or 15 November by the time zone
    assert facts == {"Tick": "9", "kimg": "18.0 of 40", "Seconds per kimg": "30.00", "Time left": "11m 00s"}
    with open(run_dir / "stats.jsonl", "a") as file:
        file.write(stats_line(20, 40.0))
    assert "none: complete" in page(run_dir)


def test_names_and_options_are_escaped(run_dir):
    """A run's name, a metric, its results, options and files hold what would be markup."""
    nasty = "<b>&\"'"
    folder = run_dir.rename(run_dir.with_name(f"00001{nasty}"))
    (folder / "training_options.json").write_text(json.dumps(dict(total_kimg=40, desc="</pre><script>alert(1)</script>")))
    metric = dict(results={nasty: 1.0}, snapshot_pkl="network-snapshot-000001.pkl")
    (folder / f"metric-{nasty}.jsonl").write_text(json.dumps(metric))
    (folder / f"network-snapshot-{nasty}#?%.pkl").write_bytes(b"")
    text = page(folder)
    tags_of(text)
    assert nasty not in text and "<script" not in text
    assert text.count(html.escape(nasty)) >= 5  # title, heading, chart, curve, file
    assert "network-snapshot-%3Cb%3E%26%22%27%23%3F%25.pkl" in text


def test_an_empty_folder(tmp_path):
    """Before the first tick: a page that says so."""
    text = page(tmp_path)
    tags_of(text)
    assert "No numbers yet" in text and "<svg" not in text and "<img" not in text and "<progress" not in text


def test_one_tick(tmp_path):
    """Curves of one point are dots, at kimg 0 too; without options there is no total."""
    (tmp_path / "stats.jsonl").write_text(stats_line(0, 0.0, **{"Loss/G/loss": 1.0}))
    text = page(tmp_path)
    assert figure(text, "Losses").count("<circle") == 1 and "nan" not in text
    assert dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))["kimg"] == "0.0"


def test_mistakes(run_dir, tmp_path):
    """No folder, no JSON: one line; the page that was there stays."""
    before = page(run_dir)
    with pytest.raises(ValueError, match="no such folder"):
        write_page(tmp_path / "nowhere")
    for content in ("{", "[]"):
        (run_dir / "training_options.json").write_text(content)
        with pytest.raises(ValueError, match="training_options.json") as error:
            write_page(run_dir)
        assert "\n" not in str(error.value)
    assert (run_dir / "index.html").read_text() == before
    assert not [path for path in run_dir.iterdir() if path.name.startswith(".")]
