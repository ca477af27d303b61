"""The floor under both halves, `curves` and `keras_fge`: it knows neither curves nor callbacks."""
