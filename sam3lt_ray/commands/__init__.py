"""One module per group of subcommands: read options, call one function, print its answer."""
