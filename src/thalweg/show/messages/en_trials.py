"""The messages in English about trials."""

TEXTS = {
    "trial.title": "Trial: does working along a direction pay?",
    "trial.untested": "Untested: no trial has run. This command writes a plan, tunes step sizes and says what the test "
    "will cost and how likely it is to find an effect; nothing is decided by it yet.",
    "trial.untested_short": "Untested: no trial has run. Run thalweg trial plan with this folder and your task.",
    "trial.design": "Every arm began at the same weights and saw the same batches: {steps} steps of {batch} samples, "
    "{seeds} fresh seeds. Step sizes were tuned for each arm on one half of the held-out data; it was judged on the "
    "other.",
    "trial.started": "The arms began after step {step} of this run; components come from steps {first} to {last}.",
    "trial.kept": "What an arm is restricted to was found at its start and kept for all its steps.",
    "trial.refreshed": "What an arm is restricted to was found again every {refresh} steps where it can be.",
    "trial.pilot_only": "Only the pilot has run, so nothing is decided. The planned {seeds} seeds would find an effect "
    "of {effect} of the loss with a chance of at least {power}.",
    "trial.invest": "{arm}: invest. It lowered the held-out loss further than every matched control and than "
    "{incumbent} in the same time. The smallest lead, over {against}, is {lead} of the loss at the start ({low} to "
    "{high}).",
    "trial.as_good": "{arm}: invest. It beat every matched control and came as close to {incumbent} as was asked, in "
    "{saving} less time.",
    "trial.guard": "{arm}: guard. These directions are {stiffness} times as curved as layer-matched random ones, and "
    "training in them did not pay: it was not ahead of {behind}.",
    "trial.harmful": "{arm}: harmful. It raised the held-out loss by {loss} of what it was ({low} to {high}).",
    "trial.none": "{arm}: no evidence. It was not ahead of {behind} beyond chance.",
    "trial.none_holm": "{arm}: no evidence. It won each comparison alone, but not after correction for all arms.",
    "trial.complement_ahead": "Training in everything but {arm} was ahead of it, by {lead} of the loss at the start "
    "({low} to {high}).",
    "trial.stopped": "{arm} was stopped after {seeds} seeds, since it had hardly a chance left.",
    "trial.diverged": "{arm} diverged in {count} of {seeds} seeds, which counted as losses.",
    "trial.edge": "The best step size of {arms} was at the edge of those tried.",
    "trial.doubles": "Of the held-out samples {share} are training samples as well.",
    "trial.cost": "The trial took {seconds} and {gradients} gradients.",
    "trial.next": "The next stage, at full length on fresh seeds, takes about {seconds}.",
    "trial.stop": "By the plan the roll-out ends here.",
    "trial.finished": "All stages are done.",
    "trial.leads": "Lead of {arm}",
    "trial.leads_alt": "Lead over each rival as a share of the loss at the start: {told}.",
    "trial.losses": "Held-out loss in the trial",
    "trial.losses_alt": "From {start}; after the last step {told}.",
    "trial.key.must": "has to be beaten",
    "trial.key.beside": "stands beside",
    "trial.key.arm": "tested arms",
    "trial.key.incumbent": "the incumbent",
    "trial.key.control": "their controls",
    "trial.control.random": "random directions",
    "trial.control.layer_matched": "layer-matched random",
    "trial.control.gradient_matched": "gradient-matched random",
    "trial.control.complement": "its complement",
    "trial.control.random_layers": "random layers",
    "trial.control.largest_layers": "largest layers",
    "trial.control.last_layers": "last layers",
    "trial.in_time": "{against} in the same time",
    "trial.what": "How much lower the arm’s held-out loss ends than its rival’s, paired over seeds, with intervals of "
    "{level}.",
    "trial.null": "Zero. The controls have as many directions: drawn at random, with the same energy in each layer, or "
    "holding as much of the gradient.",
    "trial.how": "The task’s own optimizer steps; each update is then restricted as the arm says. An arm must win "
    "against every marked rival, after correction for all arms.",
    "trial.not": "Seeds are orders of batches from one start, so this speaks of this run, not of other trainings.",
    "trial.table": "Every comparison",
    "trial.column.arm": "arm",
    "trial.column.against": "against",
    "trial.column.lead": "lead",
    "trial.column.low": "from",
    "trial.column.high": "to",
    "trial.column.p": "p",
    "trial.column.must": "must win",
    "trial.comma": ", ",
    "trial.yes": "yes",
    "plot.lead": "lead, share of the loss at the start",
    "plot.held_out": "held-out loss",
    "plot.trial_step": "step of the trial",
    "verdict.decided": "A trial on {seeds} seeds has put it to the test. {told}",
    "verdict.word.invest": "{arm}: invest, it beat every control and {incumbent} on held-out data.",
    "verdict.word.guard": "{arm}: guard, the loss is sensitive to them and training in them did not pay.",
    "verdict.word.harmful": "{arm}: harmful, it raised the held-out loss.",
    "verdict.word.no evidence": "{arm}: no evidence that training there pays.",
    "arm.eigenvectors": "Training in the {k} stiffest directions ({name})",
    "arm.updates": "Training in {k} components of the updates ({name})",
    "arm.weights": "Training in {k} components of the weights ({name})",
    "arm.gradients": "Training in {k} components of the gradients ({name})",
    "arm.singular": "Training in {k} singular directions ({name})",
    "arm.layers.top": "Training only {k} of the layers, by priority ({name})",
    "arm.other": "{name}",
    "limits.tested": "The trial speaks of the arms that were tested, from one start, over {steps} steps; of other "
    "directions it says nothing.",
}
