"""FGE with AdamW on a table: scikit-learn's breast cancer data. One network against the ensemble at the same cost."""

import keras
from keras import layers
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import keras_fge


def make_network():
    network = keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.compile(keras.optimizers.AdamW(0.002, weight_decay=0.1), "binary_crossentropy", jit_compile=False)
    return network


def run(seed, epochs=20):
    """Test metrics of both, by name."""
    x, y = load_breast_cancer(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x).astype("float32"), scaler.transform(x_test).astype("float32")

    keras.utils.set_random_seed(seed)
    one = make_network()
    one.fit(x, y, epochs=epochs, verbose=0, callbacks=[keras_fge.PaperTraining(0.002, epochs)])

    keras.utils.set_random_seed(seed)
    network = make_network()
    fge = keras_fge.FGE(0.006, 0.00006, cycle_epochs=2, start_epoch=epochs // 2)
    network.fit(x, y, epochs=epochs, verbose=0, callbacks=[fge])
    return {
        "one network": keras_fge.Ensemble.of([one]).evaluate(x_test, y_test, calibrate=True),
        "FGE": fge.ensemble().evaluate(x_test, y_test, calibrate=True),
    }


if __name__ == "__main__":
    print(run(seed=0))
