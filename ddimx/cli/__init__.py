"""The command line: thin verbs that parse, call and print. Nothing here imports torch early."""
