"""What each flag means, once for all verbs: the same word means the same thing everywhere."""

HELP = {
    "against": "measure this bundle or model in the same run, in turns, and print the ratio",
    "batch": "images a forward pass (default: the protocol's)",
    "batch_size": "images a step, over all processes (default of training: 64)",
    "compile": "measure behind `torch.compile` (needs a C++ compiler)",
    "corrupt": "what to do with unreadable images",
    "data": "a folder of class folders, a CSV, `hfds/NAME`, `vtab/TASK@ROOT`, `fgvc/TASK@ROOT` or `builtin/digits`",
    "device": "where to compute: `cpu`, `cuda`, `mps` (default: what Accelerate finds)",
    "epochs": "passes over the training images (default: 100)",
    "download": "fetch what the bundle's backbone lacks on this machine; without it, that is only named",
    "fold": "fold batch norms, and layer norms' weights, into the layers beside them before measuring",
    "groups": "the axes that `prune` can shrink, by group, and those that it cannot, with the reason",
    "image_size": "pixels a side, other than the backbone's own",
    "log_with": "trackers that hear of the training, with commas: `tensorboard`, `wandb`",
    "lr": "peak learning rate (default: 1e-3)",
    "method": "how (`--method NAME --help`: what it takes; `tailor list methods`: all); of adapt several with commas",
    "model": "the backbone by its timm name, `hf-hub:...`, `local-dir:...`, `tailor_mini_s`, or a bundle",
    "out": "where to write",
    "overwrite": "replace what an earlier run left in the output",
    "pattern": "only names that match, for instance `vit_*`",
    "plan_only": "write the plan and train nothing",
    "probabilities": "end the exported model in a softmax",
    "protocol": "how to measure: `quick`, or a paper's (`sls`: batch 64 x 100, `isomorphic`: 20 + 100)",
    "quick": "be done in under 30 seconds",
    "resume": "continue an interrupted run; starts where there is none",
    "retrain": "after the cut: `1clr` the full schedule again, `ft` a constant 1e-5, `tfs` from fresh tunes",
    "seed": "seed of everything random (of `fit`: the plan's)",
    "task": "what the head is for, where the data do not say it: `tailor list tasks`",
    "teacher": "learn from this as well: a bundle of the same classes (its features too, by the recipe's `distil`), or "
    "another backbone by name, whose own classifier has as many classes",
    "top_k": "how many of the likeliest classes are named",
    "train": "what retraining trains: `tunes` and head, or everything (default: `full` after merged widths)",
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
    "list": "names that the other verbs know",
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
    "list": ("kind",),
}
"""The arguments of each verb, in order; everything else is a flag."""

METAVAR = {
    "path": "BUNDLE",
    "data": "DATA",
    "files": "FILE...",
    "plan": "PLAN",
    "name": "BUNDLE|NAME",
    "kind": "models|methods|tasks|recipes",
}
INSPECTED = "BUNDLE|PLAN|NAME|DATA"
"""What `inspect` takes where the others take a model."""
