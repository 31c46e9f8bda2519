"""Every figure is returned, closed, labelled, and shows the data it was given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import readable
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from evakeras import plots


@pytest.fixture(autouse=True)
def nothing_stays_open():
    """pyplot keeps every figure that is not closed: a notebook would draw it a second time."""
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def bowl(a, b):
    return a**2 + 4 * b**2


def history(*accuracies):
    return {"accuracy": list(accuracies), "val_accuracy": [a - 0.1 for a in accuracies]}


CURVES = {"third": [history(0.7, 0.8, 0.9), history(0.8, 0.9, 0.8)], "fifth": history(0.6, 0.7, 0.8)}
PATHS = {"SGD": np.array([[1, 1], [0.5, 0.2], [0, 0]]), "Adam": np.array([[1, -1], [0, 0]])}
FIGURES = {
    "image_grid": lambda: plots.image_grid(np.zeros((5, 8, 6, 3), np.uint8), title="five"),
    "histograms": lambda: plots.histograms({"a": np.arange(9), "b": np.ones((2, 2))}, title="two"),
    "learning_curves": lambda: plots.learning_curves(CURVES, title="curves"),
    "surface": lambda: plots.surface(bowl, (-1, 1), (-2, 2), paths=PATHS, title="bowl"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_function_returns_a_figure_that_can_be_saved_without_a_display(make, tmp_path):
    assert matplotlib.get_backend().lower() == "agg"
    figure = make()
    assert isinstance(figure, Figure)
    assert figure.get_suptitle()
    figure.savefig(tmp_path / "figure.png")
    pixels = plt.imread(tmp_path / "figure.png")
    assert pixels.std() > 0


def test_the_colors_are_seven_different_ones():
    assert len({to_hex(color) for color in plots.COLORS}) == 7


# Grids of images


def shown(figure):
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes]


@pytest.mark.parametrize("count, columns", [(1, None), (2, None), (7, None), (7, 3), (3, 10), (25, 5)])
def test_grid_has_one_picture_per_image(count, columns):
    figure = plots.image_grid(np.zeros((count, 4, 4), np.uint8), columns=columns)
    assert len(figure.axes) == count
    assert figure.axes[0].get_gridspec().ncols <= (columns or count)


def test_grid_makes_room_for_the_title_zero():
    heights = [plots.image_grid(np.zeros((2, 4, 4)), titles).get_figheight() for titles in ([0, 0], [1, 1])]
    assert heights[0] == heights[1]


def test_grid_shows_the_images_in_order_with_their_titles():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 5, 4, 1), np.uint8)
    figure = plots.image_grid(images, [f"number {i}" for i in range(4)])
    assert [ax.get_title() for ax in figure.axes] == [f"number {i}" for i in range(4)]
    np.testing.assert_allclose([pixels.mean() for pixels in shown(figure)], np.arange(4) / 255)


def test_grid_shows_all_images_on_one_scale():
    dim, bright = np.full((4, 4), 0.5), np.array([[0.0, 2.0], [1.0, 1.0]])
    first, second = shown(plots.image_grid([dim, bright]))
    np.testing.assert_allclose(first, 0.25)
    np.testing.assert_allclose(second, [[0, 1], [0.5, 0.5]])


def test_grid_clips_to_the_range_it_is_given():
    (pixels,) = shown(plots.image_grid([np.array([[-5.0, 0.0, 5.0]])], value_range=(-1, 1)))
    np.testing.assert_allclose(pixels, [[0, 0.5, 1]])


def test_grid_takes_images_of_different_size_and_kind():
    figure = plots.image_grid([np.zeros((4, 4)), np.ones((6, 5, 3)), np.zeros((3, 3, 1))])
    assert [pixels.shape for pixels in shown(figure)] == [(4, 4), (6, 5, 3), (3, 3)]


def test_grid_of_constant_images_can_be_drawn():
    (pixels,) = shown(plots.image_grid([np.full((3, 3), 7.0)]))
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"images": []}, "empty"),
        ({"images": np.zeros((2, 4, 4, 2))}, "number 0"),
        ({"images": np.zeros((2, 0, 4))}, "number 0"),
        ({"images": np.zeros((2, 3))}, "number 0"),
        ({"images": [np.zeros((2, 2)), np.full((2, 2), np.nan)]}, "number 1 holds NaN"),
        ({"images": np.zeros((2, 4, 4)), "titles": ["one"]}, "1 texts for 2 images"),
        ({"images": np.zeros((2, 4, 4)), "columns": -1}, "columns=-1"),
        ({"images": np.zeros((2, 4, 4)), "columns": 2.0}, "columns=2.0"),
        ({"images": np.zeros((2, 4, 4)), "value_range": (1, 1)}, "value_range"),
        ({"images": np.zeros((2, 4, 4)), "value_range": (0, np.nan)}, "value_range"),
    ],
    ids=readable,
)
def test_grid_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(**arguments)


def test_misclassified_grid_names_both_classes_of_each_image():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    figure = plots.misclassified_grid(images, [0, 1], [1, 0], class_names=["cat", "dog"], title="t")
    assert [ax.get_title() for ax in figure.axes] == [
        "actual cat\npredicted dog",
        "actual dog\npredicted cat",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"actual": [0]}, "2 images, 1 actual"),
        ({"predicted": [0, 1, 1]}, "3 predicted"),
        ({"class_names": ["only"]}, "class 1 has no name"),
        ({"images": [], "actual": [], "predicted": []}, "empty"),
    ],
)
def test_misclassified_grid_refuses_bad_input(arguments, message):
    images = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=message):
        plots.misclassified_grid(**{"images": images, "actual": [0, 1], "predicted": [1, 0], **arguments})


# Histograms


def test_histograms_count_every_value_of_every_array():
    values = {"few": np.arange(10), "many": np.random.default_rng(0).normal(size=(50, 3))}
    figure = plots.histograms(values, bins=8, xlabel="brightness")
    assert [ax.get_title("left") for ax in figure.axes] == ["few", "many"]
    assert [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes] == [10, 150]
    assert all(len(ax.patches) == 8 and ax.get_ylabel() == "count" for ax in figure.axes)
    assert figure.axes[-1].get_xlabel() == "brightness"


def test_histograms_share_the_range_they_are_given():
    figure = plots.histograms({"a": np.arange(3), "b": np.arange(9)}, bins=2, value_range=(0, 8))
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    for ax in figure.axes:
        assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [(0, 4), (4, 8)]


def test_histograms_can_count_on_a_logarithmic_axis():
    figure = plots.histograms({"a": np.arange(9)}, log=True)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].get_ylim()[0] < 1  # bars of one are seen


@pytest.mark.parametrize(
    "values", [{}, {"a": []}, {"good": [1, 2], "a": [1, np.nan]}, {"a": [np.inf]}], ids=readable
)
def test_histograms_refuse_empty_and_nan(values):
    with pytest.raises(ValueError, match="values"):
        plots.histograms(values)


# Learning curves


def test_learning_curves_draw_the_mean_over_seeds_and_the_range_between_them():
    train, validation = plots.learning_curves(CURVES).axes
    line, single = train.lines
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(line.get_ydata(), [0.75, 0.85, 0.85])
    np.testing.assert_allclose(single.get_ydata(), [0.6, 0.7, 0.8])
    np.testing.assert_allclose(validation.lines[0].get_ydata(), [0.65, 0.75, 0.75])
    (band,) = train.collections  # one band: a single history has no range
    (corners,) = [path.vertices for path in band.get_paths()]
    for epoch, low, high in ((1, 0.7, 0.8), (2, 0.8, 0.9), (3, 0.8, 0.9)):
        ys = corners[corners[:, 0] == epoch, 1]
        np.testing.assert_allclose((ys.min(), ys.max()), (low, high))


def test_learning_curves_name_axes_panels_and_series():
    figure = plots.learning_curves(CURVES, ylim=(0.5, 1))
    assert [ax.get_title() for ax in figure.axes] == ["train", "validation"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch", "epoch"]
    assert figure.axes[0].get_ylabel() == "accuracy"
    assert figure.axes[0].get_ylim() == (0.5, 1)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["third", "fifth"]


def test_learning_curves_differ_by_more_than_color():
    figure = plots.learning_curves({str(i): history(0.5, 0.6) for i in range(7)})
    lines = figure.axes[0].lines
    assert len({(line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}) == 7
    assert len({to_hex(line.get_color()) for line in lines}) == 7


def test_learning_curves_draw_the_splits_asked_for():
    figure = plots.learning_curves({"a": {"loss": [2, 1]}}, "loss", splits=("train",))
    assert [ax.get_title() for ax in figure.axes] == ["train"]
    assert figure.axes[0].get_ylabel() == "loss"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"histories": {}}, "histories"),
        ({"histories": {"a": []}}, "'a'"),
        ({"histories": {"a": {"accuracy": [0.5]}}}, "val_accuracy"),
        ({"histories": {"a": history()}}, "accuracy"),
        ({"histories": {"a": history(0.5)}, "metric": "loss"}, "loss"),
        ({"histories": {"a": [history(0.5), history(0.5, 0.6)]}}, "different numbers of epochs"),
        ({"histories": CURVES, "splits": ("test",)}, "splits"),
        ({"histories": CURVES, "splits": ()}, "splits"),
    ],
    ids=readable,
)
def test_learning_curves_refuse_what_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.learning_curves(**arguments)


# Surfaces


def test_surface_draws_the_paths_into_both_panels_and_names_them():
    above, relief = FIGURES["surface"]().axes
    assert (above.name, relief.name) == ("rectilinear", "3d")
    for line, path in zip(above.lines, PATHS.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), path)
    for line, path in zip(relief.lines, PATHS.values(), strict=True):
        np.testing.assert_allclose(np.transpose(line.get_data_3d())[:, 2], bowl(*path.T))
    assert [text.get_text() for text in above.get_legend().get_texts()] == list(PATHS)


def test_surface_labels_its_axes():
    figure = plots.surface(bowl, (-1, 1), (-2, 2), xlabel="slope", ylabel="offset")
    for ax in figure.axes:
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("slope", "offset")
        assert ax.get_title()
    assert figure.axes[1].get_zlabel() == "loss"
    assert figure.axes[0].get_xlim() == (-1, 1) and figure.axes[0].get_ylim() == (-2, 2)


def test_surface_draws_every_path_however_many():
    paths = {f"path {i}": np.full((2, 2), i / 10) for i in range(8)}
    assert len(plots.surface(bowl, (-1, 1), (-1, 1), paths=paths).axes[0].lines) == 8


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x_range": (1, 1)}, "x_range"),
        ({"y_range": (1, -1)}, "y_range"),
        ({"paths": {"bad": np.zeros(4)}}, "'bad'"),
        ({"paths": {"bad": np.zeros((4, 3))}}, "'bad'"),
        ({"loss": lambda a, b: 1.0}, "shape"),
        ({"loss": lambda a, b: np.where(a > 0, np.nan, b)}, "finite"),
    ],
    ids=readable,
)
def test_surface_refuses_what_cannot_be_drawn(arguments, message):
    arguments = {"loss": bowl, "x_range": (-1, 1), "y_range": (-1, 1), **arguments}
    with pytest.raises(ValueError, match=message):
        plots.surface(**arguments)
