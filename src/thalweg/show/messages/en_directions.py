"""The messages about directions in English: drift, rankings, weights, singular directions, components."""

TEXTS = {
    # the drift
    "law.constant": "constant speed",
    "law.exponential": "exponential decay",
    "law.power law": "power law",
    "ahead.train": "training loss",
    "ahead.held_out": "held-out loss",
    "ahead.train_control": "training, random directions",
    "ahead.held_out_control": "held-out, random directions",
    "plot.clock": "clock: sum of effective step sizes",
    "plot.speed": "speed, over its mean",
    "plot.steps_ahead": "steps ahead",
    "plot.loss_change": "change of the loss",
    "drift.title": "The drift",
    "drift.found": "Over steps {first} to {last} the weights keep moving in one direction, beyond what the noise of "
    "single steps explains (p {p}; all sign flips of {blocks} blocks of steps).",
    "drift.not_found": "No evidence of a drift: over steps {first} to {last} the noise of single steps explains how "
    "the weights move (p {p}; all sign flips of {blocks} blocks of steps).",
    "drift.share": "It holds {share} of the updates’ energy, give or take {error}.",
    "drift.persistence": "The first and the last third of these steps go the same way at a cosine of {cosine} ({low} "
    "to {high}) once noise is taken out, and of {raw} as found.",
    "drift.stiff": "{share} of it lies in the {k} stiffest directions; by chance it would be {chance}.",
    "drift.never": "Tested in {windows} windows of training, one after the other, it does not stay in any.",
    "drift.always": "Tested in {windows} windows of training, one after the other, it is in every one.",
    "drift.onset": "Tested in {windows} windows of training, one after the other, it sets in at step {step} and stays.",
    "drift.along": "On along it for {steps} more steps at its last speed, the training loss would go from {train} to "
    "{train_there} and the held-out loss from {held_out} to {held_out_there}.",
    "drift.along_train": "On along it for {steps} more steps at its last speed, the training loss would go from "
    "{train} to {train_there}.",
    "drift.half_life": "Its speed falls exponentially, to half in {half} steps ({low} to {high}); a distance of "
    "{distance} is left.",
    "drift.power": "Its speed falls as a power of training time, with exponent {exponent}, clearly better described "
    "than by an exponential: a half-life would not belong to this run.",
    "drift.constant": "Its speed does not fall: no half-life.",
    "drift.unidentified": "How its speed falls cannot be told from these steps: no half-life.",
    "drift.undecided": "Several laws describe how its speed falls about equally well: no half-life.",
    "drift.decay": "With weight decay’s own part taken out, the test gives p {p}.",
    "drift.speeds": "Speed along the drift",
    "drift.speeds_alt": "Speed of each block of steps with three fitted laws. Akaike’s criterion, lower is better: "
    "{laws}.",
    "drift.ahead": "Loss further along",
    "drift.ahead_alt": "Loss further along the drift at its last speed. {steps} steps ahead: training {train}, "
    "held-out {held_out}.",
    "drift.key.speed": "speed of a block",
    "drift.what": "The speed of each block of steps along the direction of the other blocks, and the loss if training "
    "went on along the drift alone.",
    "drift.null": "Without a drift the sign of each block’s mean is as good as its opposite; the p-value counts all "
    "choices of signs. Random directions with the drift’s energy in each layer stand beside the losses.",
    "drift.how": "Steps {first} to {last}; step size and momentum taken out first, block means compared in a metric "
    "that noise within other blocks defines.",
    "drift.not": "That following the drift pays, which a trial would have to show. Noise with a longer memory than a "
    "block can look like a drift.",
    "drift.scan": "When it sets in",
    "drift.layers": "Which layers drift",
    "drift.losses": "Losses further along",
    "drift.column.steps": "steps",
    "drift.column.p": "p, corrected",
    "drift.column.share": "share of the updates’ energy",
    "drift.column.cosine": "cosine with the last window’s",
    "drift.column.layer": "layer",
    "drift.column.ahead": "steps ahead",
    "drift.column.train": "training",
    "drift.column.train_control": "random",
    "drift.column.held_out": "held-out",
    "drift.column.held_out_control": "random, held-out",
    "cost.drift": "drift",
    # directions and orders
    "label.Hessian eigenvectors": "eigenvector",
    "label.PCA of updates": "component of the updates",
    "label.PCA of weights": "component of the weights",
    "label.drift": "drift",
    "label.gradient": "gradient",
    "word.stiff": "stiff",
    "word.drifting": "drifting",
    "word.sloppy": "sloppy",
    "directions.title": "Every direction in one table",
    "directions.lead": "{number} directions were measured. Of them: {counted}.",
    "directions.counted": "{word} {number}",
    "directions.best": "The largest predicted gain of a single step is {gain}, of a training loss of {loss}: "
    "{direction}.",
    "directions.held_out": "On held-out data the same step is predicted to gain {gain}; a negative gain is a loss.",
    "directions.untested": "Whether any of them is productive stays a question until a trial answers it.",
    "directions.bounded": " (at the radius)",
    "directions.what": "The gain of one best step along each direction, from slope and curvature of the training "
    "loss, and of the same step on held-out data; the largest first.",
    "directions.null": "A direction at random holds one over the number of parameters of the weights and of the "
    "updates. The noise of the slope by sampling is taken off the gain.",
    "directions.how": "A Hessian product for each direction and each data set. Stiff: at least a tenth of the "
    "largest curvature. Drifting: along the drift that was found. Sloppy: hardly curved and not moving. A step is no "
    "longer than the net displacement of the last window.",
    "directions.not": "That steps along several directions add up, or that a step gains beyond the quadratic around "
    "this one point.",
    "directions.table": "All directions",
    "directions.column.direction": "direction",
    "directions.column.words": "called",
    "directions.column.layers": "held by layers",
    "directions.column.gain": "predicted gain",
    "directions.column.gain_held_out": "… held-out",
    "directions.column.curvature": "curvature",
    "directions.column.curvature_held_out": "… held-out",
    "directions.column.slope": "slope",
    "directions.column.noise": "its noise",
    "directions.column.alignment": "of the weights",
    "directions.column.update_share": "of the updates",
    "layers.orders": "In which order: fine-tuning and compression",
    "layers.ranged": "{value} ({low} to {high})",
    "layers.with_error": "{value} ± {error}",
    "layers.costs": "What noise in each layer costs",
    "layers.costs_alt": "Cost of noise by layer, with intervals over batches: {told}.",
    "plot.noise_cost": "expected rise of the loss, interval over batches",
    "layers.column.tuning": "to tune",
    "layers.column.gain": "gain of its best step",
    "layers.column.compressing": "to compress",
    "layers.column.noise_cost": "cost of noise",
    "layers.column.trace": "trace",
    "layers.column.drift_share": "of the drift",
    "cost.directions": "directions",
    # weights, singular directions, components
    "plot.of_weights": "share of the weights",
    "label.SVD of weights": "singular direction",
    "alignment.title": "Do the stiff directions lie along the weights?",
    "alignment.lead": "The {k} stiffest directions hold {captured} of the squared weights. A random subspace would "
    "hold {uniform}, random weights of the same size in each layer {layer_matched} (the larger p {p}).",
    "alignment.ranks": "Rank correlation of a direction’s curvature with its share of the weights: {correlation} (p "
    "{p}, by permutation).",
    "alignment.plane": "Two attributes of every eigenvector",
    "alignment.alt": "Curvature across and share of the weights up, for {k} eigenvectors, which hold {captured} "
    "together.",
    "alignment.key": "an eigenvector",
    "alignment.key_chance": "a random direction",
    "alignment.key_layer": "a random direction with the same energy in each layer",
    "alignment.what": "Each mark is an eigenvector: how curved the loss is along it, and how much of the squared "
    "weights it holds.",
    "alignment.null": "A random direction holds one over the number of parameters; one with the eigenvector’s "
    "energy in each layer holds more where layers have large weights.",
    "alignment.how": "Inner products of the weights with the eigenvectors at the end of training.",
    "alignment.not": "Whether weights along stiff directions matter more than others.",
    "alignment.table": "Curvature and alignment",
    "alignment.column.index": "eigenvector",
    "alignment.column.value": "λ",
    "alignment.column.alignment": "of the weights",
    "alignment.column.by_chance": "by chance",
    "alignment.column.by_layer": "by chance, same layers",
    "singular.title": "Singular directions of the weight matrices",
    "singular.lead": "{directions} singular directions were held against random outer products in the same matrix: "
    "the median is {ratio} times as curved, from {low} to {high} times.",
    "singular.best": "The most curved of them, in layer {layer}, has a curvature of {curvature}: {share} of the "
    "network’s largest.",
    "singular.what": "The curvature along each singular direction, a matrix that is an outer product of two "
    "singular vectors.",
    "singular.null": "Random outer products of the same lengths in the same matrix.",
    "singular.how": "A Hessian product for each direction and for each of up to {controls} controls a matrix. The "
    "noise’s edge is that of Marchenko and Pastur, its scale from the median singular value.",
    "singular.not": "That singular directions are the stiffest there are: the layer’s own eigenvectors are stiffer.",
    "singular.table": "All singular directions that were measured",
    "singular.column.parameter": "matrix",
    "singular.column.block": "head",
    "singular.column.index": "number",
    "singular.column.value": "singular value",
    "singular.column.above": "above the noise",
    "singular.column.curvature": "curvature",
    "singular.column.control": "random",
    "singular.column.ratio": "ratio",
    "approximation.title": "The Hessian out of recorded components",
    "approximation.lead": "The first {k} components of the updates, scaled by their measured curvature, hold {top} "
    "of the sum of the largest eigenvalues and {trace} of the trace; along updates that they did not come from they "
    "give {fresh} of the curvature, {diagonal} with the diagonal alone.",
    "approximation.saved": "They cost {products} Hessian products, {saved} fewer than the certified eigenpairs did.",
    "approximation.top_share": "Of the largest eigenvalues",
    "approximation.fresh_share": "Of the curvature along fresh updates",
    "approximation.alt": "Share over the number of components; with all of them: {shares}.",
    "approximation.what": "How much of the Hessian lies in the span of the components: the largest values there "
    "over the largest eigenvalues, and the curvature along later updates that they give.",
    "approximation.null": "Random directions hold their number over that of the parameters of the trace, which is "
    "nearly nothing.",
    "approximation.how": "Components of all but the last few updates of the last window; one Hessian product each.",
    "approximation.not": "That the components are eigenvectors, or that what they leave out is harmless.",
    "approximation.table": "All shares",
    "approximation.column.source": "components of",
    "approximation.column.k": "number",
    "approximation.column.top_share": "of the largest eigenvalues",
    "approximation.column.trace_share": "of the trace",
    "approximation.column.fresh_share": "along fresh updates",
    "approximation.column.fresh_share_diagonal": "… by the diagonal",
    "approximation.column.saved": "products saved",
    "cost.singular directions": "singular directions",
    "cost.approximation": "Hessian out of components",
}
