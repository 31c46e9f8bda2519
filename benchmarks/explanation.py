"""`explain.occlusion` against a loop that covers one place after the other and calls the model, or `predict`,
each time, and against one `predict` of all covered images; `explain.grad_cam` against one `GradientTape` for
each image, as in Keras's tutorial, and against one for all.

Models have random weights. All sides run in one process, in turns, after a pass of each to warm up, in which
it is checked that they give the same maps. A repeat is one map of one image, or the maps of all.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from timing import in_turns, row

from evakeras import data, explain, models


def rows(quick=False):
    """For each model, three rows of occlusion, one of Grad-CAM for one image and two for many."""
    keras.utils.set_random_seed(0)
    digits, crops = images(8 if quick else 32)
    fast, large = calibrated(models.build("fast"), digits), calibrated(mobile_net(), crops)
    repeats, strides = (3, (4, 24)) if quick else (7, (2, 12))
    return [
        *compared("fast, 28×28", fast, digits, "conv_3", 8, strides[0], repeats),
        *compared("MobileNetV2, 96×96", large, crops, "out_relu", 24, strides[1], repeats),
    ]


def images(count):
    """Digits 28×28×1 and pieces of a photograph 96×96×3, float32."""
    digits, photo = data.load_mnist(limit=count).x_test, data.load_photo("flower")
    crops = np.stack([photo[start : start + 96, start : start + 96] for start in range(0, 8 * count, 8)])
    return digits.astype("float32") / 255, crops.astype("float32") / 127.5 - 1


def mobile_net():
    make = keras.applications.MobileNetV2
    network = make((96, 96, 3), weights=None, classes=10, classifier_activation=None)
    return keras.Model(network.inputs[0], keras.layers.Softmax()(network.outputs[0]))


def calibrated(model, images):
    """The model with the statistics of images; without, an untrained deep one gives the same for all."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    return model


def compared(name, model, images, layer, size, stride, repeats):
    sides = occlusions(model, images[0], size, stride)
    places = len(list(covered(images[0], size, stride)))
    result = rows_of(f"occlusion, {name}, {places} places", sides, repeats, 1, "s")
    for count in (1, len(images)):
        sides = grad_cams(model, images[:count], layer)
        what = f"Grad-CAM, {name}, {count} image{'s' if count > 1 else ''}"
        result += rows_of(what, sides, repeats, 1000 / count, "ms/image")
    return result


def rows_of(what, sides, repeats, scale, unit):
    costs = {name: scale * np.array(s) for name, s in in_turns(sides, repeats, same_maps).items()}
    ours = costs.pop("evakeras").tolist()
    return [row(what, baseline, ours, theirs.tolist(), unit) for baseline, theirs in costs.items()]


def same_maps(maps):
    ours = maps["evakeras"]
    for name, theirs in maps.items():
        apart, largest = np.abs(ours - theirs).max(), theirs.max()
        assert ours.shape == theirs.shape and apart <= 1e-5 < largest / 1000, (name, apart, largest)


def occlusions(model, image, size, stride):
    """Functions that give the map `(1, H, W)` of one image."""
    predict = functools.partial(model.predict, batch_size=256, verbose=0)
    return {
        "evakeras": lambda: explain.occlusion(model, image[None], size=size, stride=stride),
        "loop of model(x)": lambda: by_loop(lambda x: model(x).numpy(), image, size, stride),
        "loop of predict": lambda: by_loop(predict, image, size, stride),
        "one predict": lambda: at_once(predict, image, size, stride),
    }


def by_loop(run, image, size, stride):
    found = [(box, run(hidden[None])[0]) for box, hidden in covered(image, size, stride)]
    return mean_fall(image, run(image[None])[0], found)


def at_once(run, image, size, stride):
    boxes, hidden = zip(*covered(image, size, stride), strict=True)
    found = zip(boxes, run(np.stack(hidden)), strict=True)
    return mean_fall(image, run(image[None])[0], found)


def covered(image, size, stride):
    """Each place of the box, and the image with 0 there."""
    for top in range(1 - size, image.shape[0], stride):
        for left in range(1 - size, image.shape[1], stride):
            box = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
            hidden = image.copy()
            hidden[box] = 0
            yield box, hidden


def mean_fall(image, before, found):
    """How far the probability of the predicted class falls, at each pixel the mean of all boxes over it."""
    index, (fall, times) = before.argmax(), np.zeros((2, *image.shape[:2]))
    for box, after in found:
        fall[box] += before[index] - after[index]
        times[box] += 1
    return np.maximum(fall / times, 0)[None]


def grad_cams(model, images, layer):
    """Functions that give the maps `(N, H, W)` of some images."""
    sides = {
        "evakeras": lambda: explain.grad_cam(model, images, layer=layer),
        "GradientTape per image": lambda: by_tape(model, images, layer, 1),
    }
    if len(images) > 1:
        sides["one GradientTape"] = lambda: by_tape(model, images, layer, len(images))
    return sides


def by_tape(model, images, layer, together):
    both = keras.Model(model.inputs[0], [model.get_layer(layer).output, model.layers[-2].output])
    starts = range(0, len(images), together)
    return np.concatenate([cam(both, images[start : start + together]) for start in starts])


def cam(both, images):
    """Grad-CAM of the predicted classes, by a model that gives a layer's output and the logits."""
    with tf.GradientTape() as tape:
        features, logits = both(images)
        score = tf.reduce_sum(tf.reduce_max(logits, axis=1))
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
    return tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()
