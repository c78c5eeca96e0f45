"""The messages in English."""

TEXTS = {
    # page
    "page.title": "{run}: thalweg report",
    "page.skip": "Skip to the verdict",
    "page.between": " ",
    "page.contents": "Contents",
    "page.other_language": "日本語",
    "page.made": "Analysed {created} with thalweg {thalweg} and torch {torch}.",
    "page.run": "{model}, {parameters} parameters in {layers} layers, trained with {optimizer} for {steps} steps.",
    "page.every": "Each recorded row is the sum of {every} steps.",
    "page.frozen": "Frozen parameters, left out: {frozen}",
    "page.kept.rounded": "Updates were kept as {format}: each entry is off by up to {error}.",
    "page.kept.sketch": "Of each update a sketch was kept, at most {width} numbers a layer: shares of captured energy "
    "below about {floor} cannot be told from chance, and chance is counted with that.",
    "page.damaged": "Damaged and left out: {file} ({reason})",
    "page.gaps": "Steps missing from the recording: {gaps}",
    "page.foot": "This page is one file. It holds no script and sends no request.",
    "reading.what": "What it shows",
    "reading.null": "What chance looks like",
    "reading.how": "How it was measured",
    "reading.not": "What it does not show",
    "section.absent": "Left out: {reason}",
    "absent.part": "the stored analysis holds no “{part}”.",
    # names
    "source.updates": "updates",
    "source.weights": "weights",
    "source.gradients": "gradients",
    "source.eigenvectors": "eigenvectors",
    "source.chance": "chance",
    "source.random_walk": "random walk",
    "source.random_updates": "independent random updates",
    "stage.early": "early",
    "stage.middle": "middle",
    "stage.late": "late",
    "stage.final": "end of training",
    "mode.evaluation": "evaluation",
    "mode.training": "training",
    "yes": "yes",
    "no": "no",
    # plot labels
    "plot.component": "component {number} ({share} of variance)",
    "plot.components": "number of components",
    "plot.component_number": "component",
    "plot.eigenvalue_number": "eigenvalue, largest first",
    "plot.eigenvector_number": "eigenvector, stiffest first",
    "plot.curvature": "curvature λ",
    "plot.step": "optimizer step",
    "plot.set": "{source} {components}",
    "plot.of_source": "principal component of the {source}",
    "plot.share": "share of the whole network",
    # verdict
    "verdict.title": "Verdict",
    "verdict.agreement": "Measured agreement: over steps {first} to {last}, the first {components} principal "
    "directions of the {source} capture {captured} of the curvature’s top‑{k} space, against {uniform} by chance and "
    "{layer_matched} for random directions with the same energy in each layer.",
    "verdict.no_agreement": "No evidence of agreement: over steps {first} to {last}, the first {components} principal "
    "directions of the {source} capture {captured} of the curvature’s top‑{k} space; chance gives {uniform}, and "
    "random directions with the same energy in each layer give {layer_matched}.",
    "verdict.mixed": "Mixed evidence: over steps {first} to {last}, the first {components} principal directions of "
    "the {source} capture {captured} of the curvature’s top‑{k} space. That is more than chance, {uniform}, but not "
    "clearly more than random directions with the same energy in each layer, {layer_matched}: the two may merely share "
    "their layers.",
    "verdict.none": "No verdict: too little was recorded to compare the updates with the curvature.",
    "verdict.undecided": "Whether working along these directions pays is undecided: no trial has run.",
    "verdict.sure": "How sure this is",
    "verdict.p": "Overlap: p {uniform} against uniformly random directions, and p {layer_matched} against "
    "layer-matched ones by counting draws. After Holm’s correction for all tests in this report the "
    "larger of the two is p {holm}, by a Beta law with the draws’ mean and variance.",
    "verdict.p_single": "Overlap: p {p}.",
    "verdict.certificate": "Eigenpairs: {converged} of {k} converged to a tolerance of {tolerance}; the largest "
    "residual is {residual} of λ₁. {meaning}",
    "certificate.complete": "A search in the complement, from a random start, found none that had been missed.",
    "certificate.full": "Each was checked with a product of its own; that none was missed was not checked.",
    "certificate.estimate": "One combined product checked them; that none was missed was not checked.",
    "certificate.other": "They carry no further certificate.",
    "verdict.sampling": "Sampling: the top‑{k} spaces of two halves of the data share {overlap}; λ₁ is {first} on "
    "one half and {other} for the same direction on the other.",
    "verdict.no_sampling": "Sampling: the analysis was not repeated on halves of the data, so its sampling error is "
    "unknown.",
    "verdict.best": "The {components} principal directions of the {source} capture more: {captured}.",
    # tiles
    "tile.captured": "of the top‑{k} curvature space lies in {components} directions of the {source}",
    "tile.captured_note": "by chance {uniform}; layer-matched {layer_matched}",
    "tile.lambda": "largest curvature, λ₁",
    "tile.lambda_note": "± {residual} (residual); halves of the data: {first} and {other}",
    "tile.lambda_note_alone": "± {residual} (residual)",
    "tile.layer": "of the top‑{k} eigenvectors’ energy lies in layer {layer}",
    "tile.layer_note": "which has {parameters} of the parameters",
    "tile.layer_note_alone": "measured at the end of training",
    "tile.cost": "for the whole analysis",
    "tile.cost_note": "{products} Hessian products",
    # path
    "path.title": "The path of training",
    "path.lead": "The weights’ path, projected on the two directions in which it spreads most. They hold {share} of "
    "its variance. A random walk of as many steps puts {random} into its first two, so a smooth curve in this plane "
    "is no finding in itself: any random walk looks like this.",
    "path.weights": "This run",
    "path.random": "Random walk of as many steps",
    "path.alt": "Curve of the weights up to step {last} in the plane of the first two principal components.",
    "path.random_alt": "The same picture for a random walk: it too is a smooth curve.",
    "path.start": "start, step {step}",
    "path.start_before": "start, before the first step",
    "path.end": "end, step {step}",
    "path.early": "earlier",
    "path.later": "later",
    "path.what": "Each point is the whole network at one step; both axes of a picture use one scale, in units of "
    "weight distance.",
    "path.null": "The random walk beside it: steps of this run’s lengths in independent directions, treated in "
    "the same way.",
    "path.how": "Principal components of the recorded weights about their mean, from the inner products of the "
    "updates.",
    "path.not": "The loss off this curve, and any movement outside the plane. Bends and turns here are typical of any "
    "walk.",
    # explained variance
    "explained.title": "How many directions training used",
    "explained.lead": "The first {components} principal components hold {updates} of the variance of the updates and "
    "{weights} of that of the weights. A random walk reaches {random} without any structure.",
    "explained.independent": "Independent random updates reach {share}.",
    "explained.total": "Added up",
    "explained.each": "Each component",
    "explained.alt": "Cumulative share of variance by number of components. With {components}: {shares}.",
    "explained.each_alt": "Share of variance of each single component on logarithmic axes, for {sources}.",
    "explained.gradients": "Gradients are not shown: {reason}",
    "explained.what": "The share of all variance that falls on the first components, or on each one.",
    "explained.null": "Weights add up many updates, so their fair comparison is the dashed random walk; that of "
    "updates and gradients is the dotted line, steps of this run’s lengths in independent directions.",
    "explained.how": "Principal components of steps {first} to {last}. Gradients are worked out from the updates "
    "where the optimizer allows it.",
    "explained.not": "Whether the directions matter for the loss. That needs the curvature, below.",
    # eigenvalues
    "eigenvalues.title": "The curvature of the loss",
    "eigenvalues.lead": "The Hessian’s {k} largest eigenvalues at the end of training run from {first} down to "
    "{last}. A large one marks a stiff direction, where a small move changes the loss a lot. It does not say that "
    "tuning there pays.",
    "eigenvalues.held_out": "Along the first of these directions, {samples} held-out samples give a curvature of "
    "{held_out}, against {first} on the analysed data.",
    "eigenvalues.outside": "the same directions on held-out data",
    "eigenvalues.end": "End of training, step {step}",
    "eigenvalues.through": "Through training",
    "eigenvalues.alt": "Eigenvalues in order, from {first} to {last}, with residuals.",
    "eigenvalues.through_alt": "The largest eigenvalues at steps {steps}; the first goes from {first} to {last}.",
    "eigenvalues.mark": "eigenvalue (hollow: not converged)",
    "eigenvalues.half": "same curvature on the half of the data that gave the direction",
    "eigenvalues.other": "on the other half",
    "eigenvalues.largest": "largest",
    "eigenvalues.rest": "the following ones",
    "eigenvalues.what": "Curvature of the mean loss along each eigenvector. Bars, mostly too short to see, are "
    "residuals.",
    "eigenvalues.null": "Sampling: in expectation the two halves bracket the first value that unlimited data would "
    "give.",
    "eigenvalues.how": "Lanczos with full reorthogonalisation on {samples} samples in {mode} mode; {products} "
    "products.",
    "eigenvalues.not": "The step-size limit of training, which belongs to training mode, and how curvature depends on "
    "the scale of the weights.",
    "eigenvalues.column.number": "number",
    "eigenvalues.column.value": "λ",
    "eigenvalues.column.residual": "residual",
    "eigenvalues.column.converged": "converged",
    "eigenvalues.column.gap": "gap",
    "eigenvalues.column.angle": "angle bound (rad)",
    "eigenvalues.column.half": "half A",
    "eigenvalues.column.other": "half B",
    "eigenvalues.column.outside": "held out",
    "eigenvalues.table": "Eigenvalues at the end of training",
    # agreement
    "agreement.title": "How far training and curvature agree",
    "agreement.lead": "At the end of training, {components} principal directions of the updates capture {updates} of "
    "the top‑{k} eigenspace; of the weights, {weights}; of the gradients, {gradients}. Chance gives {uniform}.",
    "agreement.panel": "{stage}, step {step}",
    "agreement.inexact": "buffers approximate",
    "agreement.alt": "Captured share at step {step}: {shares}.",
    "agreement.alt_item": "{components} of {source} {captured}",
    "agreement.whole": "hollow: the whole run up to there",
    "agreement.uniform": "uniformly random directions",
    "agreement.matched": "random, same energy in each layer",
    "agreement.what": "The share of the top‑{k} eigenvectors that lies inside the span of the first principal "
    "directions, whose number stands at the left.",
    "agreement.null": "Two kinds of random directions: uniform over all {parameters} parameters, and with the same "
    "energy in each layer. The second is the harder one to beat.",
    "agreement.how": "Principal directions from the recorded steps, eigenvectors at the weights where each window "
    "ends. p-values are corrected for all tests together (Holm).",
    "agreement.not": "Whether it helps to train along these directions. More components always capture more: compare "
    "equal numbers only.",
    "agreement.table": "Agreement at the end of training",
    "agreement.table_all": "Agreement at every stage",
    "agreement.column.stage": "stage",
    "agreement.column.source": "source",
    "agreement.column.window": "window",
    "agreement.column.components": "components",
    "agreement.column.captured": "captured",
    "agreement.column.uniform": "uniform null",
    "agreement.column.matched": "layer-matched null",
    "agreement.column.p": "p, uniform",
    "agreement.column.p_matched": "p, matched",
    "agreement.column.p_holm": "p, Holm",
    # heat map
    "heat_map.title": "Which direction is which",
    "heat_map.lead": "Component {component} of the {source} and eigenvector {row} are the closest pair: squared inner "
    "product {value}. Between two random directions it would be {chance}.",
    "heat_map.panel": "Eigenvectors and components, steps {first} to {last}",
    "heat_map.alt": "Heat map of squared inner products, {rows} eigenvectors by {columns} components of the "
    "{source}; the largest is {value}.",
    "heat_map.scale": "squared inner product, from",
    "heat_map.what": "Each cell: the squared inner product of an eigenvector and a component. The number at the right "
    "is the row’s sum, the share of that eigenvector within all components shown.",
    "heat_map.null": "A random cell would hold {chance}, and a row of random directions {row_chance}: blank, both.",
    "heat_map.how": "Unit vectors on both sides; eigenvectors at the end of training. Signs are arbitrary, hence the "
    "squares.",
    "heat_map.not": "Eigenvectors with nearly equal eigenvalues may turn into one another: then read blocks, not "
    "single cells.",
    # layers
    "layers.title": "Layer by layer",
    "layers.lead": "Layer {layer} has the largest curvature of its own, {share} of the whole network’s. The largest "
    "part of the top‑{k} eigenvectors’ energy, {energy}, lies in layer {holds}, which has {parameters} of the "
    "parameters.",
    "layers.some": "The pictures show the {shown} layers of largest curvature out of {all}; the table shows all.",
    "layers.curvature": "Largest curvature of each layer",
    "layers.shares": "What each layer holds",
    "layers.alt": "Largest eigenvalue of each layer in order of depth: {values}. Whole network: {net}.",
    "layers.alt_item": "{layer} {value}",
    "layers.shares_alt": "Share of parameters, update energy and eigenvector energy of each layer; the table below "
    "has the numbers.",
    "layers.own": "the layer’s own largest eigenvalue",
    "layers.net": "the whole network’s",
    "layers.parameters": "parameters (what chance would give)",
    "layers.weight_energy": "squared weights",
    "layers.update_energy": "squared updates",
    "layers.eigenvector_energy": "squared top eigenvectors",
    "layers.what": "Layers from first to last in a forward pass. A layer’s curvature is that of the loss when only "
    "its parameters move; it can never exceed the whole network’s.",
    "layers.null": "Random directions have energy in proportion to the number of parameters: the grey tick.",
    "layers.how": "The same solver on each layer’s own block. Residuals stand in the table.",
    "layers.not": "Whether going in the predicted order pays. Large curvature says where to be careful; a trial says "
    "where to invest.",
    "layers.table": "All layers in order of depth",
    "layers.column.depth": "depth",
    "layers.column.layer": "layer",
    "layers.column.parameters": "parameters",
    "layers.column.value": "λ₁",
    "layers.column.residual": "residual",
    "layers.column.share": "of the net’s λ₁",
    "layers.column.update_energy": "updates",
    "layers.column.weight_energy": "weights",
    "layers.column.eigenvector_energy": "eigenvectors",
    # cost
    "cost.title": "What it cost",
    "cost.lead": "{total} and {products} Hessian products. One gradient of the same loss takes {gradient}, so the "
    "analysis took as long as {gradients} gradients.",
    "cost.lead_short": "{total} and {products} Hessian products.",
    "cost.memory": "Peak memory: {memory}.",
    "cost.table": "Time by part",
    "cost.column.part": "part",
    "cost.column.seconds": "time",
    "cost.spectrum": "eigenvalues and eigenvectors",
    "cost.layers": "layers",
    "cost.trajectory": "recorded path",
    "cost.sampling": "halves of the data",
    "cost.overlaps": "agreement",
    "cost.held out": "held-out data",
    "cost.total": "total",
    # limits
    "limits.title": "What this does not show",
    "limits.trial": "Untested: whether any direction is productive, that is, whether training along it beats matched "
    "controls. It stays a question until a trial has run.",
    "limits.walk": "Low dimension alone proves nothing: the principal components of any random walk look "
    "low-dimensional.",
    "limits.sampling": "All curvature was measured on {samples} samples in {batches} batches. On other data it will "
    "differ; the two halves show by how much.",
    "limits.mode": "The loss was taken in {mode} mode: dropout off, batch statistics frozen.",
    "limits.point": "Eigenvectors belong to one point, the weights at the stated step. They turn as training goes on.",
    "limits.loss": "Loss at the end: {train} on the analysed data; held-out data were not given.",
    "limits.loss_both": "Loss at the end: {train} on the analysed data and {held_out} on held-out data. Overlaps and "
    "layers speak of the former only.",
    "limits.gradient": "The gradient’s norm there is {norm}; at a minimum it would be zero.",
    # again
    "again.title": "How to make it again",
    "again.lead": "This command repeats the analysis with the same seed, {seed}.",
    "again.table": "Settings",
    "again.column.name": "setting",
    "again.column.value": "value",
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
