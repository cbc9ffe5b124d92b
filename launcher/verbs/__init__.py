"""One file a verb of the command line: `add_arguments(parser)`, `run(args) -> exit code`; its docstring's first line is the help."""
