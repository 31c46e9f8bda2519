"""Train the network without a penalty, with L1, with L2, with both; draw the graphs; fill README.md.

    python train.py           all of it
    python train.py --quick   everything once, on few images, to see that it works

Stop it with Ctrl-C whenever you like: the same command goes on where it was.
"""

import argparse
import logging
import os
import shutil
import sys
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fewer log lines from TensorFlow

try:
    import data
    import misc
    import model
    import regularization
    import settings
    from helpers.train import study
except KeyboardInterrupt:  # loading Keras takes seconds
    sys.exit("\nStopped while Keras was loading. Run the same command again.")

CHANGED = "another configuration"  # what `study` says where kept runs do not fit


def train(plan, digits):
    """Train all four from the same first weights; a dict from the penalty's name to its run.

    Each finished epoch is kept in `runs/`. Finished runs are read back from there, if nothing has changed.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns where several models are trained
    folder = settings.runs_folder(plan, digits.name)
    train_all = partial(
        study,
        {name: partial(model.compiled, name) for name in regularization.PENALTIES},
        digits.x_fit,
        digits.y_fit,
        validation_data=(digits.x_validation, digits.y_validation),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        seeds=[settings.SEED],
        folder=folder,
    )
    try:
        runs = train_all()
    except ValueError as error:
        if plan is settings.FULL or CHANGED not in str(error):
            raise
        shutil.rmtree(folder)  # a quick training is soon made anew
        runs = train_all()
    return {name: run for name, [run] in runs.items()}


def report(plan, digits, runs):
    """Read the test images, once; write the graphs and the misread digits; fill README.md."""
    models = {name: run.model() for name, run in runs.items()}
    results = {name: misc.measure(model, digits) for name, model in models.items()}
    folder = misc.write_pictures(plan, digits, runs, models)
    print(f"graphs and misread digits: {folder}")
    print(misc.fill_readme(plan, digits, runs, models, results, folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="half a minute on few images: does everything work?"
    )
    plan = settings.QUICK if parser.parse_args().quick else settings.FULL
    digits = data.load(plan)
    print(f"{digits}; {plan.epochs} epochs, four times", flush=True)
    report(plan, digits, train(plan, digits))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it goes on after the last finished epoch.")
        sys.exit(130)
    except ValueError as error:
        if CHANGED not in str(error):
            raise
        what = str(error).split(". Choose")[0]
        sys.exit(f"{what}.\nSo you changed something. To train all anew, delete or rename {settings.RUNS}")
