"""The messages in English."""

TEXTS = {
    # page
    "page.title": "{run}: thalweg report",
    "page.skip": "Skip to the decision",
    "page.units": "µs ms s min h",
    "page.enlarge": "Enlarge",
    "page.closer": "Closer",
    "page.farther": "Farther",
    "page.whole": "The whole picture",
    "page.close": "Close",
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
    "page.foot": "This page is one file. Its script sorts tables and enlarges pictures. It sends no request.",
    "reading.what": "What it shows",
    "reading.null": "What chance looks like",
    "reading.how": "How it was measured",
    "reading.not": "What it does not show",
    "reading.draw": "Drawn alone",
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
    "verdict.title": "What was measured",
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
}
