"""What each flag means, once for all verbs: the same word means the same thing everywhere."""

HELP = {
    "alpha": "share of the last block's class separation that a block must reach to stay (default: 0.3)",
    "against": "measure this bundle or model in the same run, in turns, and print the ratio",
    "batch": "images a forward pass (default: the protocol's)",
    "batch_size": "images a step, over all processes",
    "budget": "trainable parameters without the classifier: `0.4%` of the backbone's, or `0.4M`; never exceeded",
    "compile": "measure behind `torch.compile` (needs a C++ compiler)",
    "corrupt": "what to do with unreadable images",
    "criterion": "how units are scored: `taylor` (with data), `l1` (without), `l2`, `hessian`, `salience`, `random`",
    "dim": "share of every head's dimensions that goes",
    "emb": "share of the embedding (the residual stream's channels) that goes",
    "fold": "fold batch norms, and layer norms' weights, into the layers beside them before measuring",
    "groups": "the axes that `prune` can shrink, by group, and those that it cannot, with the reason",
    "heads": "share of the attention heads that goes",
    "latency": "milliseconds that may remain, measured here: median, batch 1",
    "macs": "multiply-accumulates that may remain: `50%`, or `2G`",
    "mlp": "share of the hidden units that goes",
    "params": "parameters that may remain: `50%`, or `20M`",
    "ratio": "share that goes of the embedding, the heads and the hidden units alike",
    "data": "a folder of class folders, a CSV, `hfds/NAME`, `vtab/TASK@ROOT`, `fgvc/TASK@ROOT` or `builtin/digits`",
    "epochs": "passes over the training images",
    "image_size": "pixels a side, other than the backbone's own",
    "lr": "peak learning rate",
    "method": "how to tune: `spt-lora`, `lora`, `lora-16`, `linear`, ..., several with commas; how to prune: `sls`, "
    "`isomorphic`, `depgraph`, `uniform`, `random`",
    "model": "the backbone by its timm name, `hf-hub:...`, `local-dir:...`, or `tailor_mini_s`",
    "out": "where to write",
    "overwrite": "replace what an earlier run left in the output folder",
    "plan_only": "write the plan and train nothing",
    "protocol": "how to measure: `quick`, or a paper's (`sls`: batch 64 x 100, `isomorphic`: 20 + 100)",
    "quick": "be done in under 30 seconds",
    "adapters": "before a cut of widths: `merge` the tunes, `keep` them as they are, or `prune` them too",
    "train": "what retraining trains: `tunes` and classifier, or everything (default: `full` after merged widths)",
    "steps": "cut widths in so many steps, each scored anew",
    "recover": "epochs of training after every step but the last (default: 1)",
    "retrain": "after the cut: `1clr` the full schedule again, `ft` a constant 1e-5, `tfs` from fresh tunes",
    "samples": "images that the decision is made on, drawn from train and val",
    "resume": "continue an interrupted run; starts where there is none",
    "scores": "take SPT's scores from this earlier run: another budget costs no second pass",
    "seed": "seed of everything random",
    "task": "what the head is for: classification",
    "teacher": "learn from this as well: a bundle of the same classes (its features too, by the recipe's `distil`), or "
    "another backbone by name, whose own classifier has as many classes",
    "unmerged": "measure the tunes as modules of their own, not folded into the layers",
    "weights": "`pretrained`, `random`, or a checkpoint file",
    "workers": "processes that decode images",
}

SUMMARY = {
    "adapt": "plan what to tune, train it, write a bundle",
    "fit": "train what a plan, read and edited, says",
    "prune": "make a bundle or a backbone smaller",
    "evaluate": "accuracy of a bundle on data",
    "predict": "labels for files, folders and globs",
    "inspect": "what is in a bundle, a plan, a backbone, data",
    "bench": "MACs, latency, throughput, memory, measured here",
    "merge": "fold the tunes into the stock model",
    "export": "ONNX, torch.export, or peft's layout",
}
"""One line a verb for `tailor --help`."""

SHORT = {"out": "-o"}

POSITIONAL = {
    "adapt": ("data",),
    "fit": ("plan",),
    "evaluate": ("path", "data"),
    "predict": ("path", "files"),
    "inspect": ("name",),
    "prune": ("name",),
    "bench": ("name",),
    "merge": ("path",),
    "export": ("path",),
}
"""The arguments of each verb, in order; everything else is a flag."""

METAVAR = {"path": "BUNDLE", "data": "DATA", "files": "FILE...", "plan": "PLAN", "name": "BUNDLE|NAME"}
INSPECTED = "BUNDLE|PLAN|NAME|DATA"
"""What `inspect` takes where the others take a model."""
