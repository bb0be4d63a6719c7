"""The fields of `advanced`: names, types, defaults and rules."""

STORE_WAIT_SECONDS = 600.0  # a stage waits for a store, unless `store_wait_seconds` of advanced or the environment is set
