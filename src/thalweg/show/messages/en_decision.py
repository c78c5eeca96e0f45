"""The messages in English of the first page, for those who decide, and of the sentences for a meeting."""

TEXTS = {
    "decision.title": "Decision",
    "decision.undecided": "Undecided: no trial has tested yet whether working along any direction, or in any layer, "
    "pays.",
    "decision.invest": "Invest: {arms} lowered the held-out loss further than every matched control, and than "
    "{incumbent} in the same time.",
    "decision.keep": "Keep training as you do: of {count} ways that were tried, none beat both its matched controls "
    "and {incumbent}.",
    "decision.keep_open": "Nothing speaks for a change yet: of {count} ways that were tried, none beat both its "
    "matched controls and {incumbent}, in a trial too small to rule an effect out.",
    "decision.invest_as_good": "Invest: {arms} came within the margin of {incumbent} in less time, and lowered the "
    "held-out loss further than every matched control.",
    "decision.stop": "Do not go on this way: {arms} raised the held-out loss.",
    "decision.findings": "What was found",
    "decision.places": "Where to work, and where not",
    "decision.costs": "What it cost, and what comes next",
    "decision.unknown": "What is not known",
    "decision.certainty": "{word}:",
    "certainty.firm": "firm",
    "certainty.fair": "fair",
    "certainty.open": "open",
    "finding.trial.invest": "A trial on {seeds} fresh seeds found a way that is worth an investment.",
    "finding.trial.none": "A trial on {seeds} fresh seeds found no way that is worth an investment, of {arms} tried.",
    "finding.trial.harmful": "A trial on {seeds} fresh seeds found that what was tried raises the held-out loss.",
    "finding.trial.p": "p {p} after correction for all ways that were tried.",
    "finding.trial.power": "It would have found an effect of {effect} with a chance of {power}.",
    "finding.agreement.agreement": "Training moves where the loss is curved: {components} components of the "
    "{source} hold {captured} of the curvature’s top‑{k} space.",
    "finding.agreement.mixed": "Training moves in the layers where the loss is curved, but perhaps not in the same "
    "directions: {components} components of the {source} hold {captured} of the curvature’s top‑{k} space.",
    "finding.agreement.no agreement": "Training does not move where the loss is curved: {components} components of "
    "the {source} hold {captured} of the curvature’s top‑{k} space.",
    "finding.agreement.why": "Chance gives {uniform}, or {layer_matched} in the same layers; two halves of the data "
    "share {overlap} of their spaces.",
    "finding.agreement.why_short": "Chance gives {uniform}, or {layer_matched} in the same layers; it was not "
    "repeated on halves of the data.",
    "finding.held_out.other": "Held-out data is curved otherwise: its largest curvature is {held_out}, where "
    "training data gives {train}; the two top‑{k} spaces share {overlap}.",
    "finding.sampling.other": "The curvature depends on the sample: λ₁ is {half} on one half of the data and "
    "{other} for the same direction on the other.",
    "finding.held_out.alike": "Held-out data is curved alike: its largest curvature is {held_out}, where training "
    "data gives {train}; the two top‑{k} spaces share {overlap}.",
    "finding.sampling.alike": "The curvature hardly depends on the sample: λ₁ is {half} on one half of the data and "
    "{other} for the same direction on the other.",
    "finding.halves": "Two halves of the training data give {half} and {other} for one direction.",
    "finding.no_halves": "It was not repeated on halves of the data.",
    "finding.sampling.why": "The two halves share {overlap} of their top‑{k} spaces.",
    "finding.drift.found": "Training keeps drifting in one direction, with {share} of the energy of its updates.",
    "finding.drift.none": "No drift beyond the noise of single steps was found.",
    "finding.drift.untested": "Whether training drifts could not be tested.",
    "finding.drift.why": "Steps {first} to {last}; p {p} against noise with memory.",
    "action.invest": "invest",
    "action.guard": "guard",
    "action.undecided": "undecided",
    "action.leave": "leave",
    "action.invest.means": "a trial showed that working here pays",
    "action.guard.means": "the loss is sensitive here: keep it still, quantise it last",
    "action.undecided.means": "only a trial can tell",
    "action.leave.means": "cheap to compress, or not worth the work",
    "place.layer": "layer {name}",
    "place.first": "begin a trial here",
    "place.trial.invest": "a trial found that it pays",
    "place.trial.leave": "a trial found that it raises the held-out loss",
    "place.compression.guard": "for its size, noise costs more here than elsewhere: number {rank} of {of} to be "
    "compressed",
    "place.compression.leave": "for its size, noise costs less here than elsewhere: number {rank} of {of} to be "
    "compressed",
    "place.stiff": "{many} of {count} are stiff: small moves change the loss",
    "place.stiff_one": "it is stiff: small moves change the loss",
    "place.sloppy_one": "it is flat and does not move",
    "place.sloppy": "{many} of {count} are flat and do not move",
    "place.drift": "one best step is predicted to raise the held-out loss by {rise}",
    "place.nothing.layer": "its place in the order is not sure: number {rank} of {of} to be compressed",
    "place.nothing.directions": "one best step is predicted to lower the training loss by {gain}",
    "place.nothing.held_out": "one best step is predicted to change the training loss by {gain}, the held-out loss "
    "by {gain_held_out}",
    "decision.stop_mark": "; ",
    "trial.word.invest": "invest",
    "trial.word.guard": "guard",
    "trial.word.harmful": "harmful",
    "trial.word.no evidence": "no evidence",
    "arm.full": "full training",
    "place.tried": "tried: {word}",
    "group.Hessian eigenvectors": "stiffest directions ({count})",
    "group.PCA of updates": "components of the updates ({count})",
    "group.PCA of gradients": "components of the gradients ({count})",
    "group.PCA of weights": "components of the weights ({count})",
    "group.SVD of weights": "singular directions ({count})",
    "group.drift": "the drift",
    "group.gradient": "the gradient",
    "decision.column.where": "where",
    "decision.column.action": "what to do",
    "decision.column.why": "why",
    "decision.spent.analysis": "The analysis took {seconds} and {products} products with the Hessian.",
    "decision.spent.trial": "The trial took {seconds} and {gradients} gradients.",
    "decision.next.trial": "A trial takes about {seconds} here. Plan it first: that says what it costs and what it "
    "can find, and decides nothing.",
    "decision.next.trial_short": "A trial comes next. Plan it first: that says what it costs and what it can find, "
    "and decides nothing.",
    "decision.next.confirm": "Confirming on fresh seeds comes next, about {seconds}.",
    "decision.next.full": "The same at full length comes next, about {seconds}.",
    "decision.next.larger": "To be found with a chance of {power}, the smallest effect worth having needs a trial "
    "of {seeds} seeds.",
    "decision.next.far_larger": "To be found with a chance of {power}, the smallest effect worth having needs more "
    "seeds than a trial can have; longer trainings scatter less.",
    "decision.next.none": "By the plan it ends here: no next stage is worth its price.",
    "decision.next.held_out": "A trial needs data that training never saw: give Task(..., held_out=batches) and "
    "analyse again.",
    "decision.next.done": "All stages have been passed; what was tried can be adopted.",
    "unknown.pays": "Whether working anywhere pays. Only a trial tells.",
    "unknown.longer": "What happens after more than {steps} steps, or from another start.",
    "unknown.power": "Whether there is an effect of {effect}: the trial would have found one with a chance of "
    "{power} only.",
    "unknown.other_run": "Whether another training of this model shows the same directions: this is one run.",
    "unknown.held_out": "How any of this looks on data that training never saw: none was given.",
    "unknown.samples": "How curved the loss is on other samples: two halves of these give {half} and {other}.",
    "meeting.title": "To say in a meeting",
    "meeting.lead": "Every number in these sentences was measured on this run.",
    "meeting.purpose": "Among {parameters} parameters we looked for the few directions and layers where little work "
    "brings most, and for those where it is wasted.",
    "meeting.cost": "It cost {analysis} on one machine of ours; no data left it.",
    "meeting.cost_trial": "It cost {analysis}, and {trial} for the trial, on one machine of ours; no data left it.",
    "meeting.guard": "{where} should be kept still and compressed last: the loss is most sensitive there.",
    "meeting.leave": "{where} can be compressed first.",
    "meeting.undecided": "We do not know yet whether working along these directions pays. A trial would tell.",
    "meeting.undecided_cost": "We do not know yet whether working along these directions pays. A trial would tell, "
    "for about {seconds}.",
    "meeting.invest": "{arms} paid off in a trial on {seeds} fresh seeds: the held-out loss fell by {gain} of what "
    "it was, further than by any matched control, and by {incumbent} in the same time.",
    "meeting.invest_as_good": "{arms} paid off in a trial on {seeds} fresh seeds: as good as {incumbent} within the "
    "margin that was asked for, in less time, and better than every matched control.",
    "meeting.keep": "In a trial on {seeds} fresh seeds none of {count} ways beat both its matched controls and the "
    "way we train now.",
    "meeting.stop": "In a trial on {seeds} fresh seeds what we tried made the held-out loss worse.",
    "meeting.next": "The next stage takes about {seconds}.",
    "meeting.condition.undecided": "We go on only if one way beats {incumbent} and all its controls on data that "
    "neither training nor tuning saw.",
    "meeting.condition.invest": "We go on as long as the lead holds at full length, and stop where it is gone.",
    "meeting.condition.keep": "We spend nothing more on this unless the model, the data or the goal changes.",
    "meeting.condition.keep_open": "We change nothing for now; whether a larger trial is worth its price is the "
    "next question.",
    "meeting.condition.stop": "We spend nothing more on this unless the model, the data or the goal changes.",
}
