"""The messages in English about the shape of the valley."""

TEXTS = {
    "plot.distance": "distance from the last weights",
    "path.surface": "Under it, lines of equal training loss in the plane of these two directions through the last "
    "weights, from {low} to {high}, each {ratio} times the one before.",
    "path.lines": "equal training loss",
    "path.surface_not": "The loss at earlier points of the path: they lie beside the plane through the last "
    "weights, in which the lines are drawn.",
    "valley.title": "The shape of the valley",
    "valley.lead": "Where training ended the training loss is {here}. Within a distance of {reach}, half of the way "
    "that the weights went in the last window, it rises to {stiff} along the stiffest direction and to {random} "
    "along a random one.",
    "valley.held_out": "On held-out data the loss is {here_held_out} there, and along the stiffest direction lowest "
    "at a distance of {away}, where it is {least}.",
    "valley.held_out_here": "On held-out data the loss is {here_held_out} there, and nowhere along the stiffest "
    "direction lower.",
    "valley.alt": "Losses across the valley; the highest: {told}.",
    "valley.stiff": "stiffest direction",
    "valley.drift": "the drift",
    "valley.random": "a random direction",
    "valley.what": "The loss when the weights move along one direction and no other. Zero is where training ended.",
    "valley.null": "The random direction: nearly every direction of so many looks like it.",
    "valley.how": "{points} losses for each line, in evaluation mode, on all samples.",
    "valley.not": "Paths that bend. The floor of a valley is not straight, and a line leaves it.",
    "cost.valley": "valley",
}
