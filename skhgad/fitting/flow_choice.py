"""Whether a trained flow of feature vectors stays: if it makes vectors left out likelier."""

import torch

from .gaussian_shrinkage import is_clearly_better


@torch.no_grad()
def flow_pays(trained, untrained, samples, device):
    """Compare two models by the log-likelihood of vectors that neither was fitted to.

    A flow can gain likelihood where the mixture of the untrained model describes the vectors badly,
    and loses some where it only learns the noise of its training samples.

    Parameters
    ----------
    trained, untrained : ScoringModel
        Of feature vectors, with densities.
    samples : LabelledSamples
        Normal samples that both models left out.
    device : torch.device

    Returns
    -------
    bool
        Whether the trained model is better by more than two standard errors of the mean.
    """
    pairs = [
        (_log_likelihoods(trained, x, codes), _log_likelihoods(untrained, x, codes))
        for (x,), codes in samples.blocks(device=device)
    ]
    pairs = samples.cache.processes.gather(pairs, device)
    if not pairs:
        return True
    return is_clearly_better(*map(torch.cat, zip(*pairs, strict=True)))


def _log_likelihoods(model, x, codes):
    """Log-densities (n,) of raw vectors (n, 1, n_features) under their classes."""
    (level,) = model.levels
    z, log_det = level.latent(x)
    return (level.log_density(z, codes) + log_det)[:, 0].double()
