"""`Transform` of uint8 pixels to network inputs, inside the compiled step: random crop, flip and normalization."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_fge_benchmarks")
class Transform(keras.layers.Layer):
    """The first layer of every network of the benchmark, so that batches travel as uint8.

    In training: a crop of the image after padding it with black pixels, and a horizontal flip with probability 1/2,
    drawn anew for each image. Always: (pixel - mean) / std. It has no weights; curves, snapshots and measurements treat
    it like any other layer.

    Args:
        mean, std: Mean and standard deviation in units of the pixels; one number, or one for each channel.
        padding: Black pixels added on each side. Default: 0, no crop.
        flip: Whether to flip. Default: no.
        seed: Seed of crops and flips. Default: drawn from Keras' global generator.

    Call arguments:
        images: Shape `(batch, height, width, channels)`, pixels of any type.
        training: Whether to crop and flip.
    """

    def __init__(self, mean=0.0, std=255.0, padding=0, flip=False, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std, self.padding, self.flip, self.seed = mean, std, padding, flip, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if training and (self.padding or self.flip):
            images = self._crop_and_flip(images)
        mean, std = (ops.convert_to_tensor(value, "float32") for value in (self.mean, self.std))
        return ops.cast((ops.cast(images, "float32") - mean) / std, self.compute_dtype)

    def _crop_and_flip(self, images):
        """Crops and flips by two products with matrices of zeros and ones, exact for pixels from 0 to 255.

        Row i of such a matrix says which row (or column) of the image comes to place i; none, outside of the image.
        (On TensorFlow a gather of the pixels costs more.)
        """
        batch = ops.shape(images)[0]
        height, width, channels = images.shape[1:]
        shift = keras.random.randint((batch, 2), -self.padding, self.padding + 1, seed=self.seed_generator)
        rows = ops.arange(height)[None] + shift[:, :1]
        columns = ops.arange(width)[None] + shift[:, 1:]
        if self.flip:
            is_flipped = keras.random.randint((batch, 1), 0, 2, seed=self.seed_generator) == 1
            columns = ops.where(is_flipped, width - 1 - columns, columns)
        pixels = ops.cast(images, "float32")
        for places, size in ((rows, height), (columns, width)):
            chosen = ops.cast(places[:, :, None] == ops.arange(size), "float32")
            pixels = ops.matmul(chosen, ops.reshape(pixels, (batch, size, -1)))
            pixels = ops.transpose(ops.reshape(pixels, (batch, size, -1, channels)), (0, 2, 1, 3))
        return pixels

    def compute_output_shape(self, shape):
        return shape

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, self.compute_dtype)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("mean", "std", "padding", "flip", "seed")}
        return {**super().get_config(), **own}


def _normalization(mean, std):
    return {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}


IMAGENET = _normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR = _normalization([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def make_transform(name, input_shape, largest_pixel):
    """Makes the first layer of a network.

    Args:
        name: "none": pixels scaled to [0, 1]. "vgg" and "resnet", as in the authors' code: random crop of the image
            padded by 4 of 32 pixels, flip, and normalization by the statistics of ImageNet or CIFAR-10.
        input_shape: (height, width, channels).
        largest_pixel: The value of white.
    """
    if name == "none":
        return Transform(0.0, float(largest_pixel), name="transform")
    normalization = {"vgg": IMAGENET, "resnet": CIFAR}[name]
    return Transform(**normalization, padding=input_shape[0] // 8, flip=True, name="transform")
