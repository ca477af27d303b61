"""`Ensemble`: members of one network that predict together, by the mean of their probabilities."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import keras
import numpy as np

from keras_fge.core.architecture import check_same_architecture
from keras_fge.core.arguments import as_number
from keras_fge.core.batch_norm import check_can_be_estimated
from keras_fge.core.compile_as import compile_as
from keras_fge.core.compiled import AS_COMPILED, check_metrics, compiled_metrics, compiled_outputs
from keras_fge.core.files import naming
from keras_fge.core.networks import clone, set_weights
from keras_fge.core.pages import Sizes, as_table, small_figure
from keras_fge.core.predictions import RunningVariance
from keras_fge.core.tasks import FromLogits, Outputs, Task, Temperature
from keras_fge.ensemble.calibration import as_temperature, checked_temperature
from keras_fge.ensemble.conformal import Conformal, fit_conformal
from keras_fge.ensemble.export import one_model
from keras_fge.ensemble.members import Members
from keras_fge.ensemble.reliability import Reliability
from keras_fge.ensemble.selection import greedy_ensemble, greedy_soup
from keras_fge.ensemble.selective import Selective, selective_of
from keras_fge.ensemble.stored import AS_SAVED, read, write
from keras_fge.ensemble.uncertainty import disagreement, ood_auroc, ood_fpr, uncertainty_of
from keras_fge.run import Snapshot, check_fits, distances_between, measured


class Ensemble:
    """Networks of one architecture that predict together: p(y | x) = 1/K sum_k p_k(y | x).

    Probabilities are averaged, never logits. One member at a time is put into `network`, whose own weights come back
    afterwards, also after an error. Sums are float32, or float64 if the outputs are. `ensemble[:k]` is the ensemble of
    the first k members, and `ensemble[0]` the first member, a network of its own.

    Args:
        network: A built `keras.Model`.
        snapshots: `Snapshot`s, or lists of arrays as `network.get_weights()` returns them; at least one.
        from_logits: What the network outputs. True: logits, which a softmax (a sigmoid for a single output) turns into
            probabilities before they are averaged. False: probabilities. None: neither, as in regression. For a network
            with several outputs, one for all or a list with one for each. `callback.ensemble()` takes it from the
            compiled losses. Default: False.
        task: What the outputs are for, also one for all or a list. "classification": the last axis holds classes, of
            which one is right for each sample, or for each position of a sequence or an image; one column alone is the
            probability of class 1 of two. "multilabel": each element is the probability of a label of its own, and
            logits go through a sigmoid. "regression": values. "gaussian": (mean, logarithm of the variance) of each
            value, on the last axis, as networks with `keras_fge.gaussian_nll` output them; the ensemble predicts
            the mean and the variance of their mixture. Default: "regression" if `from_logits` is None, else
            "classification".
        weights: Shares v_k of the members, positive, brought to the sum 1: p = sum_k v_k p_k. Default: equal ones.
        temperature: T of the mean, p_T = softmax(log(p) / T), or one for each output by name; see `calibrated`.
            Default: none.

    Raises:
        ValueError: if there is no snapshot, or one that does not fit the network, or `from_logits` and `task` are
            other values or contradict each other, or `weights` are not one positive number for each member.

    Example:
        ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
        ensemble.predict(x_test)  # Mean probabilities, shape (N, classes).
        ensemble.evaluate(x_test, y_test)  # {"error": ..., "nll": ..., "brier": ..., "ece": ...}
        ensemble.save("ensemble")
        keras_fge.Ensemble.load("ensemble")

    References:
        Garipov et al., NeurIPS 2018, section 5, https://arxiv.org/abs/1802.10026
    """

    def __init__(
        self,
        network: keras.Model,
        snapshots: Sequence[Snapshot | Sequence[np.ndarray]],
        from_logits: FromLogits = False,
        task: Task = None,
        *,
        weights: Sequence[float] | None = None,
        temperature: Temperature = None,
    ):
        snapshots = list(snapshots)
        if models := [s for s in snapshots if isinstance(s, keras.Model)]:
            raise ValueError(
                f"`snapshots` must hold weights, as {models[0].name}.get_weights() returns them, or `Snapshot.of("
                f"{models[0].name})`. Received a keras.Model."
            )
        members = [s if isinstance(s, Snapshot) else Snapshot(s) for s in snapshots]
        if not members:
            raise ValueError("`snapshots` is empty: an ensemble needs at least one member.")
        for index, member in enumerate(members):
            check_fits(member, network, index)
        shares = _checked_weights(weights, len(members))
        self._members = Members(network, members, Outputs(from_logits, task), shares, as_temperature(temperature))

    @property
    def network(self) -> keras.Model:
        """What the members are put into."""
        return self._members.network

    @property
    def snapshots(self) -> list[Snapshot]:
        """The members, in their order."""
        return list(self._members.snapshots)

    @property
    def from_logits(self) -> FromLogits:
        """As given."""
        return self._outputs.from_logits

    @property
    def task(self) -> Task:
        """As given."""
        return self._outputs.task

    @property
    def weights(self) -> Sequence[float] | None:
        """The shares of the members, with the sum 1; None: equal ones."""
        return self._members.weights

    @property
    def temperature(self) -> Temperature:
        """That of the mean; None: none."""
        return self._members.temperature

    @property
    def runs_once(self) -> tuple[str, ...]:
        """The names of the layers that `predict` and `evaluate` run once for all members, which share their weights.

        They stand before the first layer in which members differ: a frozen backbone before heads, or what comes before
        the first layer with LoRA. Empty, if there are none, as of networks of a class of one's own.

        The whole network runs for each member all the same if what comes out of these layers would take more than 1
        GiB for all samples of arrays, or, of a data set, more than 8 KiB for a sample; and if the network in two parts
        does not predict the first samples as the network does, as with masks that a layer makes inside.
        """
        return self._members.trunk.layers if self._members.trunk else ()

    @property
    def is_stacked(self) -> bool:
        """Whether `predict` and `evaluate` take arrays through all members in one program.

        They do for small networks of dense layers: at most 64 MiB of weights of all members together, and 1 GiB of
        predictions. `runs_once` does not matter then.
        """
        return self._members.stacked is not None and self._members.stacked.is_exact is not False

    @property
    def _outputs(self):
        return self._members.outputs

    @classmethod
    def of(
        cls,
        networks: Sequence[keras.Model],
        from_logits: Any = AS_COMPILED,
        task: Task = None,
        *,
        weights: Sequence[float] | None = None,
    ) -> "Ensemble":
        """The ensemble of networks of one architecture that were trained independently. They are copied.

        Args:
            networks: Built networks. The first one is what the members are put into, and keeps its weights.
            from_logits, task: As for the constructor. Default: as the losses say with which they are compiled; else as
                for the constructor.
            weights: As for the constructor.

        Raises:
            ValueError: if their architectures differ, by weights, layers or graph; the message names the first that
                does. If the compiled losses do not say what the networks output, or say different things.

        Example:
            keras_fge.Ensemble.of([net_a, net_b]).evaluate(x_test, y_test)
        """
        networks = list(networks)
        for index, network in enumerate(networks):
            if not isinstance(network, keras.Model):
                raise ValueError(f"`networks[{index}]` must be a keras.Model. Received: {network!r}")
            check_same_architecture(networks[0], network, "`networks[0]`", f"`networks[{index}]`")
        if not networks:
            raise ValueError("`networks` is empty: an ensemble needs at least one member.")
        if from_logits == AS_COMPILED:
            from_logits, task = _outputs_of(networks, task)
        first = Snapshot.of(networks[0])
        others = [Snapshot.of(network, like=first) for network in networks[1:]]
        return cls(networks[0], [first, *others], from_logits, task, weights=weights)

    def __add__(self, other: "Ensemble") -> "Ensemble":
        """The members of both, as of two runs, in the network of the first. Weights count for as many members."""
        if not isinstance(other, Ensemble):
            return NotImplemented
        check_same_architecture(self.network, other.network, "the network of the first ensemble", "that of the second")
        if (self.from_logits, self.task) != (other.from_logits, other.task):
            raise ValueError(
                f"The two ensembles must have the same `from_logits` and `task`. Received: {self!r} and {other!r}"
            )
        weights = None
        if self.weights is not None or other.weights is not None:
            parts = [(len(part), part._members.shares) for part in (self, other)]
            weights = [share * count / sum(shares) for count, shares in parts for share in shares]
        members = [*self.snapshots, *other.snapshots]
        return Ensemble(self.network, members, self.from_logits, self.task, weights=weights)

    def predict(self, x: Any, batch_size: int | None = None, members: bool = False) -> Any:
        """The mean of the members' probabilities; of their outputs, for a network that does not classify.

        With `task="gaussian"`, the mean and the variance of the members' mixture, on the last axis: m = sum_k v_k m_k
        and sum_k v_k (s_k^2 + (m_k - m)^2).

        Args:
            x: What `keras.Model.predict` takes. A data set must come in the same order every time: no shuffling. A
                generator is read once: every member predicts each batch before the next one comes, which is slower.
            batch_size: Samples per batch, for arrays.
            members: Whether to return the prediction of each member instead, shape `(K, N, ...)`. Default: no; then
                only the sum and the prediction of one member are held.

        Returns:
            float32 array of the shape of the network's output (or the same structure of arrays for several outputs);
            float64 if that is what the network outputs.
        """
        if members:
            return keras.tree.map_structure(
                lambda *arrays: np.stack([np.asarray(array) for array in arrays]),
                *self._members.all_predictions(x, batch_size),
            )
        return self._members.predict(x, batch_size)

    def predict_variance(self, x: Any, batch_size: int | None = None) -> Any:
        """The variance over the members, sum_k v_k (p_k - p)^2, of what `predict` averages. Same shape, float64."""
        return self._members.add_up(RunningVariance(), x, batch_size).variance()

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        calibrate: bool = False,
        *,
        sample_weight: Any = None,
        metrics: str | None = None,
        ood: Any = None,
    ) -> dict[str, float]:
        """Test metrics of the whole ensemble, as floats.

        For p = `predict(x)`, N samples and labels y:

            error: fraction of samples whose largest probability is not that of the label, in [0, 1]
            nll:   -1/N sum_n log p_n[y_n], in nats (p clipped at 1e-7)
            brier: 1/N sum_n sum_c (p_n[c] - [c = y_n])^2
            ece:   sum_b (n_b / N) |accuracy_b - confidence_b| over 15 equal bins of the largest probability

        where N counts positions for sequences and images, and elements for labels that do not exclude each other. For
        values instead: mse and mae, the mean squared and absolute error of the mean prediction. With
        `task="gaussian"`, of the mixture p(y) = sum_k v_k N(y; m_k, s_k^2), whose distribution function is F:

            nll:  -1/N sum_n log p_n(y_n), in nats
            crps: 1/N sum_n of the integral of (F_n(z) - [z >= y_n])^2 over z, in the unit of y
            coverage_50, coverage_90: how often y_n lies in the central interval of 50 %, 90 %

        and mse and mae of its mean. With several outputs, the name of the output stands before each, as in
        "digit_error".

        Args:
            x: Inputs, or a data set of (x, y) or (x, y, sample_weight) batches in an order that does not change.
            y: Labels, for array inputs: integers of shape `(N, ...)` or `(N, ..., 1)`, or one-hot or soft ones of shape
                `(N, ..., classes)`, see `classification_metrics`; for labels that do not exclude each other, 0 and 1 in
                the shape of the output. For several outputs, the structure of the outputs.
            batch_size: Samples per batch, for arrays.
            calibrate: Whether to add "calibrated_nll", "calibrated_brier", "calibrated_ece" and "temperature": after
                temperature scaling with 5-fold cross-validation on these data; see `calibrated_metrics`.
            sample_weight: Weights of the samples, `(N,)`, or positions, `(N, ...)`, such as a mask: all metrics are
                means with these weights. For several outputs, one for all, or the structure of the outputs.
            metrics: "compiled": the loss (without regularizers) and the metrics with which the network is compiled,
                instead of those above. They see the mean prediction (its logits, if the network outputs logits), so
                this works for any task. Default: those above.
            ood: Foreign inputs, of another kind than `x`: adds "ood_auroc_entropy" and "ood_auroc_mutual_information"
                (with `task="gaussian"`, "ood_auroc_noise" and "ood_auroc_disagreement"), how well the uncertainty tells
                them from `x`, and "ood_fpr95_...", the fraction of them that passes where 95 % of `x` do; see
                `keras_fge.ood_auroc`, `keras_fge.ood_fpr`. Needs scikit-learn. Default: none.

        Returns:
            `{"error", "nll", "brier", "ece", ...}`.

        Raises:
            ValueError: if outputs are no probabilities (see `from_logits`), labels do not fit, or the data set changes
                its order between passes; with `metrics="compiled"`, if the network is not compiled.

        References:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
        """
        members = self._members
        running, labels, shares = members.together(x, y, sample_weight, batch_size)
        values = self._metrics(members.scaled(running.mean()), labels, shares, calibrate, metrics)
        if ood is not None:
            scores = [self.uncertainty(data, batch_size) for data in (x, ood)]
            for name in scores[0]:
                inside, outside = (score[name] for score in scores)
                values |= {f"ood_auroc_{name}": ood_auroc(inside, outside)}
                values |= {f"ood_fpr95_{name}": ood_fpr(inside, outside)}
        return values

    def evaluate_sizes(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        calibrate: bool = False,
        *,
        sample_weight: Any = None,
        metrics: str | None = None,
    ) -> Sizes:
        """The metrics of `evaluate` for the ensembles of the first 1, 2, ..., K members: arrays of shape `(K,)`.

        It is a dictionary; its method `to_frame()` makes a pandas table of it.
        """
        rows = [
            self._metrics(running.mean(), labels, shares, calibrate, metrics)
            for running, labels, shares in self._members.growing(x, y, sample_weight, batch_size)
        ]
        return Sizes({name: np.array([row[name] for row in rows]) for name in rows[0]})

    def calibrated(
        self, x: Any, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None
    ) -> "Ensemble":
        """The same members with the temperature that fits validation data best: probabilities that mean what they say.

            p_T = softmax(log(p) / T),   T = argmin of the NLL of p_T on these data,   1/64 <= T <= 64

        where p is the mean of the members' probabilities. T > 1 makes predictions less sure. The class that is
        predicted does not change. With `task="gaussian"`, T is a factor of the variance: that of the mixture
        stretched around its mean, m + sqrt(T) (Y - m), with the least NLL.

        `predict`, `evaluate`, `to_model`, `save` and `load` have the temperature, which is the attribute `temperature`:
        a float, or of several outputs a dictionary by name. It belongs to this mean: what has other members (slices,
        `+`, `select`, `soup`, averaged weights, the sizes of `evaluate_sizes`), and what is of the members alone
        (`uncertainty`, `predict(members=True)`), is without it.

        Args:
            x, y, batch_size, sample_weight: Validation data, as for `evaluate`. Never test data, nor those on which it
                was trained.

        Warns:
            UserWarning: if the data are too few to tell T by less than 20 % (standard error), or the best T is at the
                edge of where it is looked for.

        Raises:
            ValueError: if no output has probabilities: for values, `predict_variance` says how far members differ.

        Example:
            ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
            calibrated = ensemble.calibrated(x_test[:300], y_test[:300])
            calibrated.temperature, calibrated.evaluate(x_test[300:], y_test[300:])["nll"]

        References:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599; Rahaman
            and Thiery, Uncertainty Quantification and Deep Ensembles, NeurIPS 2021, https://arxiv.org/abs/2007.08792
            (of the mean, not of each member)
        """
        running, labels, shares = self._members.together(x, y, sample_weight, batch_size)
        found = self._outputs.fit_temperature(self.network, running.mean(), labels, shares)
        return Ensemble(
            self.network,
            self.snapshots,
            self.from_logits,
            self.task,
            weights=self.weights,
            temperature=checked_temperature(found),
        )

    def conformal(
        self,
        x: Any,
        y: Any = None,
        alpha: float = 0.1,
        method: str | None = None,
        *,
        batch_size: int | None = None,
        by_class: bool = False,
        randomized: bool = False,
        seed: int = 0,
        lam: float = 0.01,
        k_reg: int = 5,
    ) -> Conformal:
        """Sets of classes, or intervals, that hold the right answer with probability at least 1 - alpha.

        Each method gives a new sample a score for each possible answer, and keeps the answers whose score is at most
        the ceil((n + 1)(1 - alpha))-th smallest score of the right answers of n calibration samples (split conformal
        prediction). The coverage is at least 1 - alpha, and less than 1 - alpha + 1/(n + 1) where no scores are equal,
        whatever the network and the data are, as long as both kinds of samples come from one source.

        With p the mean of the members' probabilities, and r_c the rank of class c from the most probable one, 1, on:

            "lac":  1 - p_c: the smallest sets on average, as far as the probabilities are right
            "aps":  sum of p over the classes of rank <= r_c: sets that grow where the ensemble is unsure
            "raps": the same + lam max(r_c - k_reg, 0): without the long tail of classes

        With m the mean of the members, and s their deviation (with `task="gaussian"`, that of the mixture):

            "scaled":   |y - m| / s, intervals m - q s to m + q s
            "residual": |y - m|, intervals of one width
            "quantile": max(lower - y, y - upper), for a network whose last axis is (lower, upper)

        Args:
            x, y, batch_size: Calibration data, as for `evaluate`: data on which nothing was trained, chosen or stopped.
                Of a regression with several targets, each has its own threshold, and coverage for itself.
            alpha: How often the answer may be missed, between 0 and 1. Default: 0.1.
            method: Default: "lac" of a classifier, "scaled" of a regression.
            by_class: Whether each class is to have that coverage, by a threshold of its own. It needs samples of each.
                Default: no, all samples together.
            randomized: For "aps" and "raps": whether to take off u p_c, with u in [0, 1) as good as drawn for each
                sample, which makes sets smaller. u is a function of the probabilities: equal samples have equal sets.
                Default: no.
            seed: Of u. Default: 0.
            lam, k_reg: Of "raps". Default: 0.01, 5.

        Returns:
            A `Conformal` with `predict`, `evaluate`, `to_model`, `save` and `load`.

        Raises:
            ValueError: if `alpha` needs more samples, which the message tells; if the method does not fit the outputs;
                if there are several outputs, or positions; of "scaled", if members agree exactly.

        Example:
            ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
            sets = ensemble.conformal(x_test[:300], y_test[:300], alpha=0.1)
            sets.predict(x_test[300:])  # bool, shape (N, classes)
            sets.evaluate(x_test[300:], y_test[300:])["coverage"]

        References:
            Sadinle et al., Least Ambiguous Set-Valued Classifiers, JASA 2019, https://arxiv.org/abs/1609.00451; Romano
            et al., Classification with Valid and Adaptive Coverage, NeurIPS 2020, https://arxiv.org/abs/2006.02544;
            Angelopoulos et al., Uncertainty Sets for Image Classifiers, ICLR 2021, https://arxiv.org/abs/2009.14193;
            Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018,
            https://arxiv.org/abs/1604.04173; Romano et al., Conformalized Quantile Regression, NeurIPS 2019,
            https://arxiv.org/abs/1905.03222
        """
        options = {"by_class": by_class, "randomized": randomized, "seed": seed, "lam": lam, "k_reg": k_reg}
        return fit_conformal(self._members, x, y, alpha, method, batch_size, options)

    def reliability(
        self, x: Any, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None
    ) -> Reliability:
        """Whether the ensemble is as sure as it is right: accuracy against confidence, in 15 bins.

        Of a `calibrated` ensemble, before and after; on other data than those that it is calibrated on.

        Args:
            x, y, batch_size, sample_weight: As for `evaluate`.

        Returns:
            A `Reliability`: a dictionary with `sentences`, `plot`, `to_html`, `show` and `to_frame`.

        Raises:
            ValueError: if there are several outputs, or no probabilities.

        Example:
            ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
            print(*ensemble.calibrated(x_test[:300], y_test[:300]).reliability(x_test[300:], y_test[300:]).sentences())

        References:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
        """
        output = self._members.one_output("reliability")
        if not output.has_classes:
            raise ValueError("`reliability` needs probabilities. `evaluate` tells the coverage of intervals.")
        _, mean, labels, shares = self._members.of_one_output("reliability", x, y, sample_weight, batch_size)
        means = [mean, *([] if self.temperature is None else [self._members.scaled(mean)])]
        return Reliability.of(output, means, labels, shares, self.temperature)

    def selective(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        *,
        score: str | None = None,
        sample_weight: Any = None,
    ) -> Selective:
        """What it brings to refuse the predictions of which the ensemble is least sure: risk against coverage.

            risk(c) = mean loss of the fraction c of the predictions that is surest,   aurc = its mean over c

        The loss is the error of a classifier, and the squared error of values. Of equally sure predictions, the loss
        is their mean: they are refused in random order.

        Args:
            x, y, batch_size, sample_weight: As for `evaluate`.
            score: "confidence", the largest probability; "entropy"; "mutual_information", what the members disagree
                about. Of values, "deviation", that of the members, or of their mixture. Default: the first.

        Returns:
            A `Selective`: a dictionary with "coverage" and "risk", arrays from the surest prediction to all of them;
            "aurc"; "excess_aurc", less that of the best order; "refused_for_half", the share to refuse that halves the
            risk, or None. It has `sentences`, `plot`, `to_html`, `show` and `to_frame`.

        Raises:
            ValueError: if there are several outputs, or the score does not fit.

        Example:
            ensemble = keras_fge.Ensemble(net_a, [net_a.get_weights(), net_b.get_weights()])
            ensemble.selective(x_test, y_test)["aurc"]

        References:
            Geifman et al., Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019,
            https://arxiv.org/abs/1805.08206
        """
        return selective_of(self._members, x, y, batch_size, score, sample_weight)

    def uncertainty(self, x: Any, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """How unsure the ensemble is of each sample, and how much of that is due to its members; of one output.

        Returns:
            Of a classifier, `{"entropy", "mutual_information"}`, in nats, arrays of shape `(N,)`; see
            `keras_fge.uncertainty`. With `task="gaussian"`, the two parts of the variance that `predict` returns (as
            long as there is no temperature), `{"noise", "disagreement"}`: the mean of the members' variances,
            sum_k v_k s_k^2, and the variance of their means, sum_k v_k (m_k - m)^2.
        """
        return uncertainty_of(self._members, x, batch_size)

    def disagreement(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The fraction of samples for which two members predict different classes: array of shape `(K, K)`.

        NaN for a member whose predictions are not finite.
        """
        predictions = self._members.all_predictions(x, batch_size)
        if not isinstance(predictions[0], np.ndarray) or not (output := self._outputs.each(1)[0]).has_classes:
            raise ValueError("`disagreement` needs a classifier with one output; of values, `predict_variance` tells.")
        return disagreement(predictions, output.classes)

    def distances(self) -> np.ndarray:
        """||w_j - w_k|| over the trainable weights: array of shape `(K, K)`, in the units of the weights."""
        return distances_between(self.snapshots, self.network)

    def select(self, x: Any, y: Any, batch_size: int | None = None, seed: int = 0) -> "Ensemble":
        """The members that do best together on validation data, chosen greedily, as an `Ensemble`.

        On a random half of the data, the member that lowers the NLL of the ensemble so far the most (for a network that
        does not classify, the mean squared error) joins until none is left. Among the ensembles on this way, the whole
        one included, that with the lowest value on the *other* half is returned: a choice which does not hold there is
        not made. Members whose predictions are not finite are left out, with a warning.

        Args:
            x, y: Validation arrays. Never test data: what chose the members cannot measure them.
            batch_size: Samples per batch.
            seed: Seed of the random split. Default: 0.

        References:
            Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
        """
        chosen = greedy_ensemble(self._members, x, y, batch_size, seed)
        return Ensemble(self.network, [self.snapshots[k] for k in chosen], self.from_logits, self.task)

    def soup(self, x: Any, y: Any, train: Any = None, batch_size: int = 128, *, seed: int = 0) -> keras.Model:
        """One network with the mean of the weights of members that go well together, chosen on validation data.

        On a random half of the data, in the order of their own NLL (for values, mean squared error), each member joins
        if the network with the mean weights does not get worse. Among the networks on this way, the best single member
        included, that with the lowest value on the *other* half is returned. (The mean of all members is
        `average_weights`.)

        Args:
            x, y: Validation arrays. Never test data.
            train: Training data, for the statistics of BatchNormalization. Needed if the network has such layers.
            batch_size: Samples per batch, for arrays. Default: 128.
            seed: Seed of the random split. Default: 0.

        Returns:
            A `keras.Model` of its own, compiled as the network is.

        Raises:
            ValueError: if the network has BatchNormalization and `train` is missing.

        References:
            Wortsman et al., Model soups, ICML 2022, recipe 1, https://arxiv.org/abs/2203.05482
        """
        check_can_be_estimated(self.network, train)
        network = clone(self.network)
        chosen = greedy_soup(self._members, network, x, y, train, batch_size, seed)
        if len(chosen) == 1:
            return self[chosen[0]]
        self._members.put_mean_into(network, chosen, train, batch_size)
        return compile_as(network, self.network)

    def average_weights(self, train: Any = None, batch_size: int = 128) -> keras.Model:
        """One network with the mean of the members' weights: stochastic weight averaging (SWA) from the same run.

        Args:
            train: Training data, what `keras.Model.fit` takes: BatchNormalization statistics are estimated anew, as
                those of the members do not fit the mean. Needed if the network has such layers.
            batch_size: Samples per batch, for arrays. Default: 128.

        Returns:
            A `keras.Model` of its own, compiled as the network is, with an optimizer of its own. The mean is weighted,
            if the ensemble is. Weights that are no floats are those of the first member.

        Raises:
            ValueError: if the network has BatchNormalization and `train` is missing.

        References:
            Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
            https://arxiv.org/abs/1803.05407
        """
        check_can_be_estimated(self.network, train)
        network = clone(self.network)
        self._members.put_mean_into(network, range(len(self)), train, batch_size)
        return compile_as(network, self.network)

    def to_model(self) -> keras.Model:
        """The ensemble as one `keras.Model` that outputs mean probabilities: to save as .keras, export, or serve.

        It holds all members side by side, and only layers of Keras' own, so a file of it loads without this package.
        Layers whose weights all members share, as those of a frozen backbone, are in it once, and run once where their
        input is the same. Its outputs have the names of those of the network. A layer with LoRA is in it once a member,
        whole; with int8 inside a layer, Keras cannot load a file of it, but it can be exported.

        It is compiled as the network is, with a loss and metrics of probabilities where those take logits. Only if a
        loss of your own takes logits, or with `task="gaussian"`, it is not compiled.

        Raises:
            ValueError: if the network is of a class of its own: only functional and Sequential networks tell what goes
                into them.
        """
        return one_model(self._members)

    def save(self, directory: str | os.PathLike, about: str = "") -> None:
        """Writes the ensemble to a new folder: the network (.keras), a file for each member, and a manifest.

        Each file is complete or not there, nothing is pickled, and the manifest has the SHA-256 of network and members.
        Beside them stands a model card, README.md, unless there is one: what this is, its members with their steps,
        rates and metrics, the versions, and how to load it.

        Args:
            directory: The folder.
            about: What the card is to say first, such as on which data and how the members were trained. Default: "".

        Raises:
            ValueError: if there is an ensemble in `directory` already.
            OSError: if it cannot be written.
        """
        write(directory, self._members, about, {})

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        network: keras.Model | None = None,
        from_logits: Any = AS_SAVED,
        task: Any = AS_SAVED,
        *,
        skip_damaged: bool = False,
        verify: bool = True,
    ) -> "Ensemble":
        """The ensemble that `save` or a callback with `directory=` wrote. Weights are read when they are needed.

        The network is compiled as it was, if Keras knows the losses and metrics: own ones must be registered.

        Args:
            directory: The folder.
            network: A built network to use. Default: the one in the folder, whose classes must be Keras' own or
                registered with `keras.saving.register_keras_serializable`.
            from_logits, task: As for the constructor. Default: as saved.
            skip_damaged: Whether to leave out members whose file is missing or not as written, with a warning.
                Default: no; they are an error.
            verify: Whether manifest, network and members must be what was written, by their checksums. Default: True.

        Raises:
            ValueError: if there is no ensemble, its network cannot be loaded, or a file is damaged or does not fit.
        """
        with naming(directory):
            return cls._with(read(directory, network, from_logits, task, skip_damaged, verify)[0])

    @classmethod
    def _with(cls, members):
        outputs, kept = members.outputs, {"weights": members.weights, "temperature": members.temperature}
        return cls(members.network, members.snapshots, outputs.from_logits, outputs.task, **kept)

    def __len__(self) -> int:
        return len(self.snapshots)

    @overload
    def __getitem__(self, index: int) -> keras.Model: ...
    @overload
    def __getitem__(self, index: slice) -> "Ensemble": ...
    def __getitem__(self, index: int | slice) -> "keras.Model | Ensemble":
        """`ensemble[0]` is a member, a network of its own; `ensemble[:3]` is the ensemble of the first three."""
        if isinstance(index, slice):
            weights = None if self.weights is None else self.weights[index]
            return Ensemble(self.network, self.snapshots[index], self.from_logits, self.task, weights=weights)
        network = clone(self.network)
        set_weights(network, self.snapshots[index].weights)
        return compile_as(network, self.network)

    def __iter__(self) -> Iterator[keras.Model]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        task = f", task={self.task!r}" if self.task else ""
        known = f", temperature={self.temperature}" if self.temperature is not None else ""
        return f"Ensemble({len(self)} members of '{self.network.name}', from_logits={self.from_logits}{task}{known})"

    def _repr_html_(self) -> str:
        rows = {k: {"step": s.step, **s.metrics} for k, s in enumerate(self.snapshots, 1) if s.step}
        names = [name for name in measured(self.snapshots, "") if name.startswith("ensemble_")]
        series = {name: [row[name] for row in rows.values() if name in row] for name in names}
        return as_table([repr(self)], rows, small_figure(series, "members"))

    def _metrics(self, outputs, labels, weights=None, calibrate=False, metrics=None):
        check_metrics(metrics)
        if metrics == "compiled":
            return compiled_metrics(self.network, self._outputs, outputs, labels, weights)
        return self._outputs.metrics(self.network, outputs, labels, weights, calibrate)


def _outputs_of(networks, task):
    """(from_logits, task) as the losses of those networks say that are compiled."""
    compiled = [network for network in networks if network.compiled and network.loss is not None]
    said = [compiled_outputs(network, None, AS_COMPILED, task) for network in compiled]
    if any(outputs != said[0] for outputs in said):
        raise ValueError(f"`networks` are compiled with losses of different kinds: say `from_logits`. Received: {said}")
    return (said[0].from_logits, said[0].task) if said else (False, task)


def _checked_weights(weights, members):
    """The weights of the members, with the sum 1; None if there are none."""
    if weights is None:
        return None
    shares = [as_number("weights", weight) for weight in weights]
    if len(shares) != members or min(shares) <= 0:
        raise ValueError(f"`weights` must be {members} positive numbers, one for each member. Received: {shares}")
    return [share / sum(shares) for share in shares]
