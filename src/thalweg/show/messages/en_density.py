"""English: where all eigenvalues lie."""

TEXTS = {
    "density.title": "All eigenvalues: how flat the rest is",
    "density.stiff": "Of all {parameters} eigenvalues, about {stiff} (standard error {error}) are larger than "
    "{level}. Along nearly all other directions a small step hardly changes the loss.",
    "density.negative": "About {negative} (standard error {error}) lie below −{least}, the smallest found is "
    "{smallest}: there the loss bends downwards, so this is no strict minimum.",
    "density.unknown": "Not measured: {reason}",
    "density.count": "Eigenvalues near each curvature",
    "density.levels": "Eigenvalues beyond each level",
    "density.alt": "Number of eigenvalues over curvature, on a logarithmic axis, from {smallest} to {largest}: nearly "
    "all of {parameters} stand near zero, single ones to the right.",
    "density.levels_alt": "Number of eigenvalues above each level on two logarithmic axes: about {stiff} above "
    "{level}.",
    "density.key.above": "eigenvalues near, or above",
    "density.key.below": "below minus the level",
    "density.key.error": "two standard errors either way",
    "density.key.one": "one single eigenvalue",
    "density.key.top": "the {k} largest, found one by one",
    "density.what": "Left, how many eigenvalues stand at each curvature, smoothed over {width}: a lone one is a peak "
    "of height one. Right, how many are larger than each level, without smoothing.",
    "density.null": "A random symmetric matrix has a bulk without outliers; a network’s outliers stand apart from it, "
    "often as many as there are classes. The band is the error of the random probes.",
    "density.how": "Stochastic Lanczos quadrature, {probes} random probes of {steps} steps, {products} products. The "
    "eigenvalues found one by one are a check: they belong onto the line on the right.",
    "density.not": "The bulk around zero, whose eigenvalues this many steps do not tell apart; and whether a flat "
    "direction matters for new data.",
    "cost.density": "spectral density",
    "plot.eigenvalues_near": "eigenvalues near",
    "plot.eigenvalues": "number of eigenvalues",
    "plot.level": "level of curvature",
}
