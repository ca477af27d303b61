"""What networks of one architecture cost side by side, in one program, against one after the other."""

import keras

import keras_fge
from speed.training import images, network, steps_of
from speed.turns import compared, one_epoch, take_turns


def side_by_side(name, settings):
    """An epoch of so many networks, and what they predict for its images, on JAX; by Keras, one after the other."""
    if keras.backend.backend() != "jax":
        raise SystemExit("--measure=side_by_side is for JAX.")
    from study.side_by_side import SideBySide

    steps = steps_of(name, settings)
    x, y = images(settings, steps)
    works, references = {}, {}
    plain = network(name, settings)
    epoch = one_epoch(plain, x, y, batch_size=settings.batch_size)
    for count in settings.members:
        run = SideBySide([network(name, settings) for _ in range(count)])
        batches = [keras_fge.Batches(x, y, settings.batch_size, seed) for seed in range(count)]
        works |= {
            f"{count} trained, one after the other": lambda count=count: sum(epoch() for _ in range(count)),
            f"{count} trained": lambda run=run, batches=batches: run.fit(batches, [0.001] * steps),
            f"{count} predict, one after the other": lambda count=count: [
                plain.predict(x, settings.batch_size, verbose=0) for _ in range(count)
            ][:0],
            f"{count} predict": lambda run=run: run.predict(x, settings.batch_size)[:0],
        }
        references |= {f"{count} {what}": f"{count} {what}, one after the other" for what in ("trained", "predict")}
    return {"steps": steps, **compared(take_turns(settings.turns, works), references)}
