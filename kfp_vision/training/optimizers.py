"""The optimizers of the run form."""

from typing import Any

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.frameworks import keras

# The epsilon of each optimizer unless `opt_epsilon` of advanced is set. TF-Slim's is 1.0 for all; with it, steps of adam shrink
# to a thousandth, and so do those of adadelta.
OWN_EPSILONS = {"adadelta": 1e-7, "adam": 1e-7, "adamw": 1e-7, "rmsprop": 0.1}


def make_optimizer(name: str, advanced: Advanced) -> Any:
    """Creates a Keras optimizer with TF-Slim's fields, and its defaults but for epsilon. The rate is set before every step.

    Args:
        name: one of `rules.OPTIMIZERS`.
        advanced: the settings of all optimizers.

    Returns:
        A `keras.optimizers.Optimizer`.
    """
    epsilon = advanced.opt_epsilon or OWN_EPSILONS.get(name)
    betas = {"beta_1": advanced.adam_beta1, "beta_2": advanced.adam_beta2, "epsilon": epsilon}
    optimizers = keras.optimizers
    factories = {
        "adadelta": lambda: optimizers.Adadelta(rho=advanced.adadelta_rho, epsilon=epsilon),
        "adagrad": lambda: optimizers.Adagrad(initial_accumulator_value=advanced.adagrad_initial_accumulator_value),
        "adam": lambda: optimizers.Adam(**betas),
        "adamw": lambda: optimizers.AdamW(weight_decay=advanced.weight_decay, **betas),
        "ftrl": lambda: optimizers.Ftrl(
            learning_rate_power=advanced.ftrl_learning_rate_power,
            initial_accumulator_value=advanced.ftrl_initial_accumulator_value,
            l1_regularization_strength=advanced.ftrl_l1,
            l2_regularization_strength=advanced.ftrl_l2,
        ),
        "momentum": lambda: optimizers.SGD(momentum=advanced.momentum),
        "rmsprop": lambda: optimizers.RMSprop(rho=advanced.rmsprop_decay, momentum=advanced.rmsprop_momentum, epsilon=epsilon),
        "sgd": lambda: optimizers.SGD(),
    }
    return factories[name]()
