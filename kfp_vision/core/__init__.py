"""Errors, and what the process runs on: hardware, threads, subprocesses."""
