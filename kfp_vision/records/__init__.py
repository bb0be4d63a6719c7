"""TFRecord files: conversion, reading, statistics."""

from kfp_vision.core.former_names import forward

__getattr__ = forward(__name__, {"read": "kfp_vision.records.records_folder.read_examples"})
