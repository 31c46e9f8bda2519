"""All that you may want to turn.

What is trained is kept in `runs/`. Once you change something here or in the model, delete that folder.
"""

from pathlib import Path
from typing import NamedTuple


class Plan(NamedTuple):
    """How long to train, and on how many images (None: all)."""

    name: str
    epochs: int
    batch_size: int
    images: int | None


FULL = Plan("full", epochs=40, batch_size=128, images=None)
QUICK = Plan("quick", epochs=3, batch_size=32, images=1_000)  # only shows that everything works

L1 = 0.0005
L2 = 0.0005
DROPOUT = 0.0  # between 0 and 1; 0 is none
AUGMENT = False  # True: turn and shift the images to train on
LEARNING_RATE = 0.001
SEED = 0

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
PICTURES = HERE / "pictures"


def runs_folder(plan, data_name):
    """Where the trainings of a plan are kept: those on MNIST and those on other digits apart."""
    return RUNS / f"{plan.name}-{data_name}"
