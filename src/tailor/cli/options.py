"""What each flag means, once for all verbs: the same word means the same thing everywhere."""

HELP = {
    "accuracy": "the cheapest route that reaches this share, where `--evaluate-routes` measured them",
    "against": "measure this bundle or model in the same run, in turns, and print the ratio",
    "base": "where the stitching layers' start lies, or is to lie, for several tasks of one family",
    "batch": "images a forward pass (default: the protocol's)",
    "batch_size": "images a step, over all processes (default of training: 64)",
    "channels_last": "hold the channels of a pixel side by side before measuring",
    "corrupt": "what to do with unreadable images",
    "data": "a folder of class folders, a CSV, `hfds/NAME`, `vtab/TASK@ROOT`, `fgvc/TASK@ROOT` or `builtin/digits`",
    "decoder": "what makes masks or boxes (`tailor list decoders`; of several with commas a bundle each)",
    "device": "where to compute: `cpu`, `cuda`, `mps` (default: what Accelerate finds)",
    "epochs": "passes over the training images (default: 100)",
    "download": "fetch what the bundle's backbone lacks on this machine; without it, that is only named",
    "evaluate_routes": "measure accuracy and milliseconds of every route at the end",
    "exports": "export the model to every format, hold it against each, and show the result",
    "flip": "of masks: look at the mirrored image as well",
    "fold": "fold batch norms, and layer norms' weights, into the layers beside them before measuring",
    "groups": "the axes that `prune` can shrink, by group, and those that it cannot, with the reason",
    "image_size": "pixels a side, other than the backbone's own",
    "intervals": "intervals of cost, each of which deploys one route",
    "latency": "milliseconds that may remain, batch 1, measured here: `5ms`",
    "init": "a bundle of the same task whose training goes on, instead of `--model` and `--method`",
    "int8": "compute in 8-bit integers (ONNX): calibrated on train, compared on val before the file is kept",
    "tolerance": "how much of the leading metric on val integers may lose: 0.02 are two in a hundred images",
    "kind": "`routes` through several anchors, or `nested` sizes of exactly one",
    "log_with": "trackers that hear of the training, with commas: `tensorboard`, `wandb`",
    "longest": "of instructions, the tokens of an example that are kept",
    "lr": "peak learning rate (default: 1e-3)",
    "macs": "MACs that may remain: `50%` of the dearest route, or `2G`",
    "method": "how (`--method NAME --help`: what it takes; `tailor list methods`: all); of adapt several with commas",
    "mode": "`esta`, `uniform` draws (both low-rank), or `sn-net`: everything trains, one route a step",
    "model": "the backbone by its timm name, `hf-hub:...`, `local-dir:...`, `tailor_mini_s`, or a bundle",
    "models": "the anchors with commas, by name or as bundles, of one family",
    "out": "where to write",
    "overwrite": "replace what an earlier run left in the output",
    "packing": "of instructions, short examples share a row",
    "pattern": "only names that match, for instance `vit_*`",
    "plan_only": "write the plan and train nothing",
    "probabilities": "end the exported model in a softmax",
    "protocol": "how to measure: `quick`, or a paper's (`sls`: batch 64 x 100, `isomorphic`: 20 + 100)",
    "quick": "be done in under 30 seconds",
    "ranks": "of the anchors' low-rank updates, the smallest anchor first: `32,16,8`",
    "resume": "continue an interrupted run; starts where there is none",
    "retrain": "after the cut: `1clr` the full schedule again, `ft` a constant 1e-5, `tfs` from fresh tunes",
    "route": "a route by its name, `0.6-1.7`",
    "runtime": "what carries the models out: PyTorch as it is, `torch.compile` (needs a C++ compiler), or ONNX Runtime",
    "samples": "images that the stitching layers' start is solved on",
    "scales": "of masks: sizes to look at, relative to the model's, with commas: `0.75,1,1.25`; their mean decides",
    "seed": "seed of everything random (of `fit`: the plan's)",
    "ssb": "where every route has a bias of its own: `qkv,proj`, the cheap `q,proj`, or `none`",
    "task": "what the head is for, where the data do not say it: `tailor list tasks`",
    "teacher": "learn from this as well: a bundle of the same classes (its features too, by the recipe's `distil`), or "
    "another backbone by name, whose own classifier has as many classes",
    "top_k": "how many of the likeliest classes are named",
    "train": "what retraining trains: `tunes` and head, or everything (default: `full` after merged widths)",
    "unmerged": "measure the tunes as modules of their own, not folded into the layers",
    "weights": "`pretrained`, `random`, or a checkpoint file",
    "window": "how far apart two blocks may be that are joined, in equally deep anchors",
    "windows": "of masks: read what is larger than the model's input in overlapping pieces of that size",
    "workers": "processes that decode images",
}

SUMMARY = {
    "adapt": "plan what to tune, train it, write a bundle",
    "fit": "train what a plan, read and edited, says",
    "prune": "make a bundle or a backbone smaller",
    "stitch": "train a palette of routes through a family of backbones",
    "pick": "one route of a palette becomes an ordinary bundle",
    "evaluate": "accuracy of a bundle on data",
    "predict": "labels for files, folders and globs",
    "inspect": "what is in a bundle, a plan, a backbone, data",
    "report": "one page of what a run measured, or of several side by side",
    "bench": "MACs, latency, throughput, memory, measured here",
    "merge": "fold the tunes into the stock model",
    "export": "ONNX, torch.export, or peft's layout",
    "list": "names that the other verbs know",
}
"""One line a verb for `tailor --help`."""

SELDOM = (
    "train",
    "weights",
    "download",
    "image_size",
    "init",
    "decoder",
    "teacher",
    "plan_only",
    "corrupt",
    "workers",
    "device",
    "log_with",
    "print_config",
    "debug",
)
"""What help names last: a first run needs none of it."""

SHORT = {"out": "-o"}

RENAMED = {("bench", "--compile"): "--runtime compile"}
"""Flags of earlier versions, by verb, and what they are called now."""

POSITIONAL = {
    "adapt": ("data",),
    "fit": ("plan",),
    "evaluate": ("path", "data"),
    "predict": ("path", "files"),
    "inspect": ("name",),
    "prune": ("name",),
    "stitch": ("data",),
    "pick": ("path",),
    "report": ("path", "others"),
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
    "others": "[OTHER]...",
    "plan": "PLAN",
    "name": "BUNDLE|NAME",
    "kind": "models|methods|tasks|decoders|recipes",
}
INSPECTED = "BUNDLE|PLAN|NAME|DATA"
"""What `inspect` takes where the others take a model."""
