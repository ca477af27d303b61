"""Regression with predictive variance: each network says mean and noise; an FGE ensemble adds what it does not know.

The members' normal distributions are mixed (Lakshminarayanan et al., NeurIPS 2017, https://arxiv.org/abs/1612.01474).
On scikit-learn's diabetes data.
"""

import keras
from keras import layers
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import keras_fge

RATE = 0.003


def train(x, y, epochs, seed, callback):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(64, activation="relu"), layers.Dropout(0.2)]
    network = keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(2)])
    network.compile(keras.optimizers.AdamW(RATE, weight_decay=0.1), keras_fge.gaussian_nll, jit_compile=False)
    network.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])
    return network


def run(seed, epochs=40):
    """Test metrics of one network and of the FGE ensemble."""
    x, y = load_diabetes(return_X_y=True)
    x, y = (20 * x).astype("float32"), ((y - y.mean()) / y.std()).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=seed)
    one = train(x, y, epochs, seed, keras_fge.PaperTraining(RATE, epochs))
    fge = keras_fge.FGE(3 * RATE, 0.03 * RATE, cycle_epochs=2, start_epoch=epochs // 2)
    train(x, y, epochs, seed, fge)
    results = {}
    for name, ensemble in {"one network": keras_fge.Ensemble.of([one]), "FGE": fge.ensemble()}.items():
        values = ensemble.evaluate(x_test, y_test)
        results[name] = {"rmse": values["mse"] ** 0.5, "nll": values["nll"], "crps": values["crps"]}
        results[name]["inside 90 %"] = values["coverage_90"]
    return results


if __name__ == "__main__":
    print(run(seed=0))
