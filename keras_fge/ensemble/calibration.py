"""What is said of a temperature that was fitted, before one predicts with it."""

import warnings
from collections.abc import Mapping

from keras_fge.core.arguments import as_number
from keras_fge.core.tasks import Temperature
from keras_fge.core.temperature import LARGEST, SMALLEST


def checked_temperature(found: Mapping[str, tuple[float, float]]) -> Temperature:
    """The temperature of the one output, or those of several by name.

    Args:
        found: (T, its relative standard error) of each output that has probabilities, by name; "" for the only one.

    Warns:
        UserWarning: of a T at the edge of the search, or that the data hardly tell.

    Raises:
        ValueError: if there is none.
    """
    if not found:
        raise ValueError(
            "`calibrated` needs outputs that are probabilities: these are values. `predict_variance` says how far the "
            "members differ."
        )
    for name, (temperature, error) in found.items():
        of_output = f" of {name!r}" if name else ""
        if not SMALLEST * 1.01 < temperature < LARGEST / 1.01:
            warnings.warn(
                f"The temperature{of_output} is at the edge of the search, {temperature:.3g}: on these data the "
                f"ensemble is {'always right, or nearly' if temperature < 1 else 'hardly ever right'}, and no "
                "temperature says by how much. Use other data, or more.",
                stacklevel=3,
            )
        elif error > 0.2:
            warnings.warn(
                f"The temperature{of_output}, {temperature:.3g}, has a standard error of {100 * error:.0f} % on these "
                "data: too few to calibrate on.",
                stacklevel=3,
            )
    temperatures = {name: temperature for name, (temperature, _) in found.items()}
    return temperatures.get("", temperatures)


def as_temperature(temperature: Temperature) -> Temperature:
    """A temperature that a user gives, as floats.

    Raises:
        ValueError: if it, or one of several, is no positive number.
    """
    if isinstance(temperature, Mapping):
        return {name: _positive(value) for name, value in temperature.items()}
    return None if temperature is None else _positive(temperature)


def _positive(value):
    if not (number := as_number("temperature", value)) > 0:
        raise ValueError(f"`temperature` must be positive. Received: temperature={value}")
    return number
