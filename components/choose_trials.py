from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def choose_trials(
    networks: list, optimizers: list, batch_sizes: list, learning_rates: list, trials: int, advanced: dict
) -> list[str]:
    """Says which values are to be tried together.

    Args:
        networks: the networks to try.
        optimizers: the optimizers.
        batch_sizes: pictures a step.
        learning_rates: of the first step; drawn at random, they lie between the smallest and the largest.
        trials: how many are drawn at random; 0 for every combination.
        advanced: seed is read of it.

    Returns:
        Of each trial a text: number, network, optimizer, batch_size and learning_rate as JSON. KFP hands an item of a list that
        a stage gave over as a text, whatever it is.
    """
    fields = dict(locals())
    from kfp_vision import parameters, sweep

    return sweep.choose_trials(fields, parameters.Advanced.parse(advanced).seed)
