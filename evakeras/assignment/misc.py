"""The rest: the log, the test, the two graphs, the misread digits, and what goes into README.md."""

import json
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

import settings
from helpers.evaluate import misclassified
from helpers.plots import COLORS, DASHES, misclassified_grid
from helpers.regularizers import sparsity

BEGIN, END = "<!-- results -->", "<!-- end results -->"
CAPTIONS = {
    "accuracy": "Validation accuracy after each epoch, one curve for each penalty.",
    "loss": "Validation loss after each epoch, one curve for each penalty: with the penalty, and without.",
    "misclassified-L1": "Test images that the L1 model misreads, with actual and predicted digit.",
    "misclassified-L2": "Test images that the L2 model misreads, with actual and predicted digit.",
}


def print_log(run):
    """One line for each epoch of a training."""
    print(f"{run.name}: epoch, then the loss, cross-entropy and accuracy on training and validation images")
    keys = [prefix + key for prefix in ("", "val_") for key in ("loss", "cross_entropy", "accuracy")]
    for epoch, values in enumerate(zip(*(run.history[key] for key in keys), strict=True), 1):
        print(f"{epoch:5}" + "".join(f"{value:10.4f}" for value in values))


def measure(model, digits):
    """Accuracy and cross-entropy (without the penalty) on the test images."""
    return model.evaluate(digits.x_test, digits.y_test, batch_size=500, verbose=0, return_dict=True)


def draw_accuracy(runs):
    """The first graph: how the validation accuracy changes."""
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    _draw(ax, runs, "val_accuracy", 100)
    later = [run.history["val_accuracy"][len(run.seconds) // 10 :] for run in runs.values()]
    ax.set_ylim(100 * np.min(later) - 0.2, min(100 * np.max(later) + 0.2, 100.2))  # not the steep beginning
    ax.set(ylabel="validation accuracy (percent)", title="Validation accuracy with and without L1 and L2")
    ax.legend(title="penalty")
    plt.close(figure)
    return figure


def draw_loss(runs):
    """The second graph: how the validation loss changes, with the penalty in it and without."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    _draw(axes[0], runs, "val_loss")
    _draw(axes[1], runs, "val_cross_entropy")
    axes[0].set(
        ylabel="validation loss (nats, log scale)", title="As Keras reports it: cross-entropy + penalty"
    )
    axes[1].set(title="Cross-entropy alone")
    axes[0].set_yscale("log", subs=[])
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].legend(title="penalty")
    plt.close(figure)
    return figure


def _draw(ax, runs, key, scale=1.0):
    """A thick line; where there are many epochs through the median of the last five, beside a thin one."""
    styles = zip(COLORS, DASHES, strict=False)
    for (name, run), (color, dash) in zip(runs.items(), styles, strict=False):
        values = scale * np.array(run.history[key])
        epochs = range(1, len(values) + 1)
        if len(values) >= 10:  # single epochs jump
            ax.plot(epochs, values, color=color, lw=0.6, alpha=0.5)
            values = [np.median(values[max(0, i - 4) : i + 1]) for i in range(len(values))]
        ax.plot(epochs, values, color=color, ls=dash, lw=2, label=name)
    ax.set_xlabel("epoch" if len(values) < 10 else "epoch (thick line: median of the last five)")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def draw_mistakes(name, model, digits):
    """Up to 25 test images that the model misreads, the surest mistakes first."""
    wrong = misclassified(model, digits.x_test, digits.y_test, limit=25)
    if not len(wrong.index):
        return _nothing(f"{name}: no test image is misread")
    title = f"{name}: {len(wrong.index)} misread test images, the surest mistakes first"
    return misclassified_grid(digits.x_test[wrong.index], wrong.actual, wrong.predicted, title=title)


def _nothing(text):
    figure, ax = plt.subplots(figsize=(6, 1))
    ax.text(0.5, 0.5, text, ha="center")
    ax.axis("off")
    plt.close(figure)
    return figure


def write_pictures(plan, digits, runs, models):
    """Write the four pictures that the assignment asks for, and return their folder."""
    folder = settings.PICTURES if plan is settings.FULL else settings.PICTURES / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    draw_accuracy(runs).savefig(folder / "accuracy.png", dpi=100)
    draw_loss(runs).savefig(folder / "loss.png", dpi=100)
    for name in ("L1", "L2"):
        draw_mistakes(name, models[name], digits).savefig(folder / f"misclassified-{name}.png", dpi=100)
    return folder


def table(runs, models, results):
    """The results as a table for README.md and the notebook."""
    lines = [
        "| penalty | training accuracy | validation accuracy | test accuracy | test cross-entropy "
        "| weights below 0.001 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, run in runs.items():
        accuracies = [run.history["accuracy"][-1], run.history["val_accuracy"][-1], results[name]["accuracy"]]
        cells = [name, *(f"{100 * accuracy:.2f} %" for accuracy in accuracies)]
        cells.append(f"{results[name]['cross_entropy']:.4f}")
        cells.append(f"{100 * sparsity(models[name], 0.001).total:.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_readme(plan, digits, runs, models, results, folder):
    """Put table and pictures between the two marks in README.md, and say what was done."""
    file = settings.HERE / "README.md"
    text = file.read_text(encoding="utf-8")
    if plan is settings.QUICK and (settings.PICTURES / "accuracy.png").exists():
        return "README.md keeps the figures of the full training"
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        return f"README.md was not filled: it needs the line {BEGIN} and, below it, the line {END}, once each"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    filling = _results(plan, digits, runs, models, results, folder)
    draft = file.with_name("README.md.draft")
    draft.write_text(f"{before}{BEGIN}\n{filling}\n{END}{after}", encoding="utf-8")
    draft.replace(file)  # whole or not at all
    return "README.md holds the results"


def _results(plan, digits, runs, models, results, folder):
    """All that stands between the marks."""
    pictures = folder.relative_to(settings.HERE).as_posix()
    state_files = [run.folder / "state.json" for run in runs.values()]
    made = json.loads(state_files[0].read_text(encoding="utf-8"))["configuration"]
    date = time.strftime("%Y-%m-%d", time.localtime(max(file.stat().st_mtime for file in state_files)))
    minutes = sum(sum(run.seconds) for run in runs.values()) / 60
    paragraphs = [
        table(runs, models, results),
        f"After {plan.epochs} epochs with batches of {plan.batch_size}; L1 {settings.L1:g}, "
        f"L2 {settings.L2:g}, dropout {settings.DROPOUT:g}, {'with' if settings.AUGMENT else 'without'} "
        f"augmentation, seed {settings.SEED}.\nData: {digits}.\n"
        f"Trained on {date} in {minutes:.1f} minutes, with Keras {made['keras']} and {made['backend']}.",
        *(f"![{text}]({pictures}/{name}.png)" for name, text in CAPTIONS.items()),
    ]
    if plan is settings.QUICK:
        paragraphs.insert(0, "**A quick run, which only shows that everything works.**")
    return "\n\n".join(paragraphs)
