"""scikit-learn's k-means, as a start for mixtures."""

import warnings


def fit_kmeans(x, n_clusters, seed):
    """Fit k-means once to vectors, a Tensor (n, n_features); return scikit-learn's KMeans.

    Of rows that differ by rounding alone it may find fewer clusters. scikit-learn warns of that,
    but a user has no mend for it.
    """
    from sklearn.cluster import KMeans  # scoring does without
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed).fit(x.numpy())
