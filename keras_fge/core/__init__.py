"""The floor under both halves, `curves` and `keras_fge`: it knows neither curves nor callbacks."""

from keras_fge.core.backend import choose_backend

choose_backend()
