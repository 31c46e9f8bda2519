"""Figures of the course: grids of images, histograms, learning curves, loss surfaces.

Every function takes arrays, returns the Matplotlib figure and works without a display. Series differ by
dash and marker as well as by colour, and the colours can be told apart by colour-blind readers.

This file works alone: copy it into an assignment and `import plots`. It needs Matplotlib and NumPy.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

__all__ = ["COLORS", "histograms", "image_grid", "learning_curves", "misclassified_grid", "surface"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by readers with any kind of colour vision."""

# Of different lengths, so that many series pass before a combination comes back.
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")


def image_grid(
    images: Iterable[np.ndarray],
    titles: Iterable | None = None,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw images in a grid, all on one scale.

    Args:
        images: `(N, H, W, C)` with 1 or 3 channels, `(N, H, W)` grey, or a list of single images.
        titles: one text per image, or None.
        columns: images per row; None chooses about twice as many columns as rows.
        value_range: `(black, white)`; None means (0, 255) for uint8, else from the smallest value of all
            images to the largest, so that brightness can be compared between them.
        title: text above the grid.

    Returns:
        The figure.

    Raises:
        ValueError: no images, wrong shape, NaN, titles that do not match, an empty range, columns below 1.

    Example:
        >>> figure = image_grid(np.zeros((3, 8, 8), np.uint8), ["a", "b", "c"])
        >>> len(figure.axes)
        3
    """
    if getattr(images, "ndim", 0) == 3 and images.shape[-1] in (1, 3):
        raise ValueError(f"images has shape {images.shape}: for a single image, pass [image]")
    images = [_check_image(image, i) for i, image in enumerate(images)]
    if not images:
        raise ValueError("images is empty")
    titles = [""] * len(images) if titles is None else list(titles)
    if len(titles) != len(images):
        raise ValueError(f"titles has {len(titles)} texts for {len(images)} images")
    low, high = _value_range(images, value_range)
    if columns is not None and (not isinstance(columns, (int, np.integer)) or columns < 1):
        raise ValueError(f"columns={columns!r} must be a whole number of at least 1, or None")
    columns = min(columns or math.ceil(math.sqrt(2 * len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    shape = images[0].shape
    longest = max(len(line) for text in titles for line in str(text).split("\n"))
    width = max(min(1.6, 9 / columns), 0.08 * longest)
    lines = max(str(text).count("\n") + 1 for text in titles)
    height = width * shape[0] / shape[1] + 0.25 * lines * any(str(text) for text in titles)
    figure, axes = _subplots(rows, columns, (width * columns, height * rows + 0.35 * bool(title)))
    for ax in axes:
        ax.axis("off")
    for ax, image, text in zip(axes, images, titles, strict=False):
        scaled = np.clip((image.astype(float) - low) / (high - low), 0, 1)
        ax.imshow(scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(text, fontsize=9)
    for ax in axes[len(images) :]:
        ax.remove()
    figure.suptitle(title)
    return _finished(figure)


def misclassified_grid(
    images: Iterable[np.ndarray],
    actual: Sequence[int],
    predicted: Sequence[int],
    *,
    class_names: Sequence | None = None,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Draw images that a model misread, each under its actual and its predicted class.

    Args:
        images: as for `image_grid`.
        actual, predicted: one class per image, integers from 0.
        class_names: the name of each class; None shows the numbers.
        columns: images per row; None chooses about as many columns as rows.
        title: text above the grid.

    Returns:
        The figure.

    Raises:
        ValueError: as for `image_grid`; classes that do not match the images or the names.

    Example:
        >>> figure = misclassified_grid(np.zeros((1, 8, 8)), [4], [9])
        >>> figure.axes[0].get_title()
        'actual 4\\npredicted 9'
    """
    images = list(images)
    actual, predicted = np.asarray(actual), np.asarray(predicted)
    if not len(images) == len(actual) == len(predicted):
        raise ValueError(f"{len(images)} images, {len(actual)} actual and {len(predicted)} predicted classes")
    named = [
        f"actual {_class_name(a, class_names)}\npredicted {_class_name(p, class_names)}"
        for a, p in zip(actual, predicted, strict=True)
    ]
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    return image_grid(images, named, columns=columns, title=title)


def _class_name(number, class_names):
    if class_names is None:
        return number
    if not 0 <= number < len(class_names):
        raise ValueError(f"class {number} has no name among {len(class_names)} class_names")
    return class_names[number]


def histograms(
    values: dict[str, np.ndarray],
    *,
    bins: int | np.ndarray = 64,
    value_range: tuple[float, float] | None = None,
    xlabel: str = "value",
    title: str | None = None,
    log: bool = False,
) -> Figure:
    """Draw one histogram per named array, one above the other.

    Args:
        values: dict from a name to an array of any shape.
        bins: number of bars, or their edges.
        value_range: `(left, right)` for all, on one axis; values outside are left out. None takes each
            array's own.
        xlabel: what the values are, with their unit.
        title: text above all.
        log: whether to count on a logarithmic axis.

    Returns:
        The figure.

    Raises:
        ValueError: nothing to draw, an empty array, NaN.

    Example:
        >>> figure = histograms({"raw": np.arange(10), "scaled": np.arange(10) / 10})
        >>> [ax.get_title("left") for ax in figure.axes]
        ['raw', 'scaled']
    """
    values = {name: _check_values(name, array) for name, array in values.items()}
    if not values:
        raise ValueError("values is empty")
    size = (6, 1.5 * len(values) + 0.6)
    figure, axes = _subplots(len(values), 1, size, sharex=value_range is not None)
    for ax, (name, array), color in zip(axes, values.items(), cycle(COLORS), strict=False):
        ax.hist(array, bins, range=value_range, color=color, log=log)
        if log:
            ax.set_ylim(bottom=0.7)  # so that a bar of one is seen
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_ylabel("count")
    axes[-1].set_xlabel(xlabel)
    figure.suptitle(title)
    return _finished(figure)


def learning_curves(
    histories: dict[str, dict | list[dict]],
    metric: str = "accuracy",
    *,
    splits: tuple[str, ...] = ("train", "validation"),
    ylim: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a metric against the epoch: the mean over seeds as a line, the range between them as a band.

    Args:
        histories: dict from a name to one Keras history (or anything with a `.history` dict, such as
            `train.Run`), or to a list of them, one per seed.
        metric: "accuracy", "loss", …; its validation twin is "val_" + metric.
        splits: which of "train" and "validation" to draw, each in a panel of its own.
        ylim: `(bottom, top)` of the axis.
        title: text above all.

    Returns:
        The figure.

    Raises:
        ValueError: nothing to draw, a history without the metric, seeds of different length.

    Example:
        >>> history = {"accuracy": [0.90, 0.95], "val_accuracy": [0.91, 0.94]}
        >>> figure = learning_curves({"third": [history, history]})
        >>> [ax.get_title() for ax in figure.axes]
        ['train', 'validation']
    """
    prefix = {"train": "", "validation": "val_"}
    if not histories or not splits or not set(splits) <= set(prefix):
        raise ValueError(
            f"histories={list(histories)} and splits={splits} must name something to draw, the splits "
            "'train' or 'validation'"
        )
    curves = {
        split: {name: _stack(name, runs, prefix[split] + metric) for name, runs in histories.items()}
        for split in splits
    }
    figure, axes = _subplots(1, len(splits), (3.4 * len(splits) + 2.4, 3.6), sharey=True)  # 2.4: the legend
    for ax, split in zip(axes, splits, strict=True):
        styles = zip(cycle(COLORS), cycle(DASHES), cycle(MARKERS), strict=False)
        for (name, values), style in zip(curves[split].items(), styles, strict=False):
            _curve(ax, name, values, *style)
        ax.set_title(split)
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes[0].set_ylabel(metric)
    axes[0].set_ylim(ylim)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.suptitle(title)
    return _finished(figure)


def _curve(ax, name, values, color, dash, marker):
    epochs = np.arange(1, values.shape[1] + 1)
    every = max(1, len(epochs) // 8)
    ax.plot(epochs, values.mean(0), color=color, ls=dash, marker=marker, ms=4, markevery=every, label=name)
    if len(values) > 1:
        ax.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)


def _stack(name, runs, key):
    runs = [runs] if isinstance(runs, dict) or hasattr(runs, "history") else list(runs)
    runs = [getattr(run, "history", run) for run in runs]
    if not runs or not all(len(run.get(key, ())) for run in runs):
        raise ValueError(f"histories[{name!r}] has no {key!r}")
    if len({len(run[key]) for run in runs}) > 1:
        raise ValueError(f"histories[{name!r}]: the seeds have different numbers of epochs")
    return np.array([run[key] for run in runs], float)


def surface(
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    paths: dict[str, np.ndarray] | None = None,
    xlabel: str = "$w_1$",
    ylabel: str = "$w_2$",
    title: str | None = None,
) -> Figure:
    """Draw a loss over two weights twice: from above with contours, and in 3-D.

    Args:
        loss: function of two arrays of equal shape that returns the loss, elementwise.
        x_range, y_range: `(low, high)` of the two weights.
        paths: dict from a name to the points `(steps, 2)` that a descent went through; it is drawn into both.
        xlabel, ylabel: names of the two weights, with their units.
        title: text above both.

    Returns:
        The figure.

    Raises:
        ValueError: a range that is empty, a path of another shape, a loss that is not finite.

    Example:
        >>> figure = surface(lambda a, b: a**2 + 4 * b**2, (-1, 1), (-1, 1))
        >>> [ax.name for ax in figure.axes]
        ['rectilinear', '3d']
    """
    for name, (low, high) in (("x_range", x_range), ("y_range", y_range)):
        if not low < high:
            raise ValueError(f"{name}={(low, high)} must go from low to high")
    x, y = np.meshgrid(np.linspace(*x_range, 80), np.linspace(*y_range, 80))
    z = np.asarray(loss(x, y), float)
    if z.shape != x.shape or not np.isfinite(z).all():
        raise ValueError(f"loss returned shape {z.shape}, expected finite values {x.shape}")
    paths = {name: _check_path(name, path) for name, path in (paths or {}).items()}
    heights = {name: loss(*path.T) for name, path in paths.items()}
    figure = plt.figure(figsize=(9, 4), layout="constrained")
    above, relief = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    above.contour(x, y, z, levels=18, cmap="cividis", linewidths=0.8)
    relief.plot_surface(x, y, z, cmap="cividis", alpha=0.7, linewidth=0, rcount=40, ccount=40)
    styles = zip(cycle(COLORS[1:]), cycle(MARKERS), strict=False)
    for (name, path), (color, marker) in zip(paths.items(), styles, strict=False):
        above.plot(*path.T, color=color, marker=marker, ms=3, lw=1, label=name)
        relief.plot(*path.T, heights[name], color=color, marker=marker, ms=2, lw=0.8, zorder=10)
    above.set(xlabel=xlabel, ylabel=ylabel, title="from above", xlim=x_range, ylim=y_range)
    relief.set_title("in 3-D")
    for name, put in ((xlabel, relief.set_xlabel), (ylabel, relief.set_ylabel), ("loss", relief.set_zlabel)):
        put(name, labelpad=10)
    relief.locator_params(nbins=4)  # more would run into each other at the far corners
    relief.set_box_aspect(None, zoom=0.85)  # else the label of the third axis is cut off
    if paths:
        above.legend(fontsize=9)
    figure.suptitle(title)
    return _finished(figure)


def _check_path(name, path):
    path = np.asarray(path, float)
    if path.ndim != 2 or path.shape[1] != 2:
        raise ValueError(f"paths[{name!r}] has shape {path.shape}, expected (steps, 2)")
    return path


def _check_values(name, array):
    array = np.asarray(array, float).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"values[{name!r}] is empty or holds NaN or infinity")
    return array


def _subplots(rows, columns, size, **options):
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    return figure, axes.ravel()


def _finished(figure):
    """Close the figure, so that a notebook shows it once: as the value of the cell."""
    plt.close(figure)
    return figure


def _check_image(image, number):
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or image.size == 0 or (image.ndim == 3 and image.shape[-1] != 3):
        raise ValueError(
            f"images: number {number} has shape {image.shape}, expected (H, W), (H, W, 1) or (H, W, 3)"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"images: number {number} holds NaN or infinity")
    return image


def _value_range(images, value_range):
    if value_range is None:
        if all(image.dtype == np.uint8 for image in images):
            return 0, 255
        low = min(float(image.min()) for image in images)
        high = max(float(image.max()) for image in images)
        return low, high if high > low else low + 1
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range={value_range} must go from black to white, low to high")
    return low, high
