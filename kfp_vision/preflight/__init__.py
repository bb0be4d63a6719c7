"""The checks before a run: the fields of the form, and everything outside that the run depends on."""
