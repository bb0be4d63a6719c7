from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def choose_trials(
    networks: list, optimizers: list, batch_sizes: list, learning_rates: list, trials: int, advanced: dict
) -> list[str]:
    """Chooses the hyperparameter values of each trial: every combination, or a random sample.

    Args:
        networks: networks to try.
        optimizers: optimizers to try.
        batch_sizes: images per step to try.
        learning_rates: initial learning rates to try; random trials draw between the smallest and the largest.
        trials: number of random trials; 0 for every combination.
        advanced: advanced settings; uses seed and trial_reduction_factor.

    Returns:
        The trials, each a text with number, network, optimizer, batch_size and learning_rate as JSON, because KFP passes every
            item of a list produced by a stage as text.
    """
    fields = dict(locals())
    from kfp_vision.core.advanced import Advanced
    from kfp_vision.training import sweep

    return sweep.choose_trials(fields, Advanced.parse(advanced))
