"""English: the words of the trade."""

TEXTS = {
    "page.terms": "Words used here",
    "term.loss": "loss",
    "term.loss.means": "what training lowers: the mean error on the data.",
    "term.hessian": "Hessian, curvature",
    "term.hessian.means": "the matrix of the loss’s second derivatives: how strongly the loss bends along each "
    "direction of the weights.",
    "term.eigenvalue": "eigenvector, eigenvalue",
    "term.eigenvalue.means": "a direction along which the loss bends independently of the others, and how strongly it "
    "does.",
    "term.space": "top space",
    "term.space.means": "every direction that can be mixed from the stiffest ones.",
    "term.component": "principal component",
    "term.component.means": "the direction along which a set of vectors varies most; the next one is that of what is "
    "left.",
    "term.captured": "captured share",
    "term.captured.means": "how much of one space lies within another, from nothing to all of it.",
    "term.chance": "by chance, layer-matched",
    "term.chance.means": "what random directions would give; layer-matched ones have the same energy in each layer.",
    "term.held_out": "held-out data",
    "term.held_out.means": "samples that training never saw.",
    "term.drift": "drift",
    "term.drift.means": "a direction along which training keeps moving, beyond what its noise explains.",
    "term.stiff": "stiff, sloppy",
    "term.stiff.means": "along a stiff direction a small move changes the loss; along a sloppy one it hardly does.",
    "term.p": "p",
    "term.p.means": "how often chance alone would give at least so much; corrected where many things are tested at "
    "once.",
    "term.interval": "interval",
    "term.interval.means": "a range made so that it holds the true value in the stated share of repetitions.",
    "term.residual": "residual",
    "term.residual.means": "how far a pair is from satisfying its equation; near zero it is exact.",
    "term.product": "Hessian product",
    "term.product.means": "one multiplication of the Hessian with a vector; it costs about as much as two gradients.",
    "term.random_walk": "random walk",
    "term.random_walk.means": "as many steps in random directions; it, too, looks as if it used few directions.",
    "term.sharpness": "relative sharpness",
    "term.sharpness.means": "the largest curvature along steps that are small beside the weights, so that rescaling "
    "layers does not change it.",
    "term.inner": "squared inner product",
    "term.inner.means": "how far two directions are the same: all of it for one direction, nothing at a right angle.",
    "term.noise_cost": "cost of noise",
    "term.noise_cost.means": "by how much the loss is expected to rise when a layer’s weights are disturbed, as "
    "compression disturbs them.",
    "term.singular": "singular direction",
    "term.singular.means": "a direction that a weight matrix stretches independently of the others.",
    "term.gain": "gain",
    "term.gain.means": "by how much one best step along a direction is predicted to lower the loss.",
    "term.arm": "arm, control, incumbent",
    "term.arm.means": "a way of training that is tried; the same with random directions or layers; what you would do "
    "otherwise.",
    "term.seed": "seed",
    "term.seed.means": "one repetition with other random draws.",
}
