"""One file a verb: `add_arguments(parser)`, `run(args) -> exit code`; its docstring's first line is the help."""
