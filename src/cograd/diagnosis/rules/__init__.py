"""One file per rule: a pure function from a log to findings. Its docstring is the rule's documentation."""
