"""`FiniteLoss`: a callback that ends the training of a curve when its loss is not finite, and keeps what was good."""

import keras
import numpy as np

from keras_fge.core.keras_internals import all_layers
from keras_fge.core.networks import read


class FiniteLoss(keras.callbacks.Callback):
    """Ends a training whose loss is not finite, and restores all values of the last good epoch."""

    def on_train_begin(self, logs=None):
        self._good = []
        # On TensorFlow, layers that see data for the first time are built in the first step.
        if all(layer.built for layer in all_layers(self.model, include_self=False)):
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self._time = "the beginning"
            self._remember()

    def on_epoch_end(self, epoch, logs=None):
        # The loss of an epoch is a mean over its steps: it is not finite if that of one step is not.
        loss = (logs or {}).get("loss", 0.0)
        if np.isfinite(loss) and self._remember():
            self._time = f"the end of epoch {epoch + 1}"
            return
        for variable, value in self._good:
            variable.assign(value)
        cause = "a weight is not finite" if np.isfinite(loss) else f"the loss is {loss}"
        kept = f"All values were put back to those of {self._time}." if self._good else "No earlier values were known."
        raise FloatingPointError(
            f"After epoch {epoch + 1} {cause}. {kept} Try a lower learning rate, or `clipnorm` in the optimizer."
        )

    def _remember(self):
        """Copies all values that training changes; returns False, and keeps the old ones, if weights are not finite."""
        model = self.model
        weights = [(variable, read(variable)) for variable in model.trainable_variables]
        if not all(np.all(np.isfinite(value)) for _, value in weights):
            return False
        bends = [variable for layer in model.curve_layers() for bend in layer.bends for variable in bend]
        fixed = {id(variable) for variable in bends}
        others = [variable for variable in model.non_trainable_variables if id(variable) not in fixed]
        self._good = weights + [(variable, read(variable)) for variable in others + model.optimizer.variables]
        return True
