"""What ``ssm --help`` says of our own commands, so that it need not load them."""

COMMANDS = {
    "train": ("Runs", "Train a model; prints the path of its run folder."),
    "eval": ("Runs", "Measure a trained run on a split, also under other task settings."),
    "predict": ("Runs", "Ask a trained run about rows of your own."),
    "compare": ("Runs", "Put runs side by side: metrics over seeds, parameters, time."),
    "report": ("Runs", "Write runs into one page of HTML: comparison, results, pictures, settings, data."),
    "study": ("Runs", "Run a study: all its models and seeds, side by side, and what they say."),
    "probe": ("Runs", "Look into a trained model with a probe."),
    "cite": ("Runs", "Print the BibTeX entries of the parts of a run."),
    "list": ("Plugins", "List what is installed: backbones, add-ons, tasks, recipes and more."),
    "show": ("Plugins", "Show one plugin: its knobs, defaults, paper and abilities."),
    "new": ("Plugins", "Write a working third-party package to begin from."),
    "config": ("Set-up", "Show, check and compare run configurations."),
    "data": ("Set-up", "Make the data of a task, and say what it is."),
    "bench": ("Set-up", "Time an operation or a layer, with its correctness check."),
    "doctor": (
        "Set-up",
        "Say what this machine has, which backends run and which is taken, and which plugins are broken.",
    ),
}
"""Command -> (panel of the help page, first sentence of its help)."""

OTHERS = "From other packages"
"""Panel of third-party commands."""
