"""The scripts here are run by the tests, and are no tests themselves."""

collect_ignore = ["correct", "faulty"]
