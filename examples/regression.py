"""Regression with predictive variance: each network says mean and noise; an FGE ensemble adds what it does not know.

Members predict N(m_k, s_k^2). Their mixture has the mean m = 1/K sum_k m_k and the variance 1/K sum_k (s_k^2 + m_k^2) -
m^2 (Lakshminarayanan et al., NeurIPS 2017, https://arxiv.org/abs/1612.01474). On scikit-learn's diabetes data.
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import keras_fge

RATE = 0.003


def gaussian_nll(y, outputs):
    """The outputs are (mean, log variance)."""
    y, mean, log_variance = y[:, 0], outputs[:, 0], outputs[:, 1]
    return 0.5 * (log_variance + (y - mean) ** 2 * ops.exp(-log_variance) + np.log(2 * np.pi))


def train(x, y, epochs, seed, callback):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(64, activation="relu"), layers.Dropout(0.2)]
    network = keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(2)])
    network.compile(keras.optimizers.AdamW(RATE, weight_decay=0.1), gaussian_nll, jit_compile=False)
    network.fit(x, y[:, None], epochs=epochs, verbose=0, callbacks=[callback])
    return network


def evaluate(members, y):
    """Metrics of the mixture of `members`, shape (K, N, 2)."""
    means, variances = members[..., 0], np.exp(members[..., 1])
    mean = means.mean(axis=0)
    variance = (variances + means**2).mean(axis=0) - mean**2
    nll = 0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)
    inside = np.abs(y - mean) < 1.645 * np.sqrt(variance)  # 90 % of a Gaussian.
    return {"rmse": np.sqrt(np.mean((y - mean) ** 2)), "nll": nll.mean(), "inside 90 %": inside.mean()}


def run(seed, epochs=40):
    """Test metrics of one network and of the FGE ensemble."""
    x, y = load_diabetes(return_X_y=True)
    x, y = (20 * x).astype("float32"), ((y - y.mean()) / y.std()).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=seed)
    paper = keras_fge.PaperTraining(RATE, epochs)
    one = train(x, y, epochs, seed, paper).predict(x_test, verbose=0)[None]
    fge = keras_fge.FGE(3 * RATE, 0.03 * RATE, cycle_epochs=2, start_epoch=epochs // 2, task="regression")
    train(x, y, epochs, seed, fge)
    members = fge.ensemble().predict(x_test, members=True)
    return {"one network": evaluate(one, y_test), "FGE": evaluate(members, y_test)}


if __name__ == "__main__":
    print(run(seed=0))
