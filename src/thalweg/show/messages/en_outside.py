"""The messages in English about what stands beside the training curvature, and about its course in training."""

TEXTS = {
    "outside.title": "Held-out data, noise, and the scale of the weights",
    "outside.held_out": "On {samples} held-out samples the largest eigenvalue is {held_out}, against {train} on the "
    "analysed data. Their two top‑{k} eigenspaces overlap by {overlap}; by chance it would be {chance}, and "
    "{layer_matched} with the same energy in each layer.",
    "outside.absent": "No held-out data were given, so how the curvature looks on new data is not known.",
    "outside.sharpness": "For steps relative to the weights the sharpness is {filter} with the scale of whole filters, "
    "and {entry} with that of single entries. The raw eigenvalue, {raw}, would change if layers were rescaled against "
    "each other, though the network computed the same.",
    "outside.no_scale": "Sharpness relative to the weights: {reason}.",
    "outside.noise.inputs": "Noise of {level} of their spread on the inputs takes the {data} from {clean} to {noisy}, "
    "and the largest eigenvalue from {calm} to {largest}.",
    "outside.noise.labels": "With {level} of the labels exchanged, the {data} goes from {clean} to {noisy}, and the "
    "largest eigenvalue from {calm} to {largest}.",
    "outside.no_noise": "Robustness to noise was not measured: {reason}.",
    "outside.data.train": "training loss",
    "outside.data.held_out": "held-out loss",
    "outside.spectra": "Largest eigenvalues on both",
    "outside.spectra_alt": "Eigenvalues in order on the analysed data, from {train}, and on held-out data, from "
    "{held_out}.",
    "outside.losses": "Noise and the {data}",
    "outside.losses_alt": "Without noise {clean}. {told}.",
    "outside.key.train": "on the analysed data",
    "outside.key.held_out": "on held-out data",
    "outside.key.inputs": "noise on inputs",
    "outside.key.labels": "wrong labels",
    "outside.key.none": "none",
    "outside.what": "Eigenvalues of each data set’s own Hessian at the same weights, and the loss when inputs are "
    "noisy or labels wrong.",
    "outside.null": "Two random subspaces overlap by their dimension over the number of parameters.",
    "outside.how": "Real inputs get normal noise, a share of their own standard deviation; tokens and labels are "
    "exchanged for those of other places. Losses are means over draws. Relative sharpness is the largest eigenvalue of "
    "the Hessian between the scales of the weights.",
    "outside.not": "Robustness to other disturbances than these, and whether a flatter minimum generalises better.",
    "outside.table": "Losses and curvature under noise",
    "outside.column.noise": "noise",
    "outside.column.level": "level",
    "outside.column.train": "training loss",
    "outside.column.held_out": "held-out loss",
    "outside.column.largest": "largest eigenvalue",
    "cost.noise": "noise on inputs and labels",
    "cost.sharpness": "relative sharpness",
    "cost.tracking": "curvature through training",
    "plot.noise": "noise: share of spread, or of labels",
    "plot.loss": "loss",
    # through training
    "tracking.threshold": "In evaluation mode the curvature at the end stands at {share} of the limit at which this "
    "optimizer turns unstable at its last step size.",
    "tracking.persistence": "Of the top‑{k} eigenspace, {share} is what it was at the moment before.",
    "tracking.lines": "Against the limit, and how long the space stays",
    "tracking.lines_alt": "At steps {steps}: share of the limit {shares}; persistence {persistence}.",
    "tracking.key.threshold": "largest curvature over the optimizer’s limit",
    "tracking.key.persistence": "top space kept since the moment before",
    "tracking.table": "Curvature through training",
    "tracking.column.step": "step",
    "tracking.column.value": "λ",
    "tracking.column.of_threshold": "of the limit",
    "tracking.column.persistence": "space kept",
    "tracking.column.participation": "entries taking part",
    "tracking.column.layer": "held most by",
    "tracking.column.layer_share": "its share",
    "plot.share_alone": "share",
}
