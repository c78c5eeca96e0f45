"""English: where all eigenvalues lie."""

TEXTS = {
    "density.title": "All eigenvalues: how flat the rest is",
    "density.stiff": "Of all {parameters} eigenvalues, between {low} and {high} are larger than {level}, {share} of "
    "the largest.",
    "density.unsure": "There are {parameters} eigenvalues, the largest that was found here is {largest}; how many are "
    "large cannot be told from so few products.",
    "density.negative": "The smallest found is {smallest}: along at least one direction the loss bends downwards, so "
    "this is no minimum.",
    "density.unknown": "Not told: {reason}",
    "density.absent.no_spread": "no eigenvalue is positive, or all are the same.",
    "density.ranged": "{low} to {high}",
    "density.count": "Eigenvalues near each curvature",
    "density.levels": "Eigenvalues beyond each level",
    "density.alt": "Number of eigenvalues near each curvature, on a logarithmic axis, from {smallest} to {largest}.",
    "density.levels_alt": "Number of eigenvalues above each level up to {largest}, and below minus each level, with "
    "bounds.",
    "density.key.above": "eigenvalues near, or above",
    "density.key.below": "below minus the level",
    "density.key.error": "what the probes leave open; right, with the bounds of the method, for those above",
    "density.key.one": "one single eigenvalue",
    "density.key.top": "the {k} largest, found one by one",
    "density.what": "Left, how many eigenvalues stand at each curvature, smoothed over {width}: a lone one is a peak "
    "of height one. Right, how many are larger than each level, without smoothing.",
    "density.null": "A random symmetric matrix has a bulk without outliers; a network’s outliers stand apart from it, "
    "often as many as there are classes.",
    "density.how": "Stochastic Lanczos quadrature, {probes} random probes of {steps} steps, {products} products. "
    "Bounds by Chebyshev, Markov and Stieltjes, widened by two standard errors of the probes. The eigenvalues found "
    "one by one are a check: they belong into the band on the right.",
    "density.not": "The bulk around zero, whose eigenvalues this many steps do not tell apart; and whether a flat "
    "direction matters for new data.",
    "cost.density": "spectral density",
    "plot.eigenvalues_near": "eigenvalues near",
    "plot.eigenvalues": "number of eigenvalues",
    "plot.level": "level of curvature",
}
