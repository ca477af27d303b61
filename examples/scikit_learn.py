"""The ensemble inside scikit-learn: cross-validation of one network against FGE, on scikit-learn's wine data."""

import keras
from keras import layers
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_fge


def make_network(X, y):  # scikit-learn's names; y is one-hot.
    network = keras.Sequential(
        [keras.Input(X.shape[1:]), layers.Dense(32, "relu"), layers.Dense(y.shape[1], "softmax")]
    )
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), "categorical_crossentropy", jit_compile=False)
    return network


class Classifier(keras.wrappers.SKLearnClassifier):
    """Trains with FGE, and predicts with the ensemble. (A clone of Keras' wrapper would forget its `fit_kwargs`.)"""

    epochs = 20

    def fit(self, X, y):
        fge = keras_fge.FGE(0.05, 0.0005, cycle_epochs=2, start_epoch=self.epochs // 2)
        super().fit(X, y, epochs=self.epochs, batch_size=16, verbose=0, callbacks=[fge])
        self.model_ = fge.ensemble().to_model()
        return self


class OneNetwork(keras.wrappers.SKLearnClassifier):
    """The ordinary training of one network, with as many epochs."""

    def fit(self, X, y):
        paper = keras_fge.PaperTraining(0.05, Classifier.epochs)
        return super().fit(X, y, epochs=Classifier.epochs, batch_size=16, verbose=0, callbacks=[paper])


def run(seed, epochs=20):
    """Metrics of both, of predictions for samples that a fold has not trained on, by name."""
    x, y = load_wine(return_X_y=True)
    Classifier.epochs, results = epochs, {}
    for name, kind in {"one network": OneNetwork, "FGE": Classifier}.items():
        keras.utils.set_random_seed(seed)
        pipeline = make_pipeline(StandardScaler(), kind(make_network))
        folds = StratifiedKFold(4, shuffle=True, random_state=seed)
        probabilities = cross_val_predict(pipeline, x, y, cv=folds, method="decision_function")
        results[name] = keras_fge.classification_metrics(probabilities, y)
    return results


if __name__ == "__main__":
    for name, metrics in run(seed=0).items():
        print(f"{name}: error {100 * metrics['error']:.1f} %, NLL {metrics['nll']:.3f}")
