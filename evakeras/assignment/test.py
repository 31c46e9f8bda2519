"""Read the trained models, and tell how many of the test images each reads right.

    python test.py

Nothing imports this file: `import test` would find the tests of Python itself.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fewer log lines from TensorFlow

import keras

import data
import misc
import regularization
import settings


def trained(plan, digits):
    """The models of a finished training, or None where it is not finished."""
    folder = settings.runs_folder(plan, digits.name)
    files = {
        name: folder / f"{name}-seed{settings.SEED}" / f"epoch-{plan.epochs:02d}.keras"
        for name in regularization.PENALTIES
    }
    if all(file.exists() for file in files.values()):
        return {name: keras.saving.load_model(file, safe_mode=True) for name, file in files.items()}
    return None


def main():
    for plan in (settings.FULL, settings.QUICK):
        if not list(settings.RUNS.glob(f"{plan.name}-*")):
            continue
        digits = data.load(plan)
        models = trained(plan, digits)
        if models:
            break
    else:
        sys.exit("There are no trained models yet. python train.py --quick makes some in half a minute.")
    if plan is settings.QUICK:
        print("The full training is not finished; these are the models of the quick one.")
    print(f"{digits}; {plan.epochs} epochs")
    for name, model in models.items():
        accuracy = misc.measure(model, digits)["accuracy"]
        wrong = round((1 - accuracy) * len(digits.x_test))
        print(f"{name:8} {100 * accuracy:6.2f} % of the test images read right, {wrong:,} misread")


if __name__ == "__main__":
    main()
